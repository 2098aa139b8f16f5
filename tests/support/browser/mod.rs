//! Real browsers, a network between it and the server, and pages of other origins.

mod cutter;
mod driver;
mod marionette;
mod webdriver;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

pub(crate) use cutter::Cutter;
pub(crate) use driver::{Browser, Kind};

use super::machine::PATIENCE;

const PAGE: &str = include_str!("../../e2e/pages/subscriber.html");

/// Serves the page from an origin of its own, with this cookie unless it is empty; returns the origin.
pub(crate) fn serve_page(cookie: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let cookie = if cookie.is_empty() { String::new() } else { format!("Set-Cookie: {cookie}\r\n") };
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // Browsers open connections ahead of time and may send nothing on them.
            let cookie = cookie.clone();
            thread::spawn(move || send_page(&connection, &cookie));
        }
    });
    format!("http://{address}")
}

/// Answers a request, whatever it asks for, with the page and with this header field.
fn send_page(mut connection: &TcpStream, field: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let lines = BufReader::new(connection).lines().map_while(Result::ok);
    if lines.take_while(|line| !line.is_empty()).count() > 0 {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
        let length = PAGE.len();
        write!(connection, "{head}{field}Content-Length: {length}\r\n\r\n{PAGE}")?;
    }
    Ok(())
}
