//! The guide's commands of queues, run as they stand there.

use serde_json::Value;

use super::rabbitmq::url;
use crate::guide::GUIDE;
use crate::readme::{Background, bash, block, fence};
use crate::support::{Server, esper, wait_until};

#[test]
fn the_three_commands_of_a_queue_print_what_the_guide_shows() {
    // A broker that outlives the tests may have messages of an earlier run for alice.
    let script = block(GUIDE, "queues").replace("alice", &format!("readme-{}", std::process::id()));
    let script = script.replace("amqp://guest:guest@127.0.0.1:5672", url().trim_end_matches('/'));
    let [start, subscribe, publish] = script.lines().collect::<Vec<_>>().try_into().expect("three");
    let start = start.replace("--port 2069", "--port 0");
    let flags = start.strip_prefix("esper ").and_then(|line| line.strip_suffix(" &")).unwrap();
    let server = Server::spawn(esper(&flags.split(' ').collect::<Vec<_>>(), &[]));
    let vars = || serde_json::from_str::<Value>(&server.get("/debug/vars").body).unwrap();
    let is = |group: &str, name: &str| vars()["eventsourced"][group][name] == 1;
    wait_until("the broker is connected", || is("Broker", "Connected"));

    let subscribe = subscribe.strip_suffix(" &").unwrap();
    let subscriber = Background::start(&subscribe.replace("127.0.0.1:2069", &server.address.to_string()));
    wait_until("the queue is open", || is("Consumer", "Open"));
    bash(publish, &[]);
    // What it begins with has an id that nobody can guess.
    let message = |text: &str| {
        let rest = text.strip_prefix(": SSE stream\nretry:")?;
        rest.split_once("\n\n")
            .map(|(_, message)| message.trim_end().to_owned())
            .filter(|text| !text.is_empty())
    };
    let shown = message(fence(GUIDE, "The second command prints"));
    assert!(shown.is_some());
    wait_until("curl prints the message", || message(&subscriber.printed()) == shown);
    assert!(is("Delivery", "Delivered"));
}
