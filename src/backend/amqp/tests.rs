//! Brokers that are not reachable, say nothing, or send what they should not. RabbitMQ itself is tested from outside.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;

use super::AmqpBroker;
use super::frames::tests::{frame, short};
use super::link::{AmqpLink, close};
use crate::backend::tests::{TestNode, config_at};

const NOWHERE: &str = "amqp://guest:hunter2@127.0.0.1:9/";

/// Returns a long string of AMQP: its length in four bytes, and the text.
fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

#[test]
fn without_any_broker_clients_are_refused_at_once_and_say_why() {
    let node = TestNode::start_with(AmqpBroker::new, config_at(NOWHERE));
    assert_eq!(node.refusal(), "no broker is reachable; try again later");
    assert_eq!((node.stats().brokers_configured.value(), node.stats().brokers_connected.value()), (1, 0));
}

/// Listens, and never answers.
#[test]
fn a_broker_that_does_not_answer_keeps_nothing_from_stopping() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = TestNode::start_with(
        AmqpBroker::new,
        config_at(&format!("amqp://{}/", silent.local_addr().unwrap())),
    );
    let _connection = silent.accept().unwrap();
    assert_eq!(node.refusal(), "no broker is reachable; try again later");
    node.stop();
}

#[test]
fn credentials_are_in_no_reason() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reason = runtime.block_on(AmqpLink::connect(&NOWHERE.parse().unwrap(), None)).err().unwrap();
    assert!(
        reason.contains("refused") && !reason.contains("hunter2") && !reason.contains("guest:"),
        "{reason}"
    );
}

/// A broker closes a channel while our own close is on its way to it, and answers that one as well.
#[test]
fn closes_that_cross_end_the_channel_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}/", listener.local_addr().unwrap());
    let broker = std::thread::spawn(move || crossing_broker(listener.accept().unwrap().0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let link = Rc::new(
            AmqpLink::connect(&url.parse().unwrap(), None).await.unwrap_or_else(|reason| panic!("{reason}")),
        );
        let lease = Rc::clone(&link).lease();
        for _ in 0..5 {
            let channel = lease.channel().await.unwrap();
            close(&channel).await;
            assert!(!channel.status().connected());
            // The broker answers in order: once the next channel is closed, nothing about this one can still arrive.
            close(&lease.channel().await.unwrap()).await;
            assert!(link.is_connected());
        }
        link.close().await;
    });
    broker.join().unwrap();
}

/// Speaks enough AMQP to connect, and to open and close channels.
fn crossing_broker(mut stream: TcpStream) {
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).unwrap();
    let start = [&[0, 10, 0, 10, 0, 9][..], &long(b""), &long(b"PLAIN"), &long(b"en_US")].concat();
    stream.write_all(&frame(1, 0, &start)).unwrap();
    let mut head = [0; 7];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
        stream.read_exact(&mut payload).unwrap();
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let mut say = |said: &[&[u8]]| stream.write_all(&frame(1, channel, &said.concat())).unwrap();
        match &payload[..4] {
            [0, 10, 0, 11] => say(&[&[0, 10, 0, 30, 7, 255, 0, 2, 0, 0, 0, 60]]),
            [0, 10, 0, 40] => say(&[&[0, 10, 0, 41, 0]]),
            [0, 10, 0, 50] => return say(&[&[0, 10, 0, 51]]),
            [0, 20, 0, 10] => say(&[&[0, 20, 0, 11], &long(b"")]),
            [0, 20, 0, 40] => {
                say(&[&[0, 20, 0, 40, 1, 150], &short(b"PRECONDITION_FAILED"), &[0; 4]]);
                say(&[&[0, 20, 0, 41]]);
            }
            // Tune-ok, close-ok, heartbeats.
            _ => {}
        }
    }
}
