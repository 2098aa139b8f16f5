//! Publishes with an idempotency key: sent again they are answered again, and delivered once.

use std::sync::Barrier;
use std::thread;

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::support::sessions::Sessions;
use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, bearer, now_s, sign};
use crate::support::{
    Answer, Client, Server, Stream, check_refusal, eventually, publish_request, wait_until,
};

/// A publish with this key in its header field.
fn keyed(target: &str, key: &str, body: &str) -> String {
    publish_request(target, &format!("Idempotency-Key: {key}\r\n"), body)
}

/// The body of an answer to a publish that was taken.
#[track_caller]
fn taken(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.clone()
}

/// What a stream gets up to the event that says it is the last.
fn data_up_to_end(server: &Server, topic: &str, stream: &mut Stream) -> Vec<String> {
    assert_eq!(server.post(&format!("/publish/{topic}"), "data: end").status, 200);
    let data = std::iter::from_fn(|| Some(stream.event().data));
    data.take_while(|data| data != "end").collect()
}

#[test]
fn a_publish_that_is_sent_again_is_answered_as_before_and_delivered_once() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/again0001");
    let mut client = Client::new(&server);
    let body = "data: one\n\ndata: two";
    let first = taken(&client.ask(keyed("/publish/again0001", "a-key", body)));
    assert!(first.contains("\"events\":2"), "{first}");
    // Others publish meanwhile.
    assert_eq!(server.post("/publish/again0001", "data: between").status, 200);
    for again in [
        keyed("/publish/again0001", "a-key", body),
        keyed("/publish/again0001", "\"a-key\"", body),
        keyed("/publish/again0001?key=a-key", "a-key", body),
        publish_request("/publish/again0001?key=a-key", "", body),
        // Ids of topics are compared in lower case.
        keyed("/publish/AGAIN0001", "a-key", body),
    ] {
        assert_eq!(taken(&client.ask(&again)), first, "{again}");
        assert_eq!(taken(&Client::new(&server).ask(&again)), first, "on another connection");
    }
    assert_eq!(data_up_to_end(&server, "again0001", &mut stream), ["one", "two", "between"]);
    wait_until("what was published is counted once", || server.stats()["published"] == 4);
}

#[test]
fn the_same_key_pipelined_and_from_many_connections_at_once_is_one_publish() {
    let server = Server::start(&["--cores", "2"]);
    let mut stream = Stream::open(&server, "/subscribe/atonce001");
    let mut client = Client::new(&server);
    client.send(keyed("/publish/atonce001", "pipelined", "data: pipelined").repeat(20));
    let answers: Vec<String> = (0..20).map(|_| taken(&client.answer())).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");

    let barrier = Barrier::new(20);
    let answers: Vec<String> = thread::scope(|scope| {
        let ask = || {
            let mut client = Client::new(&server);
            barrier.wait();
            taken(&client.ask(keyed("/publish/atonce001", "at-once", "data: at once")))
        };
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(data_up_to_end(&server, "atonce001", &mut stream), ["pipelined", "at once"]);
}

#[test]
fn a_key_that_is_used_with_another_body_is_422_and_nothing_is_delivered() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/reused001");
    let mut client = Client::new(&server);
    let first = taken(&client.ask(keyed("/publish/reused001?wrap", "k", "one")));
    for (target, body) in [
        ("/publish/reused001?wrap", "two"),
        ("/publish/reused001?wrap", "one\n"),
        ("/publish/reused001", "data: one"),
        // The same body, as another event.
        ("/publish/reused001?wrap&event=named", "one"),
        ("/publish/reused001?wrap&id=own", "one"),
    ] {
        let answer = client.ask(keyed(target, "k", body));
        check_refusal(&answer, 422, "this idempotency key was used with another body");
        assert_eq!((answer.field("Retry-After"), answer.field("Connection")), (None, None));
    }
    let as_json = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
    check_refusal(
        &client.ask(publish_request("/publish/reused001?wrap", as_json, "one")),
        422,
        "another body",
    );
    assert_eq!(
        taken(&client.ask(keyed("/publish/reused001?wrap", "k", "one"))),
        first,
        "it stays the first one's"
    );
    taken(&client.ask(keyed("/publish/reused001?wrap&event=named", "another", "two")));
    assert_eq!(data_up_to_end(&server, "reused001", &mut stream), ["one", "two"]);
    assert_eq!(server.stats()["refused"], 6);
}

#[test]
fn another_topic_or_another_subject_is_another_key() {
    let server = Server::start_with(&["--namespaces"], BOTH);
    let token = |secret: &str, sub: &str| {
        bearer(&sign(
            secret,
            Algorithm::HS256,
            &json!({"sub": sub, "topics": ["pets"], "exp": now_s() + 600}),
        ))
    };
    let mut stream = Stream::open_with(&server, "/subscribe/pets", &[&token(SUBSCRIBER, "pets")]);
    let ask = |topic: &str, sub: &str, body: &str| {
        let fields = [&*token(PUBLISHER, sub), "Idempotency-Key: k"];
        taken(&server.request("POST", &format!("/publish/{topic}"), &fields, body))
    };
    let asked =
        [("pets", "ann"), ("pets/dogs", "ann"), ("pets", "bob"), ("pets", ""), ("pets", &"x".repeat(1000))];
    for (n, (topic, sub)) in asked.into_iter().enumerate() {
        let data = n.to_string();
        let first = ask(topic, sub, &format!("data: {data}"));
        assert_eq!(stream.event().data, data);
        // Another token for the same subject, a second later say, is as good.
        assert_eq!(ask(topic, sub, &format!("data: {data}")), first);
    }
    ask("pets/cats", "ann", "data: end");
    assert_eq!(stream.event().data, "end", "nothing was delivered twice");
}

#[test]
fn a_bad_key_is_400_and_nothing_is_published() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/badkeys01");
    let mut client = Client::new(&server);
    let long = "x".repeat(129);
    for bad in ["", "\"\"", "two words", "caf\u{e9}", "\"open", "\"a\"b\"", &long] {
        check_refusal(&client.ask(keyed("/publish/badkeys01", bad, "data: x")), 400, "1 to 128 characters");
    }
    for (query, about) in [
        ("key", "1 to 128 characters"),
        ("key=", "1 to 128 characters"),
        ("key=two+words", "1 to 128 characters"),
        ("key=caf%C3%A9", "1 to 128 characters"),
        ("key=%zz", "percent-encoding"),
        ("key=a&key=a", "key is in the query twice"),
    ] {
        let target = format!("/publish/badkeys01?{query}");
        check_refusal(&client.ask(publish_request(&target, "", "data: x")), 400, about);
    }
    let both = client.ask(keyed("/publish/badkeys01?key=a", "b", "data: x"));
    check_refusal(&both, 400, "the Idempotency-Key field and ?key= differ");
    client.assert_open();
    let twice = "Idempotency-Key: a\r\nidempotency-key: a\r\n";
    check_refusal(
        &client.ask(publish_request("/publish/badkeys01", twice, "data: x")),
        400,
        "idempotency-key was sent twice",
    );
    client.assert_closed();
    assert_eq!(data_up_to_end(&server, "badkeys01", &mut stream), [""; 0]);
}

#[test]
fn a_key_whose_publish_was_refused_may_be_used_again() {
    let server = Server::start(&["--cores", "1", "--topics-max", "2"]);
    let mut client = Client::new(&server);
    // No event in it: it never had a place.
    check_refusal(&client.ask(keyed("/publish/refused99", "k", ": comment")), 400, "no event");
    let streams =
        ["limited01", "limited02"].map(|topic| Stream::open(&server, &format!("/subscribe/{topic}")));
    let answer = client.ask(keyed("/publish/limited03", "k", "data: x"));
    check_refusal(&answer, 503, "topics");
    assert_eq!(answer.field("Retry-After"), Some("1"));
    drop(streams);
    wait_until("they are gone", || server.stats()["clients"] == 0);
    let first = eventually("there is room", || {
        // With another body even: nothing is known of the key.
        let answer = client.ask(keyed("/publish/limited03", "k", "data: y"));
        (answer.status == 200).then_some(answer.body)
    });
    assert_eq!(taken(&client.ask(keyed("/publish/limited03", "k", "data: y"))), first);
    taken(&client.ask(keyed("/publish/refused99", "k", "data: now it has one")));
}

#[test]
fn an_emit_with_a_key_is_400_rather_than_done_twice() {
    let sessions = Sessions::start(&[]);
    let mut stream = sessions.stream("alex", "chat");
    let form = "Content-Type: application/x-www-form-urlencoded";
    let body = "userId=alex&channel=chat&data=x";
    for (path, fields) in [
        ("/emit/", &[form, "Idempotency-Key: k"][..]),
        ("/emit/?key=k", &[form]),
        ("/emit", &[form, "Idempotency-Key:"]),
    ] {
        let answer = sessions.control("POST", path, fields, body);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains("an emit takes no idempotency key"), "{answer:?}");
    }
    assert_eq!(sessions.emit("alex", "chat", "data: after")["streams"], 1);
    assert_eq!(stream.event().data, "after");
    // Publishes on the control port take one, as on the other.
    let fields = ["Idempotency-Key: k"];
    let [first, again] =
        [(); 2].map(|()| taken(&sessions.control("POST", "/publish/control01", &fields, "data: x")));
    assert_eq!(first, again);
}
