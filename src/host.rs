//! What the machine allows: how many files may be open, and which sockets may be listened on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// Descriptors for what is no connection: standard streams, rings, listeners and their wake-ups.
const FILES_PER_SHARD: u64 = 8;
const FILES_BESIDE: u64 = 64;
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
    let beside = FILES_BESIDE + FILES_PER_SHARD * shards as u64;
    usize::try_from(files.saturating_sub(beside)).unwrap_or(usize::MAX)
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

/// Opens one listener per shard on the same address; port 0 takes a free one. With `exclusive`, an address
/// that another process listens on is refused, though it shares its port: `SO_REUSEPORT` alone would split
/// the connections between the two.
pub(crate) fn listen(
    address: SocketAddr,
    shards: usize,
    options: SocketOptions,
    exclusive: bool,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if exclusive && address.port() != 0 {
        let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of a former run that linger in TIME_WAIT are no reason to refuse.
        probe.set_reuse_address(true)?;
        probe.bind(&SockAddr::from(address))?;
        probe.listen(1)?;
    }
    let first = listener(address, options)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(listener(address, options)?);
    }
    Ok((address, listeners))
}

fn listener(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout.min(USER_TIMEOUT_MAX)))?;
    if options.keepalive {
        let seconds = |time: Duration| time.clamp(Duration::from_secs(1), KEEPALIVE_MAX);
        let (time, interval) = (seconds(options.user_timeout), seconds(options.user_timeout / 3));
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: SocketOptions = SocketOptions { user_timeout: Duration::from_secs(30), keepalive: true };

    #[test]
    fn an_address_that_is_listened_on_is_refused_unless_it_is_taken_over() {
        let (address, _listeners) = listen("127.0.0.1:0".parse().unwrap(), 2, OPTIONS, true).unwrap();
        let error = listen(address, 1, OPTIONS, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(listen(address, 1, OPTIONS, false).unwrap().0, address);
    }

    #[test]
    fn the_file_limit_leaves_room_for_what_is_no_subscriber() {
        assert_eq!(subscribers_allowed(20_000, 2), 20_000 - 64 - 16);
        assert_eq!(subscribers_allowed(10, 2), 0);
    }
}
