//! Helpers of the examples beside the broker: a page to watch it in, the time, and errors that can be read.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns what the process ends with, after it has said the error in one line. `main` returning the error would print
/// it as Rust's `Debug` writes it.
pub(crate) fn exit_code(ended: Result<(), Box<dyn Error>>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every request on this port of localhost with this page, on a thread of its own.
///
/// The page is of another origin than the broker, as pages mostly are; the broker lets it subscribe, because
/// its CORS origins are `*` where nothing else is said.
pub(crate) fn serve(port: u16, html: &'static str) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| format!("cannot serve the page on port {port}: {error}; free that port"))?;
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Browsers open connections ahead and leave them idle: none may keep the next one waiting.
            thread::spawn(move || answer(connection, html));
        }
    });
    Ok(())
}

/// The time of day in UTC, such as `3:04:05 pm (UTC)`.
pub(crate) fn time_of_day() -> String {
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (hour, minute, second) = (unix_s / 3600 % 24, unix_s / 60 % 60, unix_s % 60);
    let half = if hour < 12 { "am" } else { "pm" };
    format!("{}:{minute:02}:{second:02} {half} (UTC)", (hour + 11) % 12 + 1)
}

fn answer(mut connection: TcpStream, html: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 << 10 {
        match connection.read(&mut part)? {
            0 => return Ok(()),
            bytes => head.extend_from_slice(&part[..bytes]),
        }
    }
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-cache\r\nConnection: close\r\n\r\n{html}",
        html.len(),
    )
}
