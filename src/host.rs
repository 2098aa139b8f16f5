//! Asks the kernel for what a server needs: open files, a ring, and listeners.

pub(crate) mod socket_file;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::IoUring;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::config::all_of_ipv4;

/// Descriptors of each shard that are not connections: its ring, three of its runtime, two of the set that watches streams,
/// two listeners and their second handles.
const FILES_PER_SHARD: u64 = 10;
/// Listeners that these are enough for, and what each further one takes.
const LISTENERS_OF_SHARD: u64 = 2;
const FILES_PER_LISTENER: u64 = 2;
/// Descriptors that are neither of a shard nor of a subscriber: standard streams, files, RabbitMQ, requests.
const FILES_BESIDE: u64 = 64;
/// The most descriptors that the table is made for in advance. Each takes 8 bytes of the kernel's memory.
const FILE_TABLE_MAX: u64 = 65_536;
/// The longest that a start waits for an address that is in use. When a process is killed, the kernel closes its
/// listeners only after it has ended the operations of its rings, which takes some milliseconds, and a tenth of a
/// second on a busy machine.
const TAKEN_WAIT: Duration = Duration::from_secs(1);
const TAKEN_PAUSE: Duration = Duration::from_millis(20);
/// The most connections that may wait to be accepted; `net.core.somaxconn` may be less.
const BACKLOG: i32 = 65_535;
/// The kernel's send buffer of each connection. Without this bound it grows to megabytes, which a stalled client would
/// hold.
pub(crate) const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The longest TCP_USER_TIMEOUT that the kernel accepts.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// The longest times of TCP keepalive that the kernel accepts. They are whole seconds, and at least one.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// Returns how many files may be open. With `raise` the soft limit is raised to the hard one before.
pub(crate) fn file_limit(raise: bool) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if !raise {
        return limit.current.unwrap_or(u64::MAX);
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}

/// Has the kernel make the process's table of descriptors as long at once as `files` need it, up to [`FILE_TABLE_MAX`].
///
/// Otherwise it grows by doubling, and a thread that opens a file then waits until every CPU has seen the new table
/// (`expand_fdtable` in Linux's fs/file.c): the shard that accepted the 256th, 512th, ... 8,192nd connection stood still for
/// 10 to 30 ms each time.
///
/// # Errors
/// The kernel's, when no descriptor or no memory is left.
pub(crate) fn grow_file_table(files: u64) -> io::Result<()> {
    let (any, _) = io::pipe()?;
    let last = files.min(FILE_TABLE_MAX).saturating_sub(1);
    fcntl_dupfd_cloexec(&any, last as RawFd)?;
    Ok(())
}

/// Returns how many subscribers a file limit allows.
pub(crate) fn subscribers_allowed(files: u64, shards: usize, listeners: usize) -> usize {
    usize::try_from(files.saturating_sub(files_beside(shards, listeners))).unwrap_or(usize::MAX)
}

/// Returns how many open files the server needs beside its subscribers', when each shard has this many listeners.
pub(crate) fn files_beside(shards: usize, listeners: usize) -> u64 {
    FILES_BESIDE + files_per_shard(listeners) * shards as u64
}

/// Returns how many of them are a shard's.
pub(crate) fn files_per_shard(listeners: usize) -> u64 {
    let further = (listeners as u64).saturating_sub(LISTENERS_OF_SHARD);
    FILES_PER_SHARD + FILES_PER_LISTENER * further
}

/// Sets up a ring and submits to it. tokio-uring ignores a failed submit, so a sandbox that forbids only
/// `io_uring_enter` would go unnoticed.
///
/// # Errors
/// The kernel's error.
pub(crate) fn try_ring() -> io::Result<()> {
    IoUring::new(1)?.submit().map(drop)
}

/// Options of a listener, which accepted connections inherit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// How long sent data may stay unacknowledged before the connection ends. Two heartbeats; the kernel's default is a
    /// quarter of an hour.
    pub(crate) user_timeout: Duration,
    /// Whether the kernel probes silent peers, in place of heartbeats.
    pub(crate) keepalive: bool,
    /// Set if an address of IPv6 leaves those of IPv4 to others.
    pub(crate) only_v6: bool,
}

/// Opens one listener for each shard on the same address; returns the address, in which port 0 has become the chosen
/// port. Waits up to a second for an address that is in use.
///
/// `exclusive` refuses an address on which another process listens, even with `SO_REUSEPORT`: connections would be
/// split between the two processes.
pub(crate) fn listen(
    address: SocketAddr,
    shards: usize,
    options: SocketOptions,
    exclusive: bool,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    while_taken(|| match try_listen(address, shards, options, exclusive) {
        // As in Go: a kernel without IPv6 has all addresses, too.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => {
            match all_of_ipv4(address) {
                Some(address) => try_listen(address, shards, options, exclusive),
                None => Err(error),
            }
        }
        listening => listening,
    })
}

/// Tries to listen until the address is not in use, a second at most.
fn while_taken<T>(mut listen: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match listen() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < TAKEN_WAIT => {
                thread::sleep(TAKEN_PAUSE);
            }
            listening => return listening,
        }
    }
}

fn try_listen(
    address: SocketAddr,
    shards: usize,
    options: SocketOptions,
    exclusive: bool,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = socket(address, options)?;
    // Binding without SO_REUSEPORT fails where anybody listens. The option is set afterwards so that the next ones can
    // join.
    first.set_reuse_port(!exclusive)?;
    let first = bound(first, address)?;
    first.set_reuse_port(true)?;
    let mut listeners = vec![TcpListener::from(first)];
    let address = listeners[0].local_addr()?;
    for _ in 1..shards {
        let next = socket(address, options)?;
        next.set_reuse_port(true)?;
        listeners.push(bound(next, address)?.into());
    }
    Ok((address, listeners))
}

fn socket(address: SocketAddr, options: SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it connections of an earlier run in TIME_WAIT would keep the address in use.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    set_options(&SockRef::from(&socket), options)?;
    Ok(socket)
}

/// Sets what accepted connections inherit from a listener.
pub(crate) fn set_options(socket: &SockRef<'_>, options: SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout.min(USER_TIMEOUT_MAX)))?;
    if options.keepalive {
        let seconds = |time: Duration| time.clamp(Duration::from_secs(1), KEEPALIVE_MAX);
        let (time, interval) = (seconds(options.user_timeout), seconds(options.user_timeout / 3));
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

fn bound(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Returns the machine's name; empty if it has none that can be read.
pub(crate) fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const OPTIONS: SocketOptions =
        SocketOptions { user_timeout: Duration::from_secs(30), keepalive: true, only_v6: false };

    #[test]
    fn an_address_that_is_listened_on_is_refused_unless_it_is_taken_over() {
        let (address, _listeners) = listen("127.0.0.1:0".parse().unwrap(), 2, OPTIONS, true).unwrap();
        let error = listen(address, 1, OPTIONS, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(listen(address, 1, OPTIONS, false).unwrap().0, address);
    }

    #[test]
    fn every_listener_gets_connections() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            for count in [2, 4] {
                for exclusive in [true, false] {
                    let (address, listeners) =
                        listen(host.parse().unwrap(), count, OPTIONS, exclusive).unwrap();
                    listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
                    // The kernel picks a listener by a hash of the client's port: a thousand ports reach every one.
                    let mut without: Vec<_> = listeners.iter().collect();
                    for _ in 0..1000 {
                        let client = std::net::TcpStream::connect(address).unwrap();
                        without.retain(|listener| listener.accept().is_err());
                        drop(client);
                        if without.is_empty() {
                            break;
                        }
                    }
                    assert!(without.is_empty(), "{} of {count} at {host} get none", without.len());
                }
            }
        }
    }

    #[test]
    fn an_address_that_becomes_free_within_the_wait_is_taken() {
        let former = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = former.local_addr().unwrap();
        let ending = thread::spawn(move || {
            thread::sleep(TAKEN_WAIT / 10);
            drop(former);
        });
        assert_eq!(listen(address, 2, OPTIONS, true).unwrap().0, address);
        ending.join().unwrap();
    }

    #[test]
    fn of_several_that_start_at_the_same_time_no_two_have_the_address() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for _ in 0..500 {
            let barrier = Barrier::new(4);
            let start = || {
                barrier.wait();
                try_listen(address, 2, OPTIONS, true)
            };
            let tried: Vec<_> = thread::scope(|scope| {
                let starting: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                starting.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(tried.iter().filter(|listening| listening.is_ok()).count() < 2, "{tried:?}");
        }
    }

    #[test]
    fn the_table_of_descriptors_is_as_long_as_the_file_limit_asks_for() {
        let limit = file_limit(false);
        grow_file_table(limit).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        let size: u64 = size.trim().parse().unwrap();
        assert!(size >= limit.min(FILE_TABLE_MAX), "{size} of {limit}");
        assert_eq!(grow_file_table(limit.saturating_add(1)).is_err(), limit < FILE_TABLE_MAX);
    }

    #[test]
    fn the_file_limit_leaves_room_for_what_is_no_subscriber() {
        assert_eq!(subscribers_allowed(20_000, 2, 1), 20_000 - 64 - 20);
        assert_eq!(subscribers_allowed(20_000, 2, 2), 20_000 - 64 - 20);
        assert_eq!(subscribers_allowed(20_000, 2, 5), 20_000 - 64 - 2 * 16);
        assert_eq!(subscribers_allowed(10, 2, 2), 0);
    }
}
