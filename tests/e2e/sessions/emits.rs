//! Who receives what is emitted to one user or to all, in which order, live and after a reconnect.

use serde_json::json;

use crate::support::sessions::{FORM, SECRET, Sessions, encode, stream_at};
use crate::support::{CPUS, Event, Stream, data, wait_until};

/// A user's stream that is read, cut and resumed at random.
struct Reader {
    user: &'static str,
    token: String,
    stream: Option<Stream>,
    /// What it is to receive, from the model.
    expected: Vec<String>,
    got: Vec<Event>,
}

impl Reader {
    fn new(sessions: &Sessions, user: &'static str, channel: &str) -> Reader {
        let token = sessions.token(user, channel);
        let stream = Some(sessions.resume(&token, ""));
        Reader { user, token, stream, expected: Vec::new(), got: Vec::new() }
    }

    /// Reads as many of the events that are due.
    fn read(&mut self, sessions: &Sessions, count: usize) {
        let last = self.got.last().map_or("", |event| &*event.id);
        let stream = self.stream.get_or_insert_with(|| sessions.resume(&self.token, last));
        for _ in 0..count {
            self.got.push(stream.event());
        }
    }

    /// Events emitted and not read yet.
    fn due(&self) -> usize {
        self.expected.len() - self.got.len()
    }
}

#[test]
fn two_users_and_a_broadcast_each_see_exactly_their_own_in_one_order_across_reconnects() {
    for cpus in CPUS {
        let seed = fastrand::u64(..);
        println!("{cpus:?} seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let sessions = Sessions::start(cpus);
        let mut readers: Vec<Reader> =
            ["alex", "bob", "*", "alex"].map(|user| Reader::new(&sessions, user, "chat")).into();
        let mut emitted = Vec::new();
        for n in 0..400 {
            let user = *random.choice(&["alex", "bob", "*"]).unwrap();
            let answer = sessions.emit(user, "chat", &format!("data: {n}"));
            assert_eq!(answer["events"], 1);
            emitted.push((n.to_string(), answer["id"].as_str().unwrap().to_owned()));
            for reader in &mut readers {
                if user == "*" || user == reader.user {
                    reader.expected.push(n.to_string());
                }
                let due = reader.due();
                match random.usize(..8) {
                    0 => reader.read(&sessions, due),
                    1 => reader.read(&sessions, random.usize(..=due)),
                    // Before its first event it has no place to go on from.
                    2 if !reader.got.is_empty() => reader.stream = None,
                    _ => {}
                }
            }
        }
        for reader in &mut readers {
            let due = reader.due();
            reader.read(&sessions, due);
            assert_eq!(data(&reader.got), reader.expected, "{}", reader.user);
            for event in &reader.got {
                assert!(emitted.contains(&(event.data.clone(), event.id.clone())), "{event:?}");
            }
        }
        // Nothing more was on its way to anybody.
        sessions.emit("*", "chat", "data: end");
        for reader in &mut readers {
            assert_eq!(reader.stream.as_mut().unwrap().event().data, "end");
        }
    }
}

/// Pairs of user and channel that a careless joining, splitting, matching or folding of names would mix up.
fn odd_pairs() -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = [
        ("a/b", "c"),
        ("a", "b/c"),
        ("c", "a/b"),
        ("b/c", "a"),
        ("a", "c"),
        ("A", "c"),
        ("a", "C"),
        ("a ", "c"),
        (" a", "c"),
        ("a b", "c"),
        ("a", "b c"),
        ("a", "c b"),
        ("b a", "c"),
        (" ", "c"),
        ("a", " "),
        ("*x", "c"),
        ("x*", "c"),
        ("x*x", "c"),
        ("**", "c"),
        ("a", "*"),
        ("a", "c*"),
        ("a", "**"),
        ("a:c", "c"),
        ("a", "1:c"),
        ("1:c a", "c"),
        ("session 1:c", "a"),
        ("session 1:c a", "c"),
        ("a%2Fb", "c"),
        ("a+b", "c"),
        ("a&b=c", "c"),
        ("a=b", "c"),
        ("a\nb", "c"),
        ("a\r\nX: y", "c"),
        ("a\0b", "c"),
        ("a", "c\0"),
        ("\0", "\0"),
        (".", ".."),
        ("..", "."),
        ("../c", "a"),
        ("/", "/"),
        ("//", "/"),
        ("/", "//"),
        ("\u{1f98a}", "c"),
        ("c", "\u{1f98a}"),
        ("\u{1f98a}\u{1f98a}", "\u{1f98a}"),
        ("\u{e9}", "c"),
        ("e\u{301}", "c"),
        ("\u{212a}", "c"),
        ("k", "c"),
        ("K", "c"),
        ("\u{feff}a", "c"),
        ("a\u{200b}", "c"),
        ("\u{202e}a", "c"),
        ("oddnames1", "oddnames1"),
        ("pets", "dogs"),
        ("null", "undefined"),
        ("0", "0"),
        ("00", "0"),
        ("\"", "\\"),
        ("<b>", "&amp;"),
    ]
    .map(|(user, channel)| (user.to_owned(), channel.to_owned()))
    .into();
    pairs.push(("x".repeat(128), "c".to_owned()));
    pairs.push(("x".repeat(127), "c".to_owned()));
    pairs.push(("x".repeat(127), "xc".to_owned()));
    pairs.push(("\u{1f98a}".repeat(32), "\u{1f98a}".repeat(32)));
    pairs
}

#[test]
fn names_of_any_characters_are_told_apart() {
    let pairs = odd_pairs();
    for flags in [&[][..], &["--namespaces"]] {
        let sessions = Sessions::start(&[flags, &["--public-publish"]].concat());
        let open = |(user, channel): &(String, String)| {
            (sessions.token(user, channel), sessions.stream(user, channel))
        };
        let mut own: Vec<(String, Stream)> = pairs.iter().map(open).collect();
        let mut topics = vec![Stream::open(&sessions.server, "/subscribe/oddnames1")];
        if !flags.is_empty() {
            topics.push(Stream::open(&sessions.server, "/subscribe/"));
            topics.push(Stream::open(&sessions.server, "/subscribe/pets/dogs"));
        }
        for (n, (user, channel)) in pairs.iter().enumerate() {
            let answer = sessions.emit(user, channel, &format!("data: first to {n}"));
            assert_eq!(answer["streams"], 1, "{user:?} {channel:?}");
        }
        let mut places = Vec::new();
        for (n, (_, stream)) in own.iter_mut().enumerate() {
            let event = stream.event();
            assert_eq!(event.data, format!("first to {n}"), "{:?}", pairs[n]);
            places.push(event.id);
        }
        // And when it is looked for in the history. All are connected to nothing meanwhile.
        let tokens: Vec<String> = own.into_iter().map(|(token, _)| token).collect();
        for (n, (user, channel)) in pairs.iter().enumerate() {
            sessions.emit(user, channel, &format!("data: second to {n}"));
        }
        for (n, (token, place)) in tokens.iter().zip(&places).enumerate() {
            let mut stream = sessions.resume(token, place);
            assert_eq!(stream.event().data, format!("second to {n}"), "{:?}", pairs[n]);
            sessions.emit(&pairs[n].0, &pairs[n].1, "data: third");
            assert_eq!(stream.event().data, "third", "{:?}", pairs[n]);
        }
        // Topics of requests are others, whatever they are called.
        assert_eq!(sessions.server.post("/publish/oddnames1", "data: a topic's").status, 200);
        assert_eq!(topics[0].event().data, "a topic's");
        if !flags.is_empty() {
            assert_eq!(topics[1].event().data, "a topic's");
            assert_eq!(sessions.server.post("/publish/pets/dogs", "data: a path's").status, 200);
            assert_eq!([topics[1].event().data, topics[2].event().data], ["a path's", "a path's"]);
        }
        for (user, channel) in [("oddnames1", "oddnames1"), ("pets", "dogs")] {
            let mut stream = sessions.stream(user, channel);
            sessions.emit(user, channel, "data: a session's");
            assert_eq!(stream.event().data, "a session's");
        }
    }
}

#[test]
fn a_token_for_all_receives_what_is_emitted_to_all_on_its_channel_and_nothing_else() {
    let sessions = Sessions::start(&[]);
    let mut all = sessions.stream("*", "chat");
    let mut alex = sessions.stream("alex", "chat");
    // A channel of that name is one like any other.
    let mut star = sessions.stream("*", "*");
    let mut elsewhere = sessions.stream("*", "chat/room");
    assert_eq!(sessions.emit("alex", "chat", "data: alex's")["streams"], 1);
    assert_eq!(sessions.emit("*", "chat", "data: for all")["streams"], 2);
    assert_eq!(sessions.emit("*", "*", "data: for the star")["streams"], 1);
    assert_eq!(sessions.emit("*", "chat/room", "data: elsewhere")["streams"], 1);
    assert_eq!(all.event().data, "for all");
    assert_eq!([alex.event().data, alex.event().data], ["alex's", "for all"]);
    assert_eq!(star.event().data, "for the star");
    assert_eq!(elsewhere.event().data, "elsewhere");
}

#[test]
fn what_was_emitted_while_nobody_was_there_is_replayed_to_the_right_user_only() {
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        let users = ["alex", "bob", "*"];
        let tokens = users.map(|user| sessions.token(user, "chat"));
        let mut streams = [0, 1, 2].map(|n| sessions.resume(&tokens[n], ""));
        sessions.emit("*", "chat", "data: 0");
        let place = streams.each_mut().map(|stream| stream.event().id)[0].clone();
        drop(streams);
        for (n, user) in ["bob", "alex", "*", "alex", "bob", "*", "nobody"].into_iter().enumerate() {
            sessions.emit(user, "chat", &format!("data: {}", n + 1));
            sessions.emit(user, "other", "data: of another channel");
        }
        let expected = [&["2", "3", "4", "6"][..], &["1", "3", "5", "6"], &["3", "6"]];
        let mut resumed = Vec::new();
        for (token, expected) in tokens.iter().zip(expected) {
            let by_field = sessions.resume(token, &place);
            let by_query =
                Stream::open(&sessions.server, &format!("/events?token={token}&lastEventId={place}"));
            for mut stream in [by_field, by_query] {
                let got: Vec<_> = expected.iter().map(|_| stream.event().data).collect();
                assert_eq!(got, expected);
                resumed.push(stream);
            }
        }
        sessions.emit("*", "chat", "data: live");
        for mut stream in resumed {
            assert_eq!(stream.event().data, "live", "nothing of anybody else's is between");
        }
    }
}

#[test]
fn who_comes_without_a_place_gets_nothing_of_the_past_and_with_anothers_place_only_the_own() {
    let sessions = Sessions::start(&[]);
    let mut bob = sessions.stream("bob", "chat");
    sessions.emit("alex", "chat", "data: past");
    let bobs_place = sessions.emit("bob", "chat", "data: bob's")["id"].as_str().unwrap().to_owned();
    assert_eq!(bob.event().data, "bob's");
    sessions.emit("bob", "chat", "data: bob's second");
    sessions.emit("alex", "chat", "data: alex's");
    sessions.emit("*", "chat", "data: for all");
    let mut fresh = sessions.stream("alex", "chat");
    let mut borrowed = sessions.resume(&sessions.token("alex", "chat"), &bobs_place);
    sessions.emit("alex", "chat", "data: live");
    assert_eq!(fresh.event().data, "live");
    assert_eq!([(); 3].map(|()| borrowed.event().data), ["alex's", "for all", "live"]);
}

#[test]
fn a_place_that_is_unknown_is_told_as_a_gap_before_what_is_left() {
    let sessions = Sessions::start(&[]);
    sessions.emit("alex", "chat", "data: alex's");
    sessions.emit("bob", "chat", "data: bob's");
    sessions.emit("*", "chat", "data: for all");
    let mut stream = sessions.resume(&sessions.token("alex", "chat"), "never-given");
    let gap = stream.event();
    assert_eq!(gap.name, "gap");
    assert!(!gap.data.contains("bob"), "{gap:?}");
    assert_eq!([stream.event().data, stream.event().data], ["alex's", "for all"]);
    // What another user's event was called is unknown like any other.
    sessions.emit("bob", "chat", "data: bob's\nid: bobs-own");
    let mut stream = sessions.resume(&sessions.token("alex", "chat"), "bobs-own");
    let same = stream.event();
    assert_eq!((&*same.name, same.data), ("gap", gap.data.replace("never-given", "bobs-own")));
    assert_eq!([stream.event().data, stream.event().data], ["alex's", "for all"]);
}

#[test]
fn an_emit_answers_how_many_streams_it_was_sent_to_on_all_cores() {
    for cpus in CPUS {
        let sessions = Sessions::start(cpus);
        assert_eq!(sessions.emit("alex", "chat", "data: nobody")["streams"], 0);
        assert_eq!(sessions.emit("*", "chat", "data: nobody")["streams"], 0);
        // On two CPUs they are hardly ever all on one of them.
        let open = |user: &str, count: usize| -> Vec<Stream> {
            (0..count).map(|_| sessions.stream(user, "chat")).collect()
        };
        let mut alex = open("alex", 24);
        let mut bob = open("bob", 12);
        let mut all = open("*", 6);
        let mut elsewhere = sessions.stream("alex", "elsewhere");
        for (user, payload, streams) in [
            ("alex", "data: to alex", 24),
            ("bob", "data: to bob", 12),
            ("carol", "data: to carol", 0),
            ("*", "data: to all", 42),
            ("*", "data: two\n\ndata: of them", 42),
        ] {
            assert_eq!(sessions.emit(user, "chat", payload)["streams"], streams, "{user} {cpus:?}");
        }
        for (streams, own) in [(&mut alex, Some("to alex")), (&mut bob, Some("to bob")), (&mut all, None)] {
            for stream in streams {
                for expected in own.into_iter().chain(["to all", "two", "of them"]) {
                    assert_eq!(stream.event().data, expected);
                }
            }
        }
        sessions.emit("alex", "elsewhere", "data: nothing before it");
        assert_eq!(elsewhere.event().data, "nothing before it");
        drop(alex);
        wait_until("those that left are not counted", || {
            sessions.emit("*", "chat", "data: x")["streams"] == 18
        });
        assert_eq!(sessions.emit("alex", "chat", "data: x")["streams"], 0);
    }
}

#[test]
fn a_payload_is_sent_as_it_is_with_its_own_ids_and_as_many_events_as_it_has() {
    let sessions = Sessions::start(&["--retry-min", "7ms"]);
    let token = sessions.token("alex", "chat");
    let mut stream = sessions.resume(&token, "");
    for (payload, events, last_id, lines) in [
        (
            "event: message\ndata: My important data for client",
            1,
            None,
            &["event: message\ndata: My important data for client"][..],
        ),
        ("data: x\n\n", 1, None, &["data: x"]),
        ("data: x\r\ndata: y\r\rdata:z\r\n", 2, None, &["data: x\ndata: y", "data:z"]),
        ("id: mine-1\ndata: own", 1, Some("mine-1"), &["id: mine-1\ndata: own"]),
        (
            "data: 1\nid: first\n\nevent: e\ndata: 2\n\nid: m\u{fc}sli\ndata: 3\n\n",
            3,
            Some("m\u{fc}sli"),
            &["data: 1\nid: first", "event: e\ndata: 2", "id: m\u{fc}sli\ndata: 3"],
        ),
        (": a comment\nretry: 7\nfoo: bar\ndata", 1, None, &[": a comment\nretry: 7\nfoo: bar\ndata"]),
        ("\u{feff}data: \u{1f98a}", 1, None, &["data: \u{1f98a}"]),
        ("data:  x + y & z=%41", 1, None, &["data:  x + y & z=%41"]),
    ] {
        let answer = sessions.emit("alex", "chat", payload);
        assert_eq!((&answer["events"], &answer["streams"]), (&json!(events), &json!(1)), "{payload:?}");
        let mut last = Event::default();
        for lines in lines {
            last = stream.event();
            let rest = last.lines.strip_prefix(lines).unwrap_or_else(|| panic!("{payload:?}: {last:?}"));
            // Its own id stands alone; where it has none, ours is added.
            let has_own = lines.contains("id:");
            assert!(if has_own { rest.is_empty() } else { rest == format!("\nid:{}", last.id) }, "{last:?}");
        }
        assert_eq!(answer["id"], last.id);
        assert!(last_id.is_none_or(|id| last.id == id));
    }
    // What a publisher called an event is a place to go on from.
    sessions.emit("*", "chat", "data: behind");
    let mut resumed = sessions.resume(&token, "m\u{fc}sli");
    for expected in ["", "\u{1f98a}", " x + y & z=%41", "behind"] {
        assert_eq!(resumed.event().data, expected);
    }
}

#[test]
fn data_with_a_name_and_an_id_is_made_an_event_from_forms_and_from_json() {
    let sessions = Sessions::start(&[]);
    let mut stream = sessions.stream("alex", "chat");
    for (fields, name, data, id) in [
        (&[("data", "plain")][..], "", "plain", None),
        (&[("data", "{\"json\":[1,2]}"), ("event", "update")], "update", "{\"json\":[1,2]}", None),
        (&[("data", "two\nlines"), ("id", "own-7")], "", "two\nlines", Some("own-7")),
        (&[("data", "a\r\nb\rc"), ("event", "e"), ("id", "own 8")], "e", "a\nb\nc", Some("own 8")),
        (&[("data", " led by a space"), ("event", " e")], " e", " led by a space", None),
        (&[("data", "event: no name\n\ndata: no data")], "", "event: no name\n\ndata: no data", None),
        (&[("data", "\u{1f98a}"), ("event", ""), ("id", "")], "", "\u{1f98a}", None),
    ] {
        let form = [&[("userId", "alex"), ("channel", "chat")], fields].concat();
        let object: serde_json::Map<_, _> =
            form.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        for (kind, body) in
            [(FORM, encode(&form)), ("Content-Type: application/json", json!(object).to_string())]
        {
            for path in ["/emit/", "/emit"] {
                let answer = sessions.control("POST", path, &[kind], &body);
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.field("Content-Type"), Some("application/json"));
                let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
                let event = stream.event();
                assert_eq!((&*event.name, &*event.data), (name, data), "{event:?}");
                assert_eq!(answer, json!({"id": event.id, "events": 1, "streams": 1}));
                assert!(id.is_none_or(|id| event.id == id), "{event:?}");
            }
        }
    }
}

#[test]
fn a_token_is_answered_as_text_alone_or_as_json_where_that_is_accepted() {
    let sessions = Sessions::start(&[]);
    let form = encode(&[("userId", "al/ex \u{1f98a}"), ("channel", "*")]);
    for path in ["/token/", "/token"] {
        let text = sessions.control("POST", path, &[FORM], &form);
        assert_eq!((text.status, text.field("Content-Type")), (200, Some("text/plain; charset=utf-8")));
        assert_eq!(text.body.trim_end(), text.body, "no line end that a shell or a script would keep");
        let accept = "Accept: text/html, application/json;q=0.9";
        for accept in ["Accept: application/json", accept] {
            let answer = sessions.control("POST", path, &[FORM, accept], &form);
            assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
            let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let minted = [text.body.clone(), answer["token"].as_str().unwrap().to_owned()];
            for token in minted {
                let key = jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes());
                let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
                let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &rules).unwrap().claims;
                assert_eq!((&claims["userId"], &claims["channel"]), (&json!("al/ex \u{1f98a}"), &json!("*")));
                assert!(claims["exp"].is_u64());
                let mut stream = stream_at(sessions.public, "/events/", &token, "");
                sessions.emit("al/ex \u{1f98a}", "*", "data: hello");
                assert_eq!(stream.event().data, "hello");
            }
        }
    }
}

#[test]
fn without_history_a_sessions_events_come_live_and_are_not_replayed() {
    let sessions = Sessions::start(&["--history-events", "0"]);
    let mut stream = sessions.stream("alex", "chat");
    for user in ["alex", "*", "alex"] {
        sessions.emit(user, "chat", &format!("data: to {user}"));
    }
    for user in ["alex", "*", "alex"] {
        let event = stream.event();
        assert_eq!((&*event.data, &*event.id), (&*format!("to {user}"), ""));
    }
}
