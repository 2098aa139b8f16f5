//! What bad requests for sessions get: a status, one line that names the field and the mend, and nothing done.

use serde_json::{Value, json};

use super::control::{check_private, check_refused};
use crate::support::sessions::{FORM, Sessions, encode};
use crate::support::tokens::now_s;
use crate::support::{Client, Stream};

const JSON: &str = "Content-Type: application/json";

/// A request to the control port that is refused.
struct Row {
    request: Vec<u8>,
    status: u16,
    /// Words of the reason.
    about: String,
    /// Whether nobody can know where the next request begins.
    closes: bool,
    /// What `Allow` says.
    allow: Option<&'static str>,
}

fn row(status: u16, about: &str, request: Vec<u8>) -> Row {
    Row { request, status, about: about.to_owned(), closes: false, allow: None }
}

pub(super) fn post(path: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// Sends each, with an emit pipelined behind it: that one is taken exactly if the connection goes on.
fn check_rows(sessions: &Sessions, rows: Vec<Row>) {
    let mut stream = sessions.stream("witness", "refusals");
    // Whatever was meant for anybody it would reach.
    let mut others: Vec<Stream> =
        [("alex", "chat"), ("*", "chat")].map(|(user, channel)| sessions.stream(user, channel)).into();
    for (n, row) in rows.into_iter().enumerate() {
        let Row { request, status, about, closes, allow } = row;
        let what = String::from_utf8_lossy(request.get(..250).unwrap_or(&request)).into_owned();
        let data = n.to_string();
        let behind = encode(&[("userId", "witness"), ("channel", "refusals"), ("data", &data)]);
        let mut client = Client::at(sessions.control);
        // A refusal may overtake what is still being sent.
        client.try_send([request, post("/emit/", FORM, behind)].concat());
        let answer = client.answer();
        println!("{what:?}: {answer:?}");
        check_refused(&answer, status, &about);
        assert_eq!(answer.field("Allow"), allow);
        client.check_behind(&answer, closes);
        if !closes {
            assert_eq!(stream.event().data, data);
        }
    }
    assert_eq!(sessions.emit("*", "chat", "data: nothing before it")["streams"], 2);
    for other in &mut others {
        assert_eq!(other.event().data, "nothing before it");
    }
}

/// What is wrong with the fields of a form, and the name of the one that is.
fn bad_names() -> Vec<(String, &'static str)> {
    let long = "x".repeat(129);
    // 65 characters of two bytes.
    let long_too = "%C3%A9".repeat(65);
    let mut bad = Vec::new();
    for (field, other) in [("userId", "channel=chat"), ("channel", "userId=alex")] {
        for form in [
            other.to_owned(),
            format!("{other}&{field}="),
            format!("{other}&{field}"),
            format!("{other}&{field}={long}"),
            format!("{field}={long_too}&{other}"),
            format!("{field}=%ff&{other}"),
            format!("{other}&{field}=%C3%28"),
            format!("{other}&{field}=%ED%A0%80"),
            format!("{field}=alex&{other}&{field}=alex"),
            format!("{field}=&{field}=alex&{other}"),
            format!("{}=alex&{other}", field.to_uppercase()),
        ] {
            bad.push((form, field));
        }
    }
    bad
}

#[test]
fn a_field_that_is_missing_empty_overlong_or_there_twice_is_400_and_named() {
    let sessions = Sessions::start(&[]);
    let mut rows = Vec::new();
    for path in ["/token/", "/token", "/emit/", "/emit", "/disconnect/", "/disconnect"] {
        for (form, field) in bad_names() {
            let form = if path.starts_with("/emit") { format!("data=x&{form}") } else { form };
            rows.push(row(400, field, post(path, FORM, form)));
        }
        for (body, field) in [
            (json!({"channel": "chat"}), "userId"),
            (json!({"userId": "alex"}), "channel"),
            (json!({"userId": "", "channel": "chat"}), "userId"),
            (json!({"userId": "alex", "channel": ""}), "channel"),
            (json!({"userId": "x".repeat(129), "channel": "chat"}), "userId"),
            (json!({"userId": "alex", "channel": "\u{e9}".repeat(65)}), "channel"),
            (json!({"userId": 5, "channel": "chat"}), "userId"),
            (json!({"userId": null, "channel": "chat"}), "userId"),
            (json!({"userId": ["alex"], "channel": "chat"}), "userId"),
            (json!({"userId": "alex", "channel": {"name": "chat"}}), "channel"),
            (json!({"userId": "alex", "channel": true}), "channel"),
        ] {
            let mut body = body;
            if path.starts_with("/emit") {
                body["data"] = json!("x");
            }
            rows.push(row(400, field, post(path, JSON, body.to_string())));
        }
        for (names, field) in [
            (r#""userId":"alex","userId":"alex","channel":"chat""#, "userId"),
            (r#""userId":"alex","channel":"chat","channel":"other""#, "channel"),
            // One name, written in two ways.
            (r#""userId":"alex","user\u0049d":"bob","channel":"chat""#, "userId"),
        ] {
            let data = if path.starts_with("/emit") { r#","data":"x""# } else { "" };
            rows.push(row(400, field, post(path, JSON, format!("{{{names}{data}}}"))));
        }
    }
    let long = "x".repeat(129);
    for query in [
        "",
        "?",
        "?channel",
        "?channel=",
        &format!("?channel={long}"),
        "?channel=%ff",
        "?channel=a&channel=a",
        "?userId=alex",
    ] {
        for slash in ["", "/"] {
            rows.push(row(
                400,
                if query.contains("%ff") { "" } else { "channel" },
                get(&format!("/sessions{slash}{query}")),
            ));
        }
    }
    check_rows(&sessions, rows);
}

#[test]
fn an_exp_that_is_no_number_of_seconds_up_to_the_maximum_is_400() {
    let sessions = Sessions::start(&[]);
    let mut rows = Vec::new();
    let form = "userId=alex&channel=chat";
    for exp in [
        "",
        "abc",
        "0",
        "00",
        "-1",
        "%2B5",
        "+5",
        "1.5",
        "1e3",
        "0x10",
        "%2060",
        "60%20",
        "6_0",
        "60s",
        "1h",
        "%D9%A3",
        "60%00",
        "2592001",
        "4294967296",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "NaN",
        "null",
    ] {
        rows.push(row(400, "exp", post("/token/", FORM, format!("{form}&exp={exp}"))));
    }
    rows.push(row(400, "exp", post("/token/", FORM, format!("{form}&exp=60&exp=60"))));
    for exp in [
        "0",
        "-1",
        "1.5",
        "1e3",
        "60.0",
        "2592001",
        "18446744073709551616",
        "1e400",
        "null",
        "true",
        "[60]",
        "{}",
        "\"abc\"",
        "\"\"",
        "\"1.5\"",
        "\"-1\"",
    ] {
        let body = format!(r#"{{"userId":"alex","channel":"chat","exp":{exp}}}"#);
        // Too large for any number of the format is no JSON to some readers.
        let about = if exp == "1e400" { "" } else { "exp" };
        rows.push(row(400, about, post("/token/", JSON, body)));
    }
    check_rows(&sessions, rows);
    for (exp, seconds) in [("", 86_400), ("&exp=1", 1), ("&exp=2592000", 2_592_000), ("&exp=060", 60)] {
        let before = now_s();
        let answer =
            sessions.control("POST", "/token/", &[FORM, "Accept: application/json"], &format!("{form}{exp}"));
        let expires_at = serde_json::from_str::<Value>(&answer.body).unwrap()["expires_at"].as_u64().unwrap();
        assert!((before + seconds..=now_s() + seconds).contains(&expires_at), "{answer:?}");
    }
}

#[test]
fn the_longest_time_of_a_token_is_as_configured() {
    let sessions = Sessions::start(&["--session-time-max", "1h"]);
    for (exp, status) in [("&exp=3600", 200), ("&exp=3601", 400)] {
        let answer = sessions.control("POST", "/token/", &[FORM], &format!("userId=alex&channel=chat{exp}"));
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.body.contains("exp"), status == 400);
    }
    // Nobody who leaves it out has to know that a day is too long here.
    let before = now_s();
    let answer =
        sessions.control("POST", "/token/", &[FORM, "Accept: application/json"], "userId=alex&channel=chat");
    let expires_at = serde_json::from_str::<Value>(&answer.body).unwrap()["expires_at"].as_u64().unwrap();
    assert!(expires_at >= before + 60 && expires_at <= now_s() + 3600, "{answer:?}");
}

#[test]
fn a_body_that_is_neither_form_nor_json_is_refused() {
    let sessions = Sessions::start(&["--body-max", "64KiB"]);
    let form = "userId=alex&channel=chat&data=x";
    let mut rows = Vec::new();
    for path in ["/token/", "/emit/", "/disconnect/"] {
        for kind in [
            "text/plain",
            "text/event-stream",
            "application/jsonx",
            "application/xml",
            "application/x-www-form-urlencodedx",
            "x-www-form-urlencoded",
            "application/octet-stream",
        ] {
            let about = "application/x-www-form-urlencoded";
            rows.push(row(400, about, post(path, &format!("Content-Type: {kind}"), form)));
        }
        let multipart = "--b\r\nContent-Disposition: form-data; name=\"userId\"\r\n\r\nalex\r\n--b--\r\n";
        let kind = "Content-Type: multipart/form-data; boundary=b";
        rows.push(row(400, "application/x-www-form-urlencoded", post(path, kind, multipart)));
        for body in ["", "&", "&&&", "=", "=x"] {
            rows.push(row(400, "userId", post(path, FORM, body)));
        }
        rows.push(row(400, "percent-encoding", post(path, FORM, "userId=%zz&channel=chat&data=x")));
        rows.push(row(400, "UTF-8", post(path, FORM, b"userId=\xff&channel=chat&data=x")));
        // What is asked for stands in the body, not in the address that logs show.
        rows.push(row(400, "userId", post(&format!("{path}?{form}"), FORM, "")));
        let deep = "[".repeat(60_000);
        let deep_field = format!("{{\"userId\":{}", "[".repeat(60_000));
        for body in [
            "",
            "{",
            "}",
            "null",
            "5",
            "\"userId\"",
            "[]",
            r#"["alex","chat"]"#,
            r#"[{"userId":"alex","channel":"chat"}]"#,
            r#"{"userId":"alex","channel":"chat","data":"x"}{}"#,
            r#"{"userId":"alex","channel":"chat","data":"x",}"#,
            r#"{'userId':'alex','channel':'chat','data':'x'}"#,
            r#"{"userId":"\ud800","channel":"chat","data":"x"}"#,
            form,
            &deep,
            &deep_field,
        ] {
            rows.push(row(400, "", post(path, JSON, body)));
        }
        rows.push(row(
            400,
            "",
            post(path, JSON, b"{\"userId\":\"\xff\",\"channel\":\"chat\",\"data\":\"x\"}"),
        ));
        let mut large =
            row(413, "at most 65536 bytes", post(path, FORM, format!("{form}{}", "x".repeat(65_536))));
        large.closes = true;
        rows.push(large);
    }
    for kind in ["application/x-www-form-urlencoded; charset=UTF-8", "APPLICATION/X-WWW-Form-Urlencoded"] {
        let answer = sessions.control("POST", "/token/", &[&format!("Content-Type: {kind}")], form);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        let body = r#" {"userId": "alex", "channel": "chat", "exp": 60} "#;
        let answer = sessions.control("POST", "/token/", &[&format!("Content-Type: {kind}")], body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    check_rows(&sessions, rows);
}

#[test]
fn an_emit_that_no_event_source_could_read_is_refused_with_the_reason() {
    let sessions = Sessions::start(&["--body-max", "64KiB"]);
    let long = "x".repeat(129);
    let many = "data\n\n".repeat(4097);
    let mut rows = Vec::new();
    for (fields, about) in [
        (&[][..], "payload"),
        (&[("event", "greeting")], "data"),
        (&[("id", "7")], "data"),
        (&[("payload", "")], "payload"),
        (&[("payload", "data: x"), ("payload", "data: x")], "payload"),
        (&[("payload", "data: x"), ("data", "x")], "data"),
        (&[("payload", "data: x"), ("event", "greeting")], "event"),
        (&[("payload", "data: x"), ("id", "7")], "id"),
        (&[("payload", ""), ("data", "x")], "payload"),
        (&[("data", "x"), ("data", "x")], "data"),
        (&[("data", "x"), ("event", "a"), ("event", "a")], "event"),
        (&[("data", "x"), ("id", "a"), ("id", "a")], "id"),
        (&[("payload", "your_data")], "has no data"),
        (&[("payload", "event: message")], "has no data"),
        (&[("payload", "{\"json\":true}")], "has no data"),
        (&[("payload", "data: x\n\nevent: y\n\n")], "event 2 of payload has no data"),
        (&[("payload", "\n\n")], "no event"),
        (&[("payload", ": comment\n\n")], "no event"),
        (&[("payload", "data: a\0b")], "NUL"),
        (&[("payload", "data: x\nid: \0")], "NUL"),
        (&[("payload", &format!("data\nid:{long}"))], "id longer than 128 bytes"),
        (&[("payload", &many)], "more than 4096 events"),
        (&[("payload", "data: x\n\n\u{feff}data: y\ndata: z")], "byte-order mark"),
        (&[("data", "a\0b")], "NUL"),
        (&[("data", "x"), ("event", "a\nb")], "event name has a line end"),
        (&[("data", "x"), ("event", "a\rb")], "event name has a line end"),
        (&[("data", "x"), ("event", "a\0b")], "event name has a line end or a NUL"),
        (&[("data", "x"), ("event", &long)], "event name is longer than 128 bytes"),
        (&[("payload", "data\nid: \u{1b}")], "id with U+001B in it"),
        (&[("data", "x"), ("id", "a\nb")], "id with U+000A in it"),
        (&[("data", "x"), ("id", "a\0b")], "id with U+0000 in it"),
        (&[("data", "x"), ("id", "a\u{7f}b")], "id with U+007F in it"),
        (&[("data", "x"), ("id", &long)], "id longer than 128 bytes"),
    ] {
        let form = [&[("userId", "alex"), ("channel", "chat")], fields].concat();
        for path in ["/emit/", "/emit"] {
            rows.push(row(400, about, post(path, FORM, encode(&form))));
        }
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        names.dedup();
        if names.len() == fields.len() {
            let object: serde_json::Map<String, Value> =
                form.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            rows.push(row(400, about, post("/emit/", JSON, Value::from(object).to_string())));
        }
    }
    for (fields, about) in [
        (json!({"payload": 5}), "payload"),
        (json!({"payload": ["data: x"]}), "payload"),
        (json!({"payload": null}), "payload"),
        (json!({"data": "x", "event": 5}), "event"),
        (json!({"data": "x", "id": {}}), "id"),
    ] {
        let mut object = json!({"userId": "alex", "channel": "chat"});
        object.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
        rows.push(row(400, about, post("/emit/", JSON, object.to_string())));
    }
    for value in ["%ff", "data:%20%C3%28"] {
        rows.push(row(
            400,
            "UTF-8",
            post("/emit/", FORM, format!("userId=alex&channel=chat&payload={value}")),
        ));
    }
    check_rows(&sessions, rows);
}

#[test]
fn a_method_that_a_path_does_not_take_is_405_with_those_it_does() {
    let sessions = Sessions::start(&[]);
    let mut rows = Vec::new();
    for (paths, allow) in [
        (["/token", "/emit", "/disconnect"].as_slice(), "POST, OPTIONS"),
        (&["/events", "/sessions"], "GET, HEAD, OPTIONS"),
    ] {
        for path in paths {
            for slash in ["", "/"] {
                let wrong = if allow.starts_with("POST") { &["GET", "HEAD"][..] } else { &["POST"] };
                for method in wrong.iter().chain(&["PUT", "DELETE", "PATCH", "TRACE", "post", "get"]) {
                    let target = format!("{path}{slash}?channel=chat");
                    if *method == "HEAD" {
                        let mut client = Client::at(sessions.control);
                        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                        let head = client.head();
                        assert_eq!((head.status, head.field("Allow")), (405, Some(allow)));
                        continue;
                    }
                    for body in ["", "userId=alex&channel=chat&data=x"] {
                        let request = String::from_utf8(post(&target, FORM, body)).unwrap();
                        let request = request.replacen("POST", method, 1).into_bytes();
                        rows.push(Row {
                            allow: Some(allow),
                            ..row(405, "does not take this method; use", request)
                        });
                    }
                }
                let mut client = Client::at(sessions.control);
                client.send(format!("OPTIONS {path}{slash} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                let answer = client.answer();
                assert_eq!((answer.status, answer.field("Allow")), (204, Some(allow)));
                check_private(&answer);
            }
        }
    }
    for path in [
        "/token//",
        "/token/x",
        "/Token/",
        "/TOKEN",
        "/emit//",
        "/emit/alex",
        "/sessions/chat",
        "/disconnect/x",
        "/events//",
        "/events/x",
        "/Events",
        "//events/",
        "/tokens",
    ] {
        rows.push(row(404, "no such path", get(path)));
        rows.push(row(404, "no such path", post(path, FORM, "userId=alex&channel=chat&data=x")));
    }
    for target in
        [format!("/events/?token={}", sessions.token("alex", "chat")), "/sessions/?channel=chat".to_owned()]
    {
        let request = String::from_utf8(post(&target, FORM, "x=y")).unwrap();
        rows.push(row(400, "has no body", request.replacen("POST", "GET", 1).into()));
    }
    check_rows(&sessions, rows);
}
