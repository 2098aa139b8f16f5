//! A subscriber's socket: how it is opened, asked for a stream, and read.

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Room for a subscriber that shall fall behind at once. The kernel gives twice as much, and not less than it needs.
const STALLED_BUFFER_BYTES: usize = 4 * 1024;

/// Begins to connect, from `source` if given; tells whether the connection is there already, as on loopback it mostly is.
/// A socket that will not be read gets little room.
pub(crate) fn begin_connect(
    server: SocketAddr,
    source: Option<SocketAddr>,
    stalled: bool,
) -> Result<(TcpStream, bool), String> {
    let socket =
        Socket::new(Domain::for_address(server), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
            .map_err(|error| {
            format!("no socket ({error}); raise the file limit (ulimit -n) or lower --subscribers")
        })?;
    if let Some(source) = source {
        // The port is chosen by the connect, for this server alone. Chosen by the bind it would be taken from all
        // others too, for a minute after the end as well. Without the option (before Linux 4.2) it must do so.
        let _ = setsockopt(&socket, IpBindAddressNoPort, &true);
        socket.bind(&source.into()).map_err(|error| {
            format!("cannot connect from {} ({error}); give an address of this machine", source.ip())
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
