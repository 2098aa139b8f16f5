//! A pet store that says the time: every second on the topic `time`, and whenever pets come in on `pets`.
//!
//! `cargo run --release --example petstore`, and open <http://localhost:8002>.

mod page;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use esper::{Event, Publisher, Server};

fn main() -> ExitCode {
    page::exit_code(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    // Without history there are no ids, and curl prints the events as they are written below.
    let server = Server::builder().port(8001).namespaces(true).history_events(0).start()?;
    page::serve(8002, include_str!("petstore.html"))?;
    println!("watch it at http://localhost:8002, or by: curl -N http://localhost:8001/subscribe/pets");

    let (time, pets) = (server.publisher(), server.publisher());
    thread::spawn(move || tell_time(&time));
    thread::spawn(move || bring_pets(&pets));

    // Returns when the server cannot go on, which is an error.
    Ok(server.watch(Duration::MAX)?)
}

fn tell_time(publisher: &Publisher) {
    loop {
        thread::sleep(Duration::from_secs(1));
        broadcast(publisher, "/time", Event::data(page::time_of_day()));
    }
}

/// The same pets again and again, so that whoever comes late sees them too.
fn bring_pets(publisher: &Publisher) {
    let bring = |name, pet| broadcast(publisher, "/pets", Event::data(pet).name(name));
    loop {
        thread::sleep(Duration::from_secs(5));
        bring("new-dog", "Corgi");
        bring("new-cat", "Persian");
        thread::sleep(Duration::from_secs(1));
        bring("new-dog", "Terrier");
        bring("new-dog", "Dauchsand");
        thread::sleep(Duration::from_secs(2));
        bring("new-cat", "LOLcat");
    }
}

/// Nothing here needs to know when the event was ordered, so the receipt is dropped.
fn broadcast(publisher: &Publisher, topic: &str, event: Event) {
    if let Err(error) = publisher.publish(topic, event) {
        eprintln!("not published to {topic}: {error}");
    }
}
