//! Who may subscribe, publish and read the counts.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, bearer, now_s, sign, token};
use crate::support::{
    Answer, Client, Server, Stream, check_refusal, check_unauthorized, esper, eventually, publish_request,
    wait_until,
};

fn subscribe(server: &Server, topic: &str, fields: &[&str]) -> Answer {
    Stream::open_with(server, &format!("/subscribe/{topic}"), fields).head
}

fn try_publish(server: &Server, topic: &str, fields: &[&str]) -> Answer {
    server.request("POST", &format!("/publish/{topic}"), fields, "data: x")
}

/// The statuses of subscribing, publishing and reading the counts without a token.
fn open_doors(server: &Server) -> [u16; 3] {
    [
        subscribe(server, "doors0001", &[]).status,
        try_publish(server, "doors0001", &[]).status,
        server.get("/stats").status,
    ]
}

#[test]
fn each_secret_closes_its_own_door() {
    let [subscriber, publisher] = [BOTH[0], BOTH[1]];
    for (flags, secrets, doors) in [
        (&[][..], &[][..], [200, 200, 200]),
        (&[], &[subscriber], [401, 200, 200]),
        (&[], &[publisher], [200, 401, 401]),
        (&[], BOTH, [401, 401, 401]),
        (&["--no-auth"], BOTH, [200, 200, 200]),
    ] {
        let server = Server::start_with(flags, secrets);
        assert_eq!(open_doors(&server), doors, "{flags:?} {secrets:?}");
        // These are for everybody.
        assert_eq!(server.get("/healthz").status, 200);
        for path in ["/subscribe/doors0001", "/publish/doors0001", "/stats"] {
            assert_eq!(server.request("OPTIONS", path, &[], "").status, 204);
        }
        // A good token, or one that nobody asked for, is no hindrance.
        let [subscriber, publisher] =
            [SUBSCRIBER, PUBLISHER].map(|secret| bearer(&token(secret, "doors0001")));
        assert_eq!(subscribe(&server, "doors0001", &[&subscriber]).status, 200);
        assert_eq!(try_publish(&server, "doors0001", &[&publisher]).status, 200);
        assert_eq!(server.request("GET", "/stats", &[&publisher], "").status, 200);
    }
}

#[test]
fn the_secrets_are_not_exchangeable() {
    let server = Server::start_with(&[], BOTH);
    let [subscriber, publisher] = [SUBSCRIBER, PUBLISHER].map(|secret| bearer(&token(secret, "exchange1")));
    check_unauthorized(&refused_stream(&server, "/subscribe/exchange1", &[&publisher]), "wrong signature");
    check_unauthorized(&try_publish(&server, "exchange1", &[&subscriber]), "wrong signature");
    check_unauthorized(&server.request("GET", "/stats", &[&subscriber], ""), "wrong signature");
}

/// The answer to a subscription that is refused.
fn refused_stream(server: &Server, target: &str, fields: &[&str]) -> Answer {
    server.request("GET", target, fields, "")
}

#[test]
fn a_token_is_taken_from_the_query_the_header_and_for_subscribing_a_cookie() {
    let server = Server::start_with(&[], BOTH);
    let [subscriber, publisher] = [SUBSCRIBER, PUBLISHER].map(|secret| token(secret, "carriers1"));
    let mut streams = [
        Stream::open(&server, &format!("/subscribe/carriers1?x=y&token={subscriber}")),
        Stream::open_with(&server, "/subscribe/carriers1", &[&bearer(&subscriber)]),
        Stream::open_with(
            &server,
            "/subscribe/carriers1",
            &[&format!("authorization: bearer  {subscriber}")],
        ),
        Stream::open_with(
            &server,
            "/subscribe/carriers1",
            &[&format!("Cookie: a=b; esper_token={subscriber}; c=d")],
        ),
        Stream::open_with(
            &server,
            "/subscribe/carriers1?token=",
            &["Authorization: Basic dTpw", &format!("Cookie: esper_token=\"{subscriber}\"")],
        ),
    ];
    assert_eq!(server.post(&format!("/publish/carriers1?token={publisher}"), "data: by query").status, 200);
    assert_eq!(try_publish(&server, "carriers1", &[&bearer(&publisher)]).status, 200);
    for stream in &mut streams {
        assert_eq!((stream.head.status, stream.event().data), (200, "by query".to_owned()));
        assert_eq!(stream.event().data, "x");
    }
    for fields in [&[&*bearer(&publisher)][..], &[]] {
        let target =
            if fields.is_empty() { format!("/stats?token={publisher}") } else { "/stats".to_owned() };
        assert_eq!(server.request("GET", &target, fields, "").status, 200);
        assert_eq!(server.request("HEAD", &target, fields, "").status, 200);
    }
    // A page that the user visits could send the cookie, and so publish or count in the user's name.
    let cookie = format!("Cookie: esper_token={publisher}");
    check_unauthorized(&try_publish(&server, "carriers1", &[&cookie]), "no token");
    check_unauthorized(&server.request("GET", "/stats", &[&cookie], ""), "no token");
    // The first token found is the token.
    let query = "/subscribe/carriers1?token=wrong";
    check_unauthorized(&refused_stream(&server, query, &[&bearer(&subscriber)]), "malformed token");
    let cookie = format!("Cookie: esper_token={subscriber}");
    let header = refused_stream(&server, "/subscribe/carriers1", &["Authorization: Bearer wrong", &cookie]);
    check_unauthorized(&header, "malformed token");
}

#[test]
fn the_cookie_is_called_as_it_is_configured() {
    let server = Server::start_with(&["--cookie-name", "session"], BOTH);
    let token = token(SUBSCRIBER, "cookies01");
    assert_eq!(subscribe(&server, "cookies01", &[&format!("Cookie: session={token}")]).status, 200);
    for cookie in ["esper_token", "Session", "xsession", "sessions"] {
        let field = format!("Cookie: {cookie}={token}");
        check_unauthorized(&refused_stream(&server, "/subscribe/cookies01", &[&field]), "no token");
    }
}

#[test]
fn a_token_for_another_topic_is_403_and_case_makes_no_difference() {
    let server = Server::start_with(&[], BOTH);
    let by = |secret, claims: Value| bearer(&sign(secret, Algorithm::HS256, &claims));
    let exp = now_s() + 600;
    for claims in [
        json!({"sub": "another01", "exp": exp}),
        json!({"sub": "mytopic01x", "exp": exp}),
        json!({"sub": "mytopic0", "exp": exp}),
        json!({"sub": " mytopic01", "exp": exp}),
        json!({"sub": "**", "exp": exp}),
        json!({"sub": "", "exp": exp}),
        json!({"topics": ["another01", "another02"], "exp": exp}),
        json!({"exp": exp}),
    ] {
        let about = "this token is for another topic";
        let names_topics = claims.get("sub").or(claims.get("topics")).is_some();
        let (subscriber, publisher) = (by(SUBSCRIBER, claims.clone()), by(PUBLISHER, claims));
        check_refusal(&refused_stream(&server, "/subscribe/mytopic01", &[&subscriber]), 403, about);
        check_refusal(&try_publish(&server, "mytopic01", &[&publisher]), 403, about);
        // The counts are of no topic: any token of the publishers' will do that is for one, as a session's is not.
        let expected = if names_topics { 200 } else { 403 };
        assert_eq!(server.request("GET", "/stats", &[&publisher], "").status, expected);
    }
    for (topic, sub) in [
        ("MyTopic01", "mytopic01"),
        ("mytopic01", "MYTOPIC01"),
        ("%6Dytopic01", "mytopic01"),
        ("mytopic01", "*"),
    ] {
        let claims = json!({"sub": sub, "exp": exp, "aud": "somebody", "extra": [1, 2]});
        assert_eq!(
            subscribe(&server, topic, &[&by(SUBSCRIBER, claims.clone())]).status,
            200,
            "{topic} {sub}"
        );
        assert_eq!(try_publish(&server, topic, &[&by(PUBLISHER, claims)]).status, 200, "{topic} {sub}");
    }
}

/// Tokens for this topic which are refused, and words of the reason.
fn bad_tokens(secret: &str, topic: &str) -> Vec<(String, &'static str)> {
    let now = now_s();
    let good = json!({"sub": topic, "exp": now + 600});
    let signed = token(secret, topic);
    let [header, claims, signature] = signed.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    let hs256 = |claims: Value| sign(secret, Algorithm::HS256, &claims);
    // {"alg":"none"}, as it is and with a type.
    let none = ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"];
    vec![
        (hs256(json!({"sub": topic, "exp": now - 6})), "expired token"),
        (hs256(json!({"sub": topic, "exp": 0})), "expired token"),
        (hs256(json!({"sub": topic})), "token without exp"),
        (hs256(json!({"sub": topic, "exp": (now + 600).to_string()})), "exp of the token is not a number"),
        (hs256(json!({"sub": topic, "exp": now + 600, "nbf": now + 300})), "not valid yet (nbf)"),
        (hs256(json!({"sub": topic, "exp": now + 600, "nbf": "0"})), "nbf of the token is not a number"),
        (hs256(json!({"sub": 12345678, "exp": now + 600})), "sub of the token is not a string"),
        (sign("another secret", Algorithm::HS256, &good), "wrong signature"),
        (sign("", Algorithm::HS256, &good), "wrong signature"),
        (sign("another secret", Algorithm::HS384, &good), "wrong signature"),
        (sign("another secret", Algorithm::HS512, &good), "wrong signature"),
        (format!("{}.{claims}.{signature}", none[0]), "sign it with HS256"),
        (format!("{}.{claims}.", none[1]), "sign it with HS256"),
        (format!("{header}.{claims}."), "wrong signature"),
        (format!("{header}.{claims}"), "malformed token"),
        (format!("{header}.{claims}.{signature}."), "malformed token"),
        (format!("{header}.{claims}.{signature}="), "malformed token"),
        (format!("{claims}.{header}.{signature}"), "token"),
        (format!("{header}.{}.{signature}", claims.replacen('e', "f", 1)), "wrong signature"),
        ("..".to_owned(), "malformed token"),
        ("garbage-that-nobody-may-see".to_owned(), "malformed token"),
        ("x".repeat(7000), "malformed token"),
    ]
}

#[test]
fn a_token_that_is_not_good_is_401_and_the_line_says_why() {
    let server = Server::start_with(&[], BOTH);
    check_unauthorized(&refused_stream(&server, "/subscribe/badtoken1", &[]), "no token");
    check_unauthorized(&try_publish(&server, "badtoken1", &[]), "no token");
    check_unauthorized(&server.get("/stats"), "no token");
    for (token, about) in bad_tokens(SUBSCRIBER, "badtoken1") {
        let cookie = format!("Cookie: esper_token={token}");
        let query = format!("/subscribe/badtoken1?token={token}");
        for answer in [
            refused_stream(&server, &query, &[]),
            refused_stream(&server, "/subscribe/badtoken1", &[&bearer(&token)]),
            refused_stream(&server, "/subscribe/badtoken1", &[&cookie]),
        ] {
            check_unauthorized(&answer, about);
            assert!(!token.split('.').any(|part| part.len() > 4 && answer.body.contains(part)), "{answer:?}");
        }
    }
    let mut client = Client::new(&server);
    for (token, about) in bad_tokens(PUBLISHER, "badtoken1") {
        let refused =
            client.ask(publish_request("/publish/badtoken1", &format!("{}\r\n", bearer(&token)), "data: x"));
        check_unauthorized(&refused, about);
        assert_eq!(refused.field("Connection"), None, "the connection goes on");
        check_unauthorized(&server.request("GET", "/stats", &[&bearer(&token)], ""), about);
    }
    client.assert_open();
    let stats = server.request("GET", "/stats", &[&bearer(&token(PUBLISHER, "badtoken1"))], "").body;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["published"], &stats["clients"]), (&json!(0), &json!(0)));
}

#[test]
fn a_token_that_has_begun_is_good() {
    let server = Server::start_with(&[], BOTH);
    // A time may have a fraction, and a clock may be a little behind.
    let (exp, nbf) = (now_s() as f64 + 600.5, now_s() as f64 + 4.5);
    let claims = json!({"sub": "begun0001", "exp": exp, "nbf": nbf, "iat": now_s() + 300});
    let field = bearer(&sign(PUBLISHER, Algorithm::HS256, &claims));
    assert_eq!(try_publish(&server, "begun0001", &[&field]).status, 200);
}

#[test]
fn while_a_secret_is_being_changed_the_previous_one_is_good_too() {
    let previous =
        [("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "old-sub"), ("ESPER_PUBLISHER_SECRET_PREVIOUS", "old-pub")];
    let server = Server::start_with(&[], &[BOTH, &previous].concat());
    for (subscriber, publisher) in [(SUBSCRIBER, PUBLISHER), ("old-sub", "old-pub")] {
        let [subscriber, publisher] =
            [subscriber, publisher].map(|secret| bearer(&token(secret, "rotation1")));
        assert_eq!(subscribe(&server, "rotation1", &[&subscriber]).status, 200);
        assert_eq!(try_publish(&server, "rotation1", &[&publisher]).status, 200);
        assert_eq!(server.request("GET", "/stats", &[&publisher], "").status, 200);
    }
    for secret in ["old-sub", "older"] {
        let field = bearer(&token(secret, "rotation1"));
        check_unauthorized(&try_publish(&server, "rotation1", &[&field]), "wrong signature");
    }
    let field = bearer(&token("old-pub", "rotation1"));
    check_unauthorized(&refused_stream(&server, "/subscribe/rotation1", &[&field]), "wrong signature");
    let expired = sign("old-pub", Algorithm::HS256, &json!({"sub": "rotation1", "exp": 1}));
    check_unauthorized(&try_publish(&server, "rotation1", &[&bearer(&expired)]), "expired token");
}

#[test]
fn a_stream_ends_when_its_token_expires_and_coming_back_with_it_is_401() {
    let server = Server::start_with(&["--leeway", "1s"], &BOTH[..1]);
    let exp = now_s() + 2;
    let short = sign(SUBSCRIBER, Algorithm::HS256, &json!({"sub": "expiring1", "exp": exp}));
    let target = format!("/subscribe/expiring1?token={short}");
    let mut stream = Stream::open(&server, &target);
    let plain = format!("GET {target} HTTP/1.0\r\n\r\n");
    let mut old = Stream::send(server.address, &plain);
    let mut lasting =
        Stream::open(&server, &format!("/subscribe/expiring1?token={}", token(SUBSCRIBER, "expiring1")));
    assert_eq!(server.post("/publish/expiring1", "data: in time").status, 200);
    for stream in [&mut stream, &mut old] {
        assert_eq!(stream.event().data, "in time");
        let last = stream.event();
        assert_eq!((&*last.name, &*last.data, &*last.id), ("expired", "token expired", ""));
        assert!(stream.next_event().is_none(), "the stream ends");
    }
    assert!(now_s() > exp, "not before its time and the leeway");
    check_unauthorized(&refused_stream(&server, &target, &[]), "expired token");
    server.post("/publish/expiring1", "data: goes on");
    assert_eq!(lasting.event().data, "in time");
    assert_eq!(lasting.event().data, "goes on", "others are not concerned");
    wait_until("it is gone", || server.stats()["clients"] == 1);
}

#[test]
fn what_is_refused_for_its_token_does_not_fill_memory_with_its_body() {
    // The client waits for 100 Continue, or just sends: it is refused by its head alone.
    let server = Server::start_with(&[], BOTH);
    let mut client = Client::new(&server);
    let head = "POST /publish/early0001 HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n";
    check_unauthorized(&client.ask(format!("{head}Expect: 100-continue\r\n\r\n")), "no token");
    client.assert_closed();
    let mut client = Client::new(&server);
    client.send(format!("{head}\r\n") + &"x".repeat(1_000_000));
    check_unauthorized(&client.answer(), "no token");
    client.assert_open();
}

#[test]
fn no_token_and_no_secret_is_ever_shown() {
    // Every way in, right and wrong, with the most talkative log.
    for format in ["text", "json"] {
        let previous = [("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "previous-secret-41b8")];
        let flags = ["--log-level", "debug", "--log-format", format];
        let server = Server::start_with(&flags, &[BOTH, &previous].concat());
        let mut shown = String::new();
        let mut tokens = vec!["garbage-that-nobody-may-see".to_owned()];
        for secret in [SUBSCRIBER, PUBLISHER, "previous-secret-41b8", "wrong"] {
            for claims in [
                json!({"sub": "hidden001", "exp": now_s() + 600}),
                json!({"sub": "another01", "exp": now_s() + 600}),
                json!({"sub": "hidden001", "exp": 1}),
            ] {
                tokens.push(sign(secret, Algorithm::HS256, &claims));
            }
        }
        for token in &tokens {
            let (query, field) = (format!("?token={token}"), bearer(token));
            let cookie = format!("Cookie: esper_token={token}");
            for path in ["/publish/hidden001", "/publish/bad", "/nowhere", "/stats", "/healthz"] {
                let both = server.request("POST", &format!("{path}{query}"), &[&field, &cookie], "event: x");
                let get = server.request("GET", path, &[&field], "");
                shown += &format!("{both:?}{get:?}");
            }
            for path in ["/subscribe/hidden001", "/subscribe/bad"] {
                // Its sending side is closed behind it, and so the stream ends.
                let request = format!("GET {path}{query} HTTP/1.1\r\nHost: h\r\n{cookie}\r\n\r\n");
                shown += &server.raw(request);
            }
            for malformed in [
                format!("GET /stats{query}#x HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n"),
                format!("GET /stats{query} HTTP/1.1\r\nHost: h\r\n{field}\r\n{field}\r\n\r\n"),
                format!("GET /stats{query} HTTP/1.1\r\n{field}\r\n {token}\r\n\r\n"),
                format!("GET /stats{query} HTTP/3.0\r\n{field}\r\n\r\n"),
                format!("GET /stats?token=%zz{token} HTTP/1.1\r\nHost: h\r\n\r\n"),
            ] {
                shown += &server.raw(malformed);
            }
        }
        let publisher = bearer(&token(PUBLISHER, "hidden001"));
        shown += &server.request("GET", "/stats", &[&publisher], "").body;
        server.terminate();
        let log = eventually("it has said all it has to say", || {
            let log = server.log();
            log.contains("stopped").then_some(log)
        });
        shown += &log;
        for (name, secret) in BOTH.iter().chain(&previous) {
            assert!(!shown.contains(secret), "{name}: {shown}");
        }
        for part in tokens.iter().flat_map(|token| token.split('.').skip(1)).chain(["garbage-that"]) {
            assert!(!shown.contains(part), "{part}: {shown}");
        }
    }
}

#[test]
fn a_secret_is_not_taken_from_the_command_line_and_not_repeated() {
    for flag in ["--subscriber-secret", "--publisher-secret", "--esper-publisher-secret"] {
        for arguments in [vec![flag.to_owned(), SUBSCRIBER.to_owned()], vec![format!("{flag}={SUBSCRIBER}")]]
        {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let output = esper(&arguments, &[]).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(flag) && !said.contains(SUBSCRIBER), "{said}");
        }
    }
    let help = esper(&["--help"], BOTH).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("ESPER_PUBLISHER_SECRET"), "{help}");
    for flag in ["--subscriber-secret ", "--publisher-secret "] {
        assert!(!help.contains(flag), "{help}");
    }
}
