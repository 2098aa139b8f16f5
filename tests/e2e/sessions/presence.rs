//! Who is connected to a channel, and how their streams are ended.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::sessions::{FORM, Sessions, encode};
use crate::support::tokens::now_s;
use crate::support::{CPUS, Event, Stream, eventually, wait_until};

/// The users of a list, each with its streams.
fn users(list: &Value) -> Vec<(&str, u64)> {
    let users = list["users"].as_array().unwrap();
    users.iter().map(|user| (user["userId"].as_str().unwrap(), user["streams"].as_u64().unwrap())).collect()
}

fn open(sessions: &Sessions, user: &str, channel: &str, count: usize) -> Vec<Stream> {
    (0..count).map(|_| sessions.stream(user, channel)).collect()
}

/// Reads the farewell of a stream that is ended, which is the last thing on it.
#[track_caller]
fn check_disconnected(stream: &mut Stream) {
    let last = stream.event();
    let expected =
        Event { name: "disconnected".to_owned(), data: "disconnected".to_owned(), ..Event::default() };
    assert_eq!(Event { lines: String::new(), ..last.clone() }, expected);
    assert_eq!(last.lines, "event:disconnected\ndata:disconnected");
    assert_eq!(stream.next_event(), None);
    assert!(stream.is_complete, "the body ends in order");
}

#[test]
fn a_channel_lists_its_users_with_their_streams_on_all_cores_the_longest_connected_first() {
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        let before = now_s();
        let mut streams = Vec::new();
        // A second apart, as `since` is in whole seconds.
        for (user, count) in [("zoe", 9), ("alex", 4), ("*", 2)] {
            streams.push(open(&sessions, user, "chat", count));
            let start = now_s();
            wait_until("the next second", || now_s() > start);
        }
        streams.push(open(&sessions, "alex", "chat", 3));
        let elsewhere = open(&sessions, "alex", "elsewhere", 5);
        let after = now_s();

        let list = sessions.listed("chat");
        assert_eq!(
            (&list["channel"], &list["streams"], &list["cut"]),
            (&json!("chat"), &json!(18), &json!(false))
        );
        assert_eq!(users(&list), [("zoe", 9), ("alex", 7), ("*", 2)], "{list}");
        let since: Vec<u64> = (0..3).map(|n| list["users"][n]["since"].as_u64().unwrap()).collect();
        assert!(before <= since[0] && since.is_sorted_by(|a, b| a < b) && since[2] < after, "{list}");
        assert_eq!(list["users"][0].as_object().unwrap().len(), 3);
        assert_eq!(users(&sessions.listed("elsewhere")), [("alex", 5)]);

        // One of its streams has gone: it is connected since its oldest one of those that are left.
        drop(streams.remove(1));
        let list = eventually("those that left are gone", || {
            let list = sessions.listed("chat");
            (list["streams"] == 14).then_some(list)
        });
        assert_eq!(users(&list), [("zoe", 9), ("*", 2), ("alex", 3)], "{list}");
        drop((streams, elsewhere));
        wait_until("all are gone", || users(&sessions.listed("chat")).is_empty());
    }
}

#[test]
fn a_channel_that_nobody_is_on_is_an_empty_list() {
    let sessions = Sessions::start(&[]);
    for channel in ["never heard of", "*", "\u{1f98a}/\0", "\"quoted\\\""] {
        sessions.emit("alex", channel, "data: to nobody");
        let empty = json!({"channel": channel, "streams": 0, "cut": false, "users": []});
        assert_eq!(sessions.listed(channel), empty);
        assert_eq!(sessions.disconnect("alex", channel), 0);
        assert_eq!(sessions.disconnect("*", channel), 0);
    }
    // A topic of that name is no channel.
    let _stream = Stream::open(&sessions.server, "/subscribe/presence1");
    assert_eq!(sessions.listed("presence1")["streams"], 0);
    assert_eq!(sessions.disconnect("*", "presence1"), 0);
}

#[test]
fn with_and_without_the_last_slash_and_as_a_head_alone_it_is_one_list() {
    let sessions = Sessions::start(&[]);
    let _stream = sessions.stream("alex", "chat");
    let list = sessions.control("GET", "/sessions/?channel=chat", &[], "");
    assert_eq!(list.field("Content-Type"), Some("application/json"));
    assert_eq!(list.field("Cache-Control"), Some("no-store"));
    for target in ["/sessions?channel=chat", "/sessions/?x=y&ch%61nnel=ch%61t"] {
        assert_eq!(sessions.control("GET", target, &[], "").body, list.body);
    }
    let head = sessions.control("HEAD", "/sessions/?channel=chat", &[], "");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(head.field("Content-Length"), Some(&*list.body.len().to_string()));
}

#[test]
fn who_is_disconnected_gets_what_was_emitted_before_then_is_told_and_closed_and_nobody_else_is() {
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        let mut alex = open(&sessions, "alex", "chat", 16);
        let mut others = open(&sessions, "bob", "chat", 4);
        others.extend(open(&sessions, "*", "chat", 4));
        others.extend(open(&sessions, "alex", "elsewhere", 4));
        for user in ["alex", "*"] {
            sessions.emit(user, "chat", "data: before");
        }
        assert_eq!(sessions.disconnect("alex", "chat"), 16);
        // At once: who was told so may count on it.
        assert_eq!(sessions.emit("alex", "chat", "data: to nobody")["streams"], 0);
        assert_eq!(sessions.disconnect("alex", "chat"), 0);
        for stream in &mut alex {
            assert_eq!([stream.event().data, stream.event().data], ["before", "before"]);
            check_disconnected(stream);
        }
        wait_until("they are not listed", || {
            users(&sessions.listed("chat")).iter().all(|(user, _)| *user != "alex")
        });
        assert_eq!(sessions.listed("elsewhere")["streams"], 4);
        sessions.emit("*", "chat", "data: after");
        sessions.emit("*", "elsewhere", "data: after");
        for (n, stream) in others.iter_mut().enumerate() {
            if n < 8 {
                assert_eq!(stream.event().data, "before");
            }
            assert_eq!(stream.event().data, "after");
        }
        // It is no ban: the token is good, and the stream goes on where it was.
        let mut back = sessions.stream("alex", "chat");
        assert_eq!(sessions.emit("alex", "chat", "data: back")["streams"], 1);
        assert_eq!(back.event().data, "back");
    }
}

/// Sent at once, the second must not overtake the first on its way to the streams.
#[test]
fn what_is_emitted_right_before_a_disconnect_still_arrives() {
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        let form = [("userId", "alex"), ("channel", "chat")];
        let emit = encode(&[form[0], form[1], ("data", "last words")]);
        let head = |path: &str, body: &str, connection: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: {}\r\n{FORM}\r\nContent-Length: {}\r\n{connection}\r\n{body}",
                sessions.control,
                body.len()
            )
        };
        let both = head("/emit/", &emit, "") + &head("/disconnect/", &encode(&form), "Connection: close\r\n");
        for round in 0..20 {
            let mut streams = open(&sessions, "alex", "chat", 2);
            let mut connection = TcpStream::connect(sessions.control).unwrap();
            connection.write_all(both.as_bytes()).unwrap();
            let mut answers = String::new();
            connection.read_to_string(&mut answers).unwrap();
            assert_eq!(answers.matches("\"streams\":2").count(), 2, "round {round}: {answers}");
            for stream in &mut streams {
                assert_eq!(stream.event().data, "last words", "round {round}");
                check_disconnected(stream);
            }
            wait_until("they have gone", || sessions.listed("chat")["streams"] == 0);
        }
    }
}

#[test]
fn all_on_a_channel_are_disconnected_by_a_star() {
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        let mut chat: Vec<Stream> =
            ["alex", "bob", "*", "carol"].iter().flat_map(|user| open(&sessions, user, "chat", 8)).collect();
        let mut elsewhere = open(&sessions, "alex", "elsewhere", 2);
        elsewhere.extend(open(&sessions, "*", "*", 2));
        assert_eq!(sessions.disconnect("*", "chat"), 32);
        for stream in &mut chat {
            check_disconnected(stream);
        }
        wait_until("nobody is listed", || sessions.listed("chat")["streams"] == 0);
        assert_eq!(sessions.emit("alex", "elsewhere", "data: on")["streams"], 2);
        assert_eq!(sessions.emit("*", "*", "data: on")["streams"], 2);
        for stream in &mut elsewhere {
            assert_eq!(stream.event().data, "on");
        }
    }
}

#[test]
fn a_stream_that_was_disconnected_resumes_without_loss() {
    let sessions = Sessions::start(&[]);
    let token = sessions.token("alex", "chat");
    let mut stream = sessions.resume(&token, "");
    sessions.emit("alex", "chat", "data: 1");
    let place = stream.event().id;
    sessions.disconnect("alex", "chat");
    check_disconnected(&mut stream);
    sessions.emit("alex", "chat", "data: 2");
    sessions.emit("bob", "chat", "data: bob's");
    sessions.emit("*", "chat", "data: 3");
    let mut stream = sessions.resume(&token, &place);
    assert_eq!([stream.event().data, stream.event().data], ["2", "3"]);
}

#[test]
fn names_of_any_characters_are_listed_and_disconnected_alone() {
    let sessions = Sessions::start(&[]);
    let pairs = [
        ("a/b", "c"),
        ("a", "b/c"),
        ("a b", "c"),
        ("a", "c"),
        ("A", "c"),
        ("a*", "c"),
        ("**", "c"),
        ("a", "c d"),
        ("a", "*"),
        ("\"\\\u{1f98a}", "c"),
        ("a\n\0\u{7f}", "c"),
    ];
    let mut streams: Vec<Stream> =
        pairs.iter().map(|(user, channel)| sessions.stream(user, channel)).collect();
    let mut on_c: Vec<&str> =
        pairs.iter().filter(|(_, channel)| *channel == "c").map(|(user, _)| *user).collect();
    on_c.sort_unstable();
    let list = sessions.listed("c");
    let mut listed: Vec<&str> = users(&list).iter().map(|(user, _)| *user).collect();
    listed.sort_unstable();
    assert_eq!(listed, on_c);
    // By JSON as well as by a form.
    for (n, (user, channel)) in pairs.iter().enumerate() {
        let fields = [("userId", *user), ("channel", *channel)];
        let (kind, body) = match n % 2 {
            0 => (FORM, encode(&fields)),
            _ => ("Content-Type: application/json", json!({"userId": user, "channel": channel}).to_string()),
        };
        let path = if n % 3 == 0 { "/disconnect" } else { "/disconnect/" };
        let answer = sessions.control("POST", path, &[kind], &body);
        assert_eq!((answer.status, answer.body.trim_end()), (200, "{\"streams\":1}"), "{user:?} {channel:?}");
        check_disconnected(&mut streams[n]);
        for (user, channel) in &pairs[n + 1..] {
            assert_eq!(sessions.emit(user, channel, "data: on")["streams"], 1, "{user:?} {channel:?}");
        }
        for stream in &mut streams[n + 1..] {
            assert_eq!(stream.event().data, "on");
        }
    }
}

#[test]
fn every_stream_that_is_ended_is_counted_once_however_it_races_with_joining_and_replay() {
    const STREAMS: usize = 300;
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        let token = sessions.token("alex", "chat");
        // So much that a replay takes several pages, and may be under way.
        let place = sessions.emit("alex", "chat", "data: first")["id"].as_str().unwrap().to_owned();
        for user in ["alex", "*"].into_iter().cycle().take(10) {
            sessions.emit(user, "chat", &format!("data: {}", "x".repeat(50_000)));
        }
        let is_open = AtomicBool::new(true);
        let (streams, mut ended) = thread::scope(|scope| {
            let disconnecting = scope.spawn(|| {
                let mut ended = 0;
                while is_open.load(Ordering::Relaxed) {
                    ended += sessions.disconnect("alex", "chat");
                }
                ended
            });
            let places = [&*place, ""].into_iter().cycle().take(STREAMS);
            let streams: Vec<Stream> = places.map(|place| sessions.resume(&token, place)).collect();
            is_open.store(false, Ordering::Relaxed);
            (streams, disconnecting.join().unwrap())
        });
        ended += sessions.disconnect("alex", "chat");
        assert_eq!(ended, STREAMS as u64);
        for mut stream in streams {
            let mut last = stream.event();
            while last.name != "disconnected" {
                last = stream.event();
            }
            assert_eq!(stream.next_event(), None);
            assert!(stream.is_complete, "the body ends in order");
        }
    }
}
