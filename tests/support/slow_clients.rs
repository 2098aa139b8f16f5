//! Clients that stop reading, and what is published past them.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::server::Server;

/// So little that a subscriber that stops reading soon counts as slow, and nothing else ends its stream.
pub(crate) const STALLING: [&str; 10] = [
    "--slow-lag",
    "1MiB",
    "--body-max",
    "128KiB",
    "--history-memory",
    "4MiB",
    "--send-timeout",
    "1h",
    "--heartbeat",
    "1h",
];

/// Subscribes, reads the head and nothing behind it. The window is small, but not so small that the kernel sends by its
/// timers alone when reading goes on.
pub(crate) fn stall(server: &Server, target: &str) -> TcpStream {
    let mut connection = server.connect();
    socket2::SockRef::from(&connection).set_recv_buffer_size(128 << 10).unwrap();
    write!(connection, "GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    connection
}

/// Reads into `bytes` until `text` has come.
pub(crate) fn read_until(connection: &mut TcpStream, bytes: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // It may lie across two reads.
        let start = bytes.len().saturating_sub(text.len());
        bytes.extend_from_slice(&buffer[..read]);
        if bytes[start..].windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(());
        }
    }
}

/// An event of about `bytes` that says its number.
pub(crate) fn numbered(number: usize, bytes: usize) -> String {
    format!("data: {number} {}", "x".repeat(bytes))
}

/// The number in [`numbered`] data.
pub(crate) fn number(data: &str) -> usize {
    data.split(' ').next().unwrap().parse().unwrap()
}
