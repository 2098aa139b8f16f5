//! What the machine allows: how many files may be open, and which sockets may be listened on.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::IoUring;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// Descriptors for what is no connection: standard streams, rings, listeners and their wake-ups.
pub(crate) const FILES_PER_SHARD: u64 = 8;
const FILES_BESIDE: u64 = 64;
/// How long an address that is taken is waited for. The kernel ends what a killed process had under way in a ring after
/// the process, and with it the listener: some milliseconds, on a busy machine a tenth of a second.
const TAKEN_WAIT: Duration = Duration::from_secs(1);
const TAKEN_PAUSE: Duration = Duration::from_millis(20);
/// Connections the kernel holds until they are accepted; it takes `net.core.somaxconn` when that is less.
const BACKLOG: i32 = 65_535;
/// The kernel's buffer per subscriber. Left to itself it grows to megabytes, and a stalled client would hold
/// them.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The longest the kernel takes for TCP_USER_TIMEOUT: `i32::MAX` milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// And for the times of TCP keepalive, which are in whole seconds, 0 being none.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// How many files may be open, once the soft limit is raised to the hard one if that is asked for.
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

/// How many subscribers a file limit has room for.
pub(crate) fn subscribers_allowed(files: u64, shards: usize) -> usize {
    usize::try_from(files.saturating_sub(files_beside(shards))).unwrap_or(usize::MAX)
}

/// How many open files are not for subscribers.
pub(crate) fn files_beside(shards: usize) -> u64 {
    FILES_BESIDE + FILES_PER_SHARD * shards as u64
}

/// Sets up a ring and enters it, because what forbids the second alone goes unnoticed: tokio-uring does not tell when
/// the kernel takes no operations.
///
/// # Errors
/// The kernel's own.
pub(crate) fn try_ring() -> io::Result<()> {
    IoUring::new(1)?.submit().map(drop)
}

/// What accepted connections inherit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// Data the peer does not acknowledge for so long ends the connection: noticed in two heartbeats, not in
    /// a quarter of an hour.
    pub(crate) user_timeout: Duration,
    /// Without heartbeats the kernel asks silent peers itself.
    pub(crate) keepalive: bool,
}

/// Opens one listener per shard on the same address, once it is free, within a second; port 0 takes a free one. With
/// `exclusive`, an address that another process listens on is refused, though it shares its port: `SO_REUSEPORT` alone
/// would split the connections between the two.
pub(crate) fn listen(
    address: SocketAddr,
    shards: usize,
    options: SocketOptions,
    exclusive: bool,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let start = Instant::now();
    loop {
        match try_listen(address, shards, options, exclusive) {
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
    // The first is bound while it shares with nobody, and then shares with the others.
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
    // Connections of a former run that linger in TIME_WAIT are no reason to refuse.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout.min(USER_TIMEOUT_MAX)))?;
    if options.keepalive {
        let seconds = |time: Duration| time.clamp(Duration::from_secs(1), KEEPALIVE_MAX);
        let (time, interval) = (seconds(options.user_timeout), seconds(options.user_timeout / 3));
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(socket)
}

fn bound(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const OPTIONS: SocketOptions = SocketOptions { user_timeout: Duration::from_secs(30), keepalive: true };

    #[test]
    fn an_address_that_is_listened_on_is_refused_unless_it_is_taken_over() {
        let (address, _listeners) = listen("127.0.0.1:0".parse().unwrap(), 2, OPTIONS, true).unwrap();
        let error = listen(address, 1, OPTIONS, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(listen(address, 1, OPTIONS, false).unwrap().0, address);
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
    fn the_file_limit_leaves_room_for_what_is_no_subscriber() {
        assert_eq!(subscribers_allowed(20_000, 2), 20_000 - 64 - 16);
        assert_eq!(subscribers_allowed(10, 2), 0);
    }
}
