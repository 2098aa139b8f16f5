//! The least there is to it: a broker in a program, and the time of day every second on the topic `time`.
//!
//! `cargo run --release --example clock`, and open <http://localhost:8002>.

mod page;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use esper::{Event, Server};

fn main() -> ExitCode {
    page::exit_code(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().port(8001).namespaces(true).start()?;
    page::serve(8002, include_str!("clock.html"))?;
    println!("watch it at http://localhost:8002, or by: curl -N http://localhost:8001/subscribe/time");

    let publisher = server.publisher();
    loop {
        if let Err(error) = publisher.publish("time", Event::data(page::time_of_day())) {
            eprintln!("not published: {error}");
        }
        thread::sleep(Duration::from_secs(1));
    }
}
