//! A subscriber's socket: where it connects from, how it is opened, asked for a stream, and read.

use crate::http::Target;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// An address has 28,232 ports by default (net.ipv4.ip_local_port_range); some are left for others.
const CONNECTIONS_PER_ADDRESS: usize = 25_000;
/// The kernel looks for a free port longer the more are taken: 15,000 connections from one address cost 102 us each,
/// from three 16.
const CONNECTIONS_PER_LOOPBACK: usize = 5_000;
/// Room for a subscriber that shall fall behind at once. The kernel gives twice as much, and not less than it needs.
const STALLED_BUFFER_BYTES: usize = 4 * 1024;

/// Local addresses to connect from: one has ports for some 28,000 connections to a server, and no more.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// In turn, `per_address` connections each; `None` leaves the choice to the kernel.
    addresses: Vec<Option<IpAddr>>,
    per_address: usize,
}

impl Sources {
    /// Takes for `count` connections to `target` the `given` addresses, or as many of this machine's as are needed. The
    /// error is one line for the person who gave them.
    pub(crate) fn of_flags(
        given: &[IpAddr],
        per_address: Option<usize>,
        target: &Target,
        count: usize,
    ) -> Result<Sources, String> {
        let many_addresses =
            given.is_empty() && target.address.is_ipv4() && target.address.ip().is_loopback();
        let default = if many_addresses { CONNECTIONS_PER_LOOPBACK } else { CONNECTIONS_PER_ADDRESS };
        let per_address = per_address.unwrap_or(default);
        let needed = count.div_ceil(per_address);
        let addresses: Vec<_> = match given {
            [] if needed == 1 => vec![None],
            [] if many_addresses && needed <= 65_000 => {
                let others = (2..).map(|host: u32| Some(IpAddr::from((0x7f00_0000 | host).to_be_bytes())));
                [None].into_iter().chain(others).take(needed).collect()
            }
            _ => given.iter().copied().map(Some).collect(),
        };
        if addresses.len() < needed {
            return Err(format!(
                "--subscribers {count} need {needed} local addresses of {per_address} connections each and there are {}; \
                 give more with --source-address",
                addresses.len().max(1)
            ));
        }
        if addresses.iter().flatten().any(|source| source.is_ipv4() != target.address.is_ipv4()) {
            return Err("--source-address must be of the server's kind, IPv4 or IPv6".to_owned());
        }
        // Given more addresses than needed, use all of them alike.
        let per_address = count.div_ceil(addresses.len());
        Ok(Sources { addresses, per_address })
    }

    /// Returns where subscriber number `index` connects from.
    pub(crate) fn of(&self, index: usize) -> Option<IpAddr> {
        self.addresses.get(index / self.per_address).copied().flatten()
    }
}

/// Begins to connect, from `source` if given; tells whether the connection is there already, as on loopback it mostly is.
/// A socket that will not be read gets little room.
pub(crate) fn begin_connect(
    server: SocketAddr,
    source: Option<IpAddr>,
    stalled: bool,
) -> Result<(TcpStream, bool), String> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(server), kind, Some(Protocol::TCP)).map_err(|error| {
        format!("no socket ({error}); raise the file limit (ulimit -n) or lower --subscribers")
    })?;
    if let Some(source) = source {
        // The port is chosen by the connect, for this server alone. Chosen by the bind it would be taken from all
        // others too, for a minute after the end as well. Without the option (before Linux 4.2) it must do so.
        let _ = setsockopt(&socket, IpBindAddressNoPort, &true);
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| {
            format!("cannot connect from {source} ({error}); give an address of this machine")
        })?;
    }
    if stalled {
        // As good as it can be had: without it more is sent before the server notices.
        let _ = socket.set_recv_buffer_size(STALLED_BUFFER_BYTES);
    }
    let connected = match socket.connect(&server.into()) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => false,
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            return Err(
                "no local port is left; add --source-address or lower --connections-per-address".to_owned()
            );
        }
        Err(error) => return Err(unreachable(server, &error)),
    };
    Ok((socket.into(), connected))
}

/// Sends the whole request, once the connect is done.
pub(crate) fn send_request(mut socket: &TcpStream, server: SocketAddr, request: &[u8]) -> Result<(), String> {
    if let Some(error) = socket.take_error().unwrap_or_else(Some) {
        return Err(unreachable(server, &error));
    }
    // A new socket's buffer takes any request of sane length at once.
    match socket.write(request) {
        Ok(sent) if sent == request.len() => Ok(()),
        Ok(_) => Err("the request is too long to be sent at once; send fewer or shorter headers".to_owned()),
        Err(error) => Err(format!("the request could not be sent: {error}")),
    }
}

/// Reads once. `None` when nothing was there after all; an error when the connection is over.
pub(crate) fn read<'b>(mut socket: &TcpStream, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, String> {
    match socket.read(buffer) {
        Ok(0) => Err("the server closed the connection".to_owned()),
        Ok(bytes) => Ok(buffer.get(..bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(format!("the connection broke ({error})")),
    }
}

fn unreachable(server: SocketAddr, error: &std::io::Error) -> String {
    format!("cannot connect to {server} ({error}); is the server running and listening there?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loopback_address_is_never_asked_for_more_than_it_holds() {
        let target = Target::resolve("http://127.0.0.1:3000").unwrap();
        let sources = Sources::of_flags(&[], Some(100), &target, 250).unwrap();
        let from: Vec<_> = (0..250).map(|index| sources.of(index)).collect();
        assert_eq!((from[0], from[83]), (None, None));
        assert_eq!((from[84], from[249]), (Some([127, 0, 0, 2].into()), Some([127, 0, 0, 3].into())));
        for address in [None, from[84], from[249]] {
            assert!(from.iter().filter(|of| **of == address).count() <= 100);
        }
    }
}
