//! Which paths are topics, and what a token allows there.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{start, subscribe};
use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, bearer, now_s, sign};
use crate::support::{Answer, Server, Stream, check_refusal, check_unauthorized};

/// Paths that are no topic, and words of the reason.
fn bad_paths() -> Vec<(String, &'static str)> {
    let allowed = "a character is not allowed; use ASCII letters, digits, '.', '_', '~' and '-'";
    let mut rows = vec![
        ("a/b/c/d/e/f/g/h/i".to_owned(), "9 segments; use 1 to 8"),
        ("a".repeat(65), "a segment of 65 characters; use 1 to 64"),
        (format!("pets/{}/x", "a".repeat(65)), "a segment of 65 characters"),
    ];
    for path in ["pets/", "/pets", "pets//dogs", "/"] {
        rows.push((path.to_owned(), "a segment of 0 characters; use 1 to 64, and no '/' at the end"));
    }
    for path in [".", "..", "pets/.", "pets/../plants", "%2e%2e/plants", "pets/%2E", ".%2e"] {
        rows.push((path.to_owned(), "a segment is '.' or '..'; use another name"));
    }
    for path in [
        "pets%2Fdogs",
        "pets%2fdogs/corgi",
        "pets%5Cdogs",
        "pets/%C3%A9",
        "pets/%ff",
        "pets/%00",
        "pets/a%20b",
        "pets/*",
        "pets/a+b",
        "pets/a:b",
        "pets/%2561",
        "*",
    ] {
        rows.push((path.to_owned(), allowed));
    }
    for path in ["pets/%zz", "pets/%2", "%"] {
        rows.push((path.to_owned(), "bad percent-encoding"));
    }
    rows
}

#[test]
fn a_path_that_is_no_topic_is_refused_with_its_rule() {
    let server = start(&[], &[]);
    let mut everything = Stream::open(&server, "/subscribe/");
    for (path, about) in bad_paths() {
        println!("{path}: {about}");
        check_refusal(&server.get(&format!("/subscribe/{path}")), 400, about);
        check_refusal(&server.post(&format!("/publish/{path}"), "data: x"), 400, about);
    }
    server.publish("pets", "data: nothing before it");
    assert_eq!(everything.event().data, "nothing before it");
}

#[test]
fn nobody_publishes_to_everything() {
    let server = start(&[], &[]);
    let mut everything = Stream::open(&server, "/subscribe/");
    for path in ["/publish/", "/publish", "/publish?topic=pets", "/publish/?topic=pets"] {
        let answer = server.post(path, "data: x");
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        check_refusal(&answer, answer.status, if answer.status == 400 { "topic" } else { "no such path" });
    }
    server.publish("pets", "data: nothing before it");
    assert_eq!(everything.event().data, "nothing before it");
}

#[test]
fn without_the_flag_a_topic_is_one_id_and_there_is_no_path_below_it() {
    let server = Server::start(&[]);
    let mut stream = subscribe(&server, "AbcDef123");
    server.publish("abcdef123", "data: whatever the case");
    assert_eq!(stream.event().data, "whatever the case");
    for (path, status, about) in [
        ("pets", 400, "bad topic id: 4 characters; use 8 to 64 ASCII letters and digits"),
        ("abcdef_123", 400, "bad topic id: a character is not allowed"),
        ("abcdef123%2Fx", 400, "bad topic id: a character is not allowed"),
        ("abcdef123/x", 404, "no such path"),
        ("abcdef123/", 404, "no such path"),
        ("abcdef123/abcdef123", 404, "no such path"),
        ("", 400, "bad topic id: 0 characters"),
    ] {
        check_refusal(&server.get(&format!("/subscribe/{path}")), status, about);
        check_refusal(&server.post(&format!("/publish/{path}"), "data: x"), status, about);
    }
    // Everything is there with namespaces alone.
    let answer = server.get("/subscribe");
    check_refusal(&answer, answer.status, "");
    assert!(matches!(answer.status, 400 | 404), "{answer:?}");
}

/// The answer to a subscription with these claims; a stream that opens is left at once.
fn ask(server: &Server, target: &str, claims: &Value) -> Answer {
    let field = bearer(&sign(SUBSCRIBER, Algorithm::HS256, claims));
    let head = Stream::open_with(server, target, &[&field]).head;
    if head.status == 200 { head } else { server.request("GET", target, &[&field], "") }
}

/// The answer to a publish with these claims.
fn try_publish(server: &Server, topic: &str, claims: &Value) -> Answer {
    let field = bearer(&sign(PUBLISHER, Algorithm::HS256, claims));
    server.request("POST", &format!("/publish/{topic}"), &[&field], "data: x")
}

#[test]
fn a_token_covers_the_trees_of_its_sub_and_its_topics_by_segments_and_a_star_covers_all() {
    let server = Server::start_with(&["--namespaces"], BOTH);
    let exp = now_s() + 600;
    let all = ["pets", "pets/dogs", "pets/dogs/corgi", "pets/dogs-2", "petshop", "Pets", "plants", ""];
    let pets = ["pets", "pets/dogs", "pets/dogs/corgi", "pets/dogs-2"];
    let dogs = ["pets/dogs", "pets/dogs/corgi"];
    for (claims, covered) in [
        (json!({"sub": "pets"}), &pets[..]),
        (json!({"sub": "pets/dogs"}), &dogs),
        (json!({"sub": "Pets"}), &["Pets"]),
        (json!({"sub": "*"}), &all),
        (json!({"topics": ["pets"]}), &pets),
        (json!({"topics": ["pets/dogs", "plants"]}), &["pets/dogs", "pets/dogs/corgi", "plants"]),
        (json!({"sub": "plants", "topics": ["pets/dogs"]}), &["pets/dogs", "pets/dogs/corgi", "plants"]),
        (json!({"topics": ["plants", "*"]}), &all),
        (json!({"sub": "plants", "topics": []}), &["plants"]),
        (json!({"topics": []}), &[]),
        (json!({"topics": [""]}), &[]),
        (json!({"sub": ""}), &[]),
        (json!({"sub": "pet"}), &[]),
        (json!({"sub": "pets/*"}), &[]),
        (json!({"sub": "**"}), &[]),
        (json!({}), &[]),
    ] {
        let mut claims = claims;
        claims["exp"] = json!(exp);
        for topic in all {
            let is_covered = covered.contains(&topic);
            println!("{claims}: {topic:?} {is_covered}");
            for target in [format!("/subscribe/{topic}"), format!("/subscribe?topic={topic}")] {
                if topic.is_empty() && target.contains('?') {
                    continue;
                }
                let answer = ask(&server, &target, &claims);
                if is_covered {
                    assert_eq!(answer.status, 200, "{target}: {answer:?}");
                } else {
                    check_refusal(&answer, 403, "token");
                }
            }
            if !topic.is_empty() {
                let answer = try_publish(&server, topic, &claims);
                if is_covered {
                    assert_eq!(answer.status, 200, "{topic}: {answer:?}");
                } else {
                    check_refusal(&answer, 403, "token");
                }
            }
        }
    }
}

#[test]
fn each_of_several_topics_must_be_covered() {
    let server = Server::start_with(&["--namespaces"], BOTH);
    let claims = |topics: &[&str]| json!({"topics": topics, "exp": now_s() + 600});
    for (topics, query, is_covered) in [
        (&["pets", "plants"][..], "topic=pets&topic=plants", true),
        (&["pets", "plants"], "topic=pets/dogs&topic=plants/ferns&topic=pets", true),
        (&["pets/dogs", "pets/cats"], "topic=pets/dogs&topic=pets/cats", true),
        (&["pets"], "topic=pets&topic=petshop", false),
        (&["pets", "plants"], "topic=pets&topic=plants&topic=stones", false),
        (&["pets/dogs", "pets/cats"], "topic=pets/dogs&topic=pets", false),
        // What another one covers is not asked about.
        (&["pets"], "topic=pets/dogs&topic=pets", true),
        (&["*"], "topic=pets&topic=plants&topic=stones", true),
    ] {
        let answer = ask(&server, &format!("/subscribe?{query}"), &claims(topics));
        if is_covered {
            assert_eq!(answer.status, 200, "{topics:?} {query}: {answer:?}");
        } else {
            check_refusal(&answer, 403, "token");
        }
    }
}

#[test]
fn topics_in_a_token_that_are_no_list_of_names_are_401() {
    for flags in [&["--namespaces"][..], &[]] {
        let server = Server::start_with(flags, BOTH);
        let names: Vec<String> = (0..65).map(|n| format!("abcdefgh{n}")).collect();
        for topics in [
            json!("abcdefgh1"),
            json!(5),
            json!(null),
            json!(true),
            json!({"abcdefgh1": true}),
            json!(["abcdefgh1", 5]),
            json!([["abcdefgh1"]]),
            json!(["abcdefgh1", null]),
            json!(names),
        ] {
            let claims = json!({"sub": "abcdefgh1", "topics": topics, "exp": now_s() + 600});
            println!("{claims}");
            let answer = ask(&server, "/subscribe/abcdefgh1", &claims);
            check_unauthorized(&answer, "topics");
            check_unauthorized(&try_publish(&server, "abcdefgh1", &claims), "topics");
        }
        let claims = json!({"topics": names[..64], "exp": now_s() + 600});
        assert_eq!(ask(&server, "/subscribe/abcdefgh1", &claims).status, 200);
        assert_eq!(try_publish(&server, "abcdefgh63", &claims).status, 200);
        check_refusal(&try_publish(&server, "abcdefgh64", &claims), 403, "token");
    }
}

#[test]
fn without_the_flag_a_token_may_list_topics_too_in_any_case() {
    let server = Server::start_with(&[], BOTH);
    let exp = now_s() + 600;
    for (claims, topic, is_covered) in [
        (json!({"topics": ["MyTopic01", "mytopic02"], "exp": exp}), "mytopic01", true),
        (json!({"topics": ["mytopic01", "mytopic02"], "exp": exp}), "MyTopic02", true),
        (json!({"topics": ["mytopic01", "mytopic02"], "exp": exp}), "mytopic03", false),
        (json!({"sub": "mytopic01", "topics": ["mytopic02"], "exp": exp}), "mytopic01", true),
        (json!({"sub": "*", "exp": exp}), "mytopic01", true),
        (json!({"topics": ["*"], "exp": exp}), "mytopic01", true),
    ] {
        let answers =
            [ask(&server, &format!("/subscribe/{topic}"), &claims), try_publish(&server, topic, &claims)];
        for answer in answers {
            if is_covered {
                assert_eq!(answer.status, 200, "{claims} {topic}: {answer:?}");
            } else {
                check_refusal(&answer, 403, "token");
            }
        }
    }
}
