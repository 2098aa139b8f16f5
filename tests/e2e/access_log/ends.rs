//! The reasons for which streams end.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Logged;
use crate::support::sessions::{SECRET, Sessions};
use crate::support::slow_clients::{STALLING, numbered, stall};
use crate::support::tokens::{SUBSCRIBER, bearer, token_for};
use crate::support::{Publisher, Stream, eventually, wait_until};

#[test]
fn a_client_that_leaves_one_that_is_slow_and_one_that_talks() {
    let logged = Logged::start(&STALLING, &[]);
    let server = &logged.server;
    drop(Stream::open(server, "/subscribe/leaving01"));
    assert_eq!(logged.end("/subscribe/leaving01")["reason"], "left");

    let stalled = stall(server, "/subscribe/stalling1");
    let mut publisher = Publisher::new(server);
    eventually("it is cut", || {
        publisher.publish("stalling1", &numbered(1, 64 << 10)).unwrap();
        (server.stats()["evicted"] == 1).then_some(())
    });
    let end = logged.end("/subscribe/stalling1");
    assert_eq!(end["reason"], "slow");
    assert!(end["bytes"].as_u64() > Some(64 << 10) && end["events"].as_u64() > Some(0), "{end}");
    drop(stalled);

    let mut talking = server.connect();
    let request = "GET /subscribe/talking01 HTTP/1.1\r\nHost: h\r\n\r\n";
    talking.write_all(request.as_bytes()).unwrap();
    logged.request("/subscribe/talking01");
    talking.write_all(&[b'x'; 2000]).unwrap();
    assert_eq!(logged.end("/subscribe/talking01")["reason"], "flooded");
}

#[test]
fn a_token_that_expires_a_disconnect_and_the_drain() {
    let variables = [("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER), ("ESPER_SESSION_SECRET", SECRET)];
    let logged = Logged::start(&["--leeway", "0s", "--bind-control", "127.0.0.1:0"], &variables);
    let short = token_for(SUBSCRIBER, "expiring1", Duration::from_secs(2));
    let mut expiring = Stream::open_with(&logged.server, "/subscribe/expiring1", &[&bearer(&short)]);
    assert_eq!(expiring.event().name, "expired");
    assert_eq!(logged.end("/subscribe/expiring1")["reason"], "expired");
    drop(expiring);

    let Logged { server, dir } = logged;
    let sessions = Sessions::of(server);
    let mut stream = sessions.stream("alex", "chat");
    assert_eq!(sessions.disconnect("alex", "chat"), 1);
    assert_eq!(stream.event().name, "disconnected");
    let logged = Logged { server: sessions.server, dir };
    let end = logged.end("/events/");
    assert_eq!((&end["reason"], &end["topics"]), (&"disconnected".into(), &json!(["chat/*", "chat/alex"])));

    let long = token_for(SUBSCRIBER, "draining1", Duration::from_secs(600));
    let mut draining = Stream::open_with(&logged.server, "/subscribe/draining1", &[&bearer(&long)]);
    let Logged { mut server, dir } = logged;
    server.terminate();
    assert!(draining.event().retry.is_some());
    assert_eq!(server.wait().code(), Some(0));
    // All is written before the process ends.
    let text = std::fs::read_to_string(dir.0.join("access.log")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["path"], &last["reason"]), (&"/subscribe/draining1".into(), &"draining".into()));
}

#[test]
fn a_stream_still_open_at_the_last_stop_ended_by_it() {
    let logged = Logged::start(&["--drain-time", "300ms"], &[]);
    let stalled = stall(&logged.server, "/subscribe/stuck0001");
    let mut publisher = Publisher::new(&logged.server);
    for _ in 0..3 {
        publisher.publish("stuck0001", &numbered(1, 900_000)).unwrap();
    }
    let Logged { mut server, dir } = logged;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let text = std::fs::read_to_string(dir.0.join("access.log")).unwrap();
    let end = super::lines(&text).into_iter().find(|line| line["event"] == "stream_end").unwrap();
    assert_eq!(end["reason"], "draining");
    drop(stalled);
}

/// A stream that is refused has one line, that of its request: with `refused`, whatever its status.
#[test]
fn a_stream_that_is_refused_has_one_line() {
    for (flags, status) in [(&[][..], 200), (&["--refuse-streams", "503"], 503)] {
        // Full: of streams, then of topics.
        let full = Logged::start(&[&["--subscribers-max", "1"], flags].concat(), &[]);
        let _stream = Stream::open(&full.server, "/subscribe/refused01");
        assert_eq!(full.server.get("/subscribe/refused02").status, status);
        check(&full, "/subscribe/refused02", status);

        let full = Logged::start(&[&["--topics-max", "1", "--cores", "1"], flags].concat(), &[]);
        let _stream = Stream::open(&full.server, "/subscribe/refused01");
        assert_eq!(full.server.get("/subscribe/refused02").status, status);
        check(&full, "/subscribe/refused02", status);
    }
}

#[track_caller]
fn check(logged: &Logged, path: &str, status: u16) {
    let line = logged.request(path);
    assert_eq!((&line["status"], &line["refused"]), (&status.into(), &true.into()), "{line}");
    assert_eq!(line["topics"], json!(["refused02"]), "{line}");
    assert!(line["bytes"].as_u64() > Some(0), "{line}");
    wait_until("it is gone", || logged.server.stats()["clients"] == 1);
    assert!(logged.lines().iter().all(|line| line["event"] == "request"), "{:?}", logged.lines());
}

#[test]
fn the_queue_of_a_broker_that_is_away_is_refused_without_its_name() {
    let logged = Logged::start(&["--broker-node", "amqp://guest:hunter2@127.0.0.1:1/"], &[]);
    assert!(logged.server.get("/?id=a-secret-name").body.contains("retry:"));
    let line = logged.request("/");
    assert_eq!(
        (&line["kind"], &line["status"], &line["refused"]),
        (&"queue".into(), &200.into(), &true.into())
    );
    let text = std::fs::read_to_string(logged.path()).unwrap();
    assert!(!text.contains("secret") && !text.contains("hunter2"), "{text}");
}

#[test]
fn the_admin_page_and_reports_are_of_one_kind() {
    let logged = Logged::start(&[], &[]);
    drop(Stream::open(&logged.server, "/admin/events"));
    assert_eq!(logged.end("/admin/events")["kind"], "report");
    assert_eq!(logged.server.get("/admin/status.json").status, 200);
    let line = logged.request("/admin/status.json");
    assert_eq!((&line["kind"], &line["status"]), (&"report".into(), &200.into()));
}
