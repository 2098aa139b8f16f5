//! What feeds the admin page, and for whom it is.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, bearer, now_s, token};
use crate::support::{Server, Stream, check_refusal, eventually, wait_until};

#[test]
fn the_status_has_every_connection_and_never_a_token() {
    let server = Server::start_with(&["--namespaces"], BOTH);
    let [reader, insider] = [SUBSCRIBER, PUBLISHER].map(|secret| token(secret, "pets"));
    let before = now_s();
    let path = format!("/subscribe/pets/dogs?token={reader}");
    let mut dogs = Stream::open_with(&server, &path, &["User-Agent: one/1", "X-Forwarded-For: 203.0.113.7"]);
    let path = format!("/subscribe?topic=pets/cats&token={reader}&topic=pets/birds");
    let _both = Stream::open_with(&server, &path, &[]);
    let publish =
        server.request("POST", &format!("/publish/pets/dogs?token={insider}"), &[], "data: 1\n\ndata: 2");
    assert_eq!(publish.status, 200);
    assert_eq!(dogs.event().data, "1");

    let bearer = bearer(&insider);
    let ask = |query: &str| {
        let answer = server.request("GET", &format!("/admin/status.json{query}"), &[&bearer], "");
        assert_eq!(
            (answer.status, answer.field("Content-Type")),
            (200, Some("application/json")),
            "{answer:?}"
        );
        for token in [&reader, &insider] {
            assert!(token.split('.').all(|part| !answer.body.contains(part)), "{answer:?}");
        }
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let status = eventually("both events were sent", || {
        let status = ask("");
        (status["connections"][0]["msgs_sent"] == 2 || status["connections"][1]["msgs_sent"] == 2)
            .then_some(status)
    });
    assert_eq!(status["status"], "OK");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["msgs_broadcast"], 2);
    assert_eq!(status["namespaces"], true);
    assert_eq!(status["stats"]["published"], 2);
    assert!(!status["node"].as_str().unwrap().is_empty());
    let seconds = |value: &Value| value.as_u64().unwrap();
    let (started, reported) = (seconds(&status["startup_time"]), seconds(&status["reported_at"]));
    assert!(started <= before && before <= reported && reported <= now_s(), "{status}");
    assert_eq!((&status["connections_total"], &status["connections_cut"]), (&json!(2), &json!(false)));

    let dogs = &ask("?topic=dogs");
    assert_eq!((&dogs["connections_total"], &dogs["connections"].as_array().unwrap().len()), (&json!(1), &1));
    let dogs = &dogs["connections"][0];
    assert!((before..=reported).contains(&seconds(&dogs["created_at"])), "{dogs}");
    for (field, value) in [
        ("request_path", json!("/subscribe/pets/dogs")),
        ("namespace", json!("/pets/dogs")),
        // Anybody may write that header, and no proxy is trusted here.
        ("client_ip", json!("127.0.0.1")),
        ("user_agent", json!("one/1")),
        ("msgs_sent", json!(2)),
        ("lag_bytes", json!(0)),
    ] {
        assert_eq!(dogs[field], value, "{field}");
    }
    let both = &ask("?topic=birds")["connections"][0];
    let (path, topics) = both["request_path"].as_str().unwrap().split_once('?').unwrap();
    let topics: BTreeSet<_> = topics.split('&').collect();
    assert_eq!((path, topics), ("/subscribe", ["topic=pets/birds", "topic=pets/cats"].into()));
    assert_eq!(both["user_agent"], "");
    assert_eq!(ask("?topic=nobody")["connections"], json!([]));

    let cut = ask("?max=1");
    assert_eq!(cut["connections"].as_array().unwrap().len(), 1);
    assert_eq!((&cut["connections_total"], &cut["connections_cut"]), (&json!(2), &json!(true)));
    let refused = server.request("GET", "/admin/status.json?max=10001", &[&bearer], "");
    check_refusal(&refused, 400, "bad max: write a whole number from 0 to 10000");
}

#[test]
fn a_clients_address_is_taken_from_a_proxy_that_is_trusted() {
    let server = Server::start(&["--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"]);
    let client_ip = |forwarded: &str| {
        let stream = Stream::open_with(&server, "/subscribe/abcdef123", &[forwarded]);
        let address = eventually("it is listed", || {
            let status = server.get("/admin/status.json").json();
            (status["connections_total"] == 1).then(|| status["connections"][0]["client_ip"].clone())
        });
        drop(stream);
        wait_until("it is gone", || server.stats()["clients"] == 0);
        address
    };
    for (forwarded, address) in [
        ("X-Forwarded-For: 203.0.113.7", "203.0.113.7"),
        // What the client itself wrote stands before what the proxies add.
        ("X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("X-Forwarded-For: [2001:db8::7]:4711", "2001:db8::7"),
        ("X-Forwarded-For: unknown", "127.0.0.1"),
        ("X-Other: 203.0.113.7", "127.0.0.1"),
    ] {
        assert_eq!(client_ip(forwarded), address, "{forwarded}");
    }
}

#[test]
fn the_page_is_for_everybody_and_what_it_shows_for_publishers() {
    let server = Server::start_with(&[], BOTH);
    let page = server.get("/admin/");
    assert_eq!((page.status, page.field("Content-Type")), (200, Some("text/html; charset=utf-8")));
    let reader = token(SUBSCRIBER, "abcdef123");
    for path in ["/admin/events", "/admin/status.json"] {
        check_refusal(&server.get(path), 401, "no token");
        let bearer = bearer(&reader);
        check_refusal(&server.request("GET", path, &[&bearer], ""), 401, "wrong signature");
        check_refusal(&server.post(path, "x"), 405, "use GET");
    }
    check_refusal(&server.get("/admin/nothing"), 404, "no such path");
}

#[test]
fn without_the_admin_page_all_of_it_is_403() {
    let server = Server::start(&["--no-admin"]);
    for path in ["/admin", "/admin/", "/admin/events", "/admin/status.json", "/admin/nothing"] {
        check_refusal(&server.get(path), 403, "the admin page is off (--no-admin)");
    }
    assert_eq!(server.get("/stats").status, 200);
}
