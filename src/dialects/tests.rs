use bytes::Bytes;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::call::{READ, READ_BY_BODY, WRITE};
use super::*;
use crate::config::Config;
use crate::core::fanout::StreamTerms;
use crate::core::survey::ClientAddress;
use crate::core::topic::{TopicHasher, TopicNames};
use crate::http::{BodyLength, Version};

const NOW_S: u64 = 1_700_000_000;
const SUBSCRIBER: (&str, &str) = ("ESPER_SUBSCRIBER_SECRET", "a-secret-for-those-who-subscribe");
const PUBLISHER: (&str, &str) = ("ESPER_PUBLISHER_SECRET", "a-secret-for-those-who-publish..");

/// Returns the access rules of a server with these flags and secrets.
fn access(flags: &str, secrets: &[(&str, &str)]) -> Access {
    let env = |name: &str| secrets.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
    let config = Config::parse(["esper"].into_iter().chain(flags.split_whitespace()), &env).unwrap();
    Access::new(&config, names(&config))
}

/// Returns how a server with this configuration names its topics.
pub(super) fn names(config: &Config) -> TopicNames {
    TopicNames::new(TopicHasher::of(16), config.namespaces)
}

pub(super) fn head(method: Method, target: &str) -> Head {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Head {
        content_encoding: None,
        method,
        version: Version::Http11,
        path: Bytes::copy_from_slice(path.as_bytes()),
        query: Bytes::copy_from_slice(query.as_bytes()),
        keep_alive: true,
        expect_continue: false,
        body: BodyLength::None,
        origin: None,
        accept: None,
        content_type: None,
        authorization: None,
        cookie: None,
        last_event_id: None,
        idempotency_key: None,
        user_agent: None,
        host: None,
        forwarded_for: None,
    }
}

fn token((_, secret): (&str, &str), claims: Value) -> String {
    let mut claims = claims;
    claims["exp"] = json!(NOW_S + 60);
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn get(target: &str, access: &Access) -> Result<Action, Refusal> {
    route(&head(Method::Get, target), Port::Public, access, || NOW_S)
}

fn post(target: &str, access: &Access) -> Result<Action, Refusal> {
    route(&head(Method::Post, target), Port::Public, access, || NOW_S)
}

/// Returns the names of the topics subscribed to; that of everything is empty.
fn subscribed(action: Result<Action, Refusal>) -> Vec<String> {
    match action {
        Ok(Action::Subscribe(subscribe)) => {
            subscribe.terms.topics.iter().map(|topic| topic.name().to_owned()).collect()
        }
        other => panic!("no subscription: {other:?}"),
    }
}

#[track_caller]
fn refused(action: Result<Action, Refusal>, status: Status, about: &str) {
    let refusal = action.unwrap_err();
    assert_eq!(refusal.status, status, "{refusal}");
    assert!(refusal.reason.contains(about), "{refusal}");
    assert!(!refusal.reason.contains('\n') && !refusal.close, "{refusal}");
}

#[test]
fn every_path_that_a_404_lists_is_there() {
    let access = access("--namespaces", &[]);
    let listed = get("/nowhere", &access).unwrap_err().reason;
    for path in [
        "/subscribe/{topic}",
        "/subscribe?topic={topic}",
        "/stats",
        "/metrics",
        "/debug/vars",
        "/admin/",
        "/healthz",
    ] {
        assert!(listed.contains(&format!("GET {path}")), "{path}");
        assert!(get(&path.replace("{topic}", "pets"), &access).is_ok(), "{path}");
    }
    assert!(listed.contains("POST /publish/{topic}") && post("/publish/pets", &access).is_ok());
}

#[test]
fn without_namespaces_a_topic_is_one_segment() {
    let access = access("", &[]);
    assert_eq!(subscribed(get("/subscribe/Abcdef12", &access)), ["abcdef12"]);
    assert!(post("/publish/abcdef12", &access).is_ok());
    for path in
        ["/subscribe", "/subscribe/abcdef12/abcdef12", "/subscribe/abcdef12/", "/metrics/", "/admin/x"]
    {
        refused(get(path, &access), Status::NotFound, "no such path");
    }
    for path in ["/publish", "/publish/abcdef12/abcdef12", "/publish/abcdef12/"] {
        refused(post(path, &access), Status::NotFound, "no such path");
    }
    refused(get("/subscribe/", &access), Status::BadRequest, "8 to 64");
    refused(post("/publish/", &access), Status::BadRequest, "8 to 64");
    refused(get("/subscribe/pets", &access), Status::BadRequest, "8 to 64");
}

#[test]
fn with_namespaces_a_topic_is_a_path() {
    let access = access("--namespaces", &[]);
    assert_eq!(subscribed(get("/subscribe/pets", &access)), ["pets"]);
    assert_eq!(subscribed(get("/subscribe/pets/Dogs/%43orgi", &access)), ["pets/Dogs/Corgi"]);
    match post("/publish/pets/dogs", &access) {
        Ok(Action::Publish(publish)) => assert_eq!(publish.topic.name(), "pets/dogs"),
        other => panic!("no publish: {other:?}"),
    }
    for (path, about) in [
        ("/a/b/c/d/e/f/g/h/i", "9 segments"),
        ("/pets/", "0 characters"),
        ("/pets//dogs", "0 characters"),
        ("//pets", "0 characters"),
        ("/pets%2Fdogs", "not allowed"),
        ("/pets/%2e%2e", "'..'"),
        ("/pets/.", "'.'"),
        ("/h%C3%BCnde", "not allowed"),
        ("/pets/%", "percent-encoding"),
    ] {
        refused(get(&format!("/subscribe{path}"), &access), Status::BadRequest, about);
        refused(post(&format!("/publish{path}"), &access), Status::BadRequest, about);
    }
}

#[test]
fn everything_can_be_subscribed_to_and_not_published_to() {
    let access = access("--namespaces", &[]);
    for path in ["/subscribe", "/subscribe/", "/subscribe/?token=t"] {
        assert_eq!(subscribed(get(path, &access)), [""], "{path}");
    }
    refused(post("/publish/", &access), Status::BadRequest, "no topic: publish to one");
    refused(post("/publish", &access), Status::NotFound, "no such path");
    refused(get("/subscribe?topic=", &access), Status::BadRequest, "0 characters");
}

#[test]
fn several_topics_are_asked_for_in_the_query() {
    let plain = access("", &[]);
    for path in ["/subscribe", "/subscribe/"] {
        let target = format!("{path}?topic=abcdef12&x=y&topic=abcdef13");
        assert_eq!(subscribed(get(&target, &plain)), ["abcdef12", "abcdef13"]);
    }
    assert_eq!(subscribed(get("/subscribe?topic=abcdef12", &plain)), ["abcdef12"]);
    refused(get("/subscribe?topic=abcdef12/abcdef13", &plain), Status::BadRequest, "not allowed");
    refused(get("/subscribe?topic=abcdef12&topic=pets", &plain), Status::BadRequest, "8 to 64");

    let spaces = access("--namespaces", &[]);
    assert_eq!(subscribed(get("/subscribe?topic=a&topic=b/c&topic=d%2Fe", &spaces)), ["a", "b/c", "d/e"]);
    refused(get("/subscribe?topic=a&topic=b+c", &spaces), Status::BadRequest, "not allowed");
    refused(get("/subscribe?topic=a&topic=b/../c", &spaces), Status::BadRequest, "'..'");
    for (target, access) in
        [("/subscribe/abcdef12?topic=abcdef13", &plain), ("/subscribe/a?topic=b", &spaces)]
    {
        refused(get(target, access), Status::BadRequest, "topics in the path and in the query");
    }
    refused(post("/subscribe?topic=a", &spaces), Status::BadRequest, "write it into the body");
    refused(post("/subscribe/a", &spaces), Status::MethodNotAllowed, "GET, HEAD, OPTIONS");
}

#[test]
fn a_topic_asked_for_twice_or_below_another_is_taken_once() {
    let access = access("--namespaces", &[]);
    for (query, left) in [
        ("topic=a&topic=b&topic=a", &["a", "b"][..]),
        ("topic=pets/dogs&topic=b&topic=pets/cats&topic=pets", &["b", "pets"]),
        ("topic=pets&topic=pets/dogs&topic=petshop", &["pets", "petshop"]),
    ] {
        assert_eq!(subscribed(get(&format!("/subscribe?{query}"), &access)), left, "{query}");
    }
}

#[test]
fn at_most_64_topics_are_taken_on_one_connection() {
    let access = access("--namespaces", &[]);
    let target = |count: usize| {
        let topics: Vec<String> = (0..count).map(|n| format!("topic=t{n}")).collect();
        format!("/subscribe?{}", topics.join("&"))
    };
    assert_eq!(subscribed(get(&target(64), &access)).len(), 64);
    refused(get(&target(65), &access), Status::BadRequest, "at most 64");
}

#[test]
fn a_token_must_cover_each_topic_asked_for() {
    let access = access("--namespaces", &[SUBSCRIBER, PUBLISHER]);
    let ask = |target: &str, claims: Value| {
        let mark = if target.contains('?') { '&' } else { '?' };
        get(&format!("{target}{mark}token={}", token(SUBSCRIBER, claims)), &access)
    };
    assert_eq!(subscribed(ask("/subscribe?topic=a&topic=b/c", json!({"topics": ["a", "b"]}))), ["a", "b/c"]);
    assert_eq!(
        subscribed(ask("/subscribe?topic=a&topic=b", json!({"sub": "a", "topics": ["b"]}))),
        ["a", "b"]
    );
    assert_eq!(subscribed(ask("/subscribe?topic=a&topic=b", json!({"sub": "*"}))), ["a", "b"]);
    assert_eq!(subscribed(ask("/subscribe/", json!({"topics": ["*"]}))), [""]);
    let forbidden = Status::Forbidden;
    refused(ask("/subscribe?topic=a&topic=b/c", json!({"topics": ["a", "b/c/d"]})), forbidden, "cover b/c");
    refused(ask("/subscribe/petshop", json!({"sub": "pets"})), forbidden, "cover petshop");
    refused(ask("/subscribe/", json!({"sub": "pets"})), forbidden, "must be '*'");
    refused(
        ask("/subscribe/a", json!({"sub": "a", "topics": "a"})),
        Status::Unauthorized,
        "topics of the token",
    );
    refused(get("/subscribe?topic=a", &access), Status::Unauthorized, "no token");

    let publish =
        |path: &str| post(&format!("{path}?token={}", token(PUBLISHER, json!({"sub": "pets"}))), &access);
    assert!(publish("/publish/pets/dogs").is_ok());
    refused(publish("/publish/petshop"), forbidden, "cover petshop");
}

#[test]
fn what_shows_the_broker_from_inside_needs_a_publishers_token_where_there_is_a_secret() {
    let open = access("", &[SUBSCRIBER]);
    let guarded = access("", &[SUBSCRIBER, PUBLISHER]);
    let right = token(PUBLISHER, json!({"sub": "abcdefgh"}));
    let wrong = token(SUBSCRIBER, json!({"sub": "*"}));
    // As it is for a session's token.
    let of_no_topic = token(PUBLISHER, json!({"userId": "alex", "channel": "chat"}));
    for path in ["/stats", "/metrics", "/debug/vars", "/admin/status.json", "/admin/events"] {
        assert!(get(path, &open).is_ok(), "{path}");
        refused(get(path, &guarded), Status::Unauthorized, "no token");
        refused(get(&format!("{path}?token={wrong}"), &guarded), Status::Unauthorized, "signature");
        refused(get(&format!("{path}?token={of_no_topic}"), &guarded), Status::Forbidden, "no topic");
        assert!(get(&format!("{path}?token={right}"), &guarded).is_ok(), "{path}");
        let by_header =
            Head { authorization: Some(format!("Bearer {right}").into()), ..head(Method::Get, path) };
        assert!(route(&by_header, Port::Public, &guarded, || NOW_S).is_ok(), "{path}");
        let by_cookie =
            Head { cookie: Some(format!("esper_token={right}").into()), ..head(Method::Get, path) };
        refused(route(&by_cookie, Port::Public, &guarded, || NOW_S), Status::Unauthorized, "no token");
    }
    for page in ["/admin", "/admin/"] {
        assert!(matches!(get(page, &guarded), Ok(Action::Report(Report::AdminPage))), "{page}");
    }
    match get(&format!("/admin/events?token={right}"), &guarded) {
        Ok(Action::Subscribe(Subscribe {
            terms: StreamTerms { expires_s, .. },
            feeds_admin_page: true,
            ..
        })) => {
            assert_eq!(expires_s, NOW_S + 60 + 5, "with the leeway")
        }
        other => panic!("no events: {other:?}"),
    }
}

#[test]
fn without_the_admin_page_all_below_it_is_forbidden() {
    let access = access("--no-admin", &[]);
    for path in ["/admin", "/admin/", "/admin/status.json", "/admin/events", "/admin/nowhere"] {
        for method in [Method::Get, Method::Post, Method::Options] {
            let action = route(&head(method, path), Port::Public, &access, || NOW_S);
            refused(action, Status::Forbidden, "the admin page is off (--no-admin)");
        }
    }
    refused(get("/administrator", &access), Status::NotFound, "no such path");
    assert!(get("/stats", &access).is_ok() && get("/metrics", &access).is_ok());
}

#[test]
fn a_list_of_connections_is_filtered_and_cut_as_the_query_says() {
    let access = access("", &[]);
    for (query, topic, max) in [
        ("", None, 1000),
        ("?topic=", None, 1000),
        ("?topic=a%2Fb&max=0", Some("a/b"), 0),
        ("?max=10000", None, 10_000),
    ] {
        match get(&format!("/admin/status.json{query}"), &access) {
            Ok(Action::Ask(question)) => {
                assert_eq!(question, Question::Status { topic: topic.map(str::to_owned), streams_max: max });
            }
            other => panic!("no status: {other:?}"),
        }
    }
    for max in ["", "10001", "-1", "+5", "ten", "99999999999999999999999"] {
        let action = get(&format!("/admin/status.json?max={}", max.replace('+', "%2B")), &access);
        refused(action, Status::BadRequest, "from 0 to 10000");
    }
}

#[test]
fn a_browser_may_ask_for_the_methods_without_a_token() {
    let access = access("--namespaces", &[SUBSCRIBER, PUBLISHER]);
    for (target, methods) in [
        ("/subscribe", READ_BY_BODY.names),
        ("/subscribe?topic=a", READ_BY_BODY.names),
        ("/subscribe/pets/dogs", READ.names),
        ("/publish/pets/dogs", WRITE.names),
        ("/metrics", READ.names),
        ("/admin/events", READ.names),
    ] {
        match route(&head(Method::Options, target), Port::Public, &access, || NOW_S) {
            Ok(Action::Options(told)) => assert_eq!(told, Extra::Preflight(methods), "{target}"),
            other => panic!("no methods for {target}: {other:?}"),
        }
        let other = route(&head(Method::Other, target), Port::Public, &access, || NOW_S).unwrap_err();
        assert_eq!((other.status, other.extra), (Status::MethodNotAllowed, Some(Extra::Allow(methods))));
    }
}

#[test]
fn a_clients_address_is_the_right_most_that_a_trusted_proxy_saw() {
    let access = access("--trusted-proxy 10.0.0.0/8,::1,unix", &[]);
    for (peer, forwarded, client) in [
        // `X-Forwarded-For` of a peer that is no trusted proxy is ignored.
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("192.0.2.1", "", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("unix", "", "unix"),
        ("unix", "198.51.100.1", "198.51.100.1"),
        ("unix", "198.51.100.1, 10.0.0.3", "198.51.100.1"),
        ("unix", "unix", "unix"),
        // Entries left of an untrusted address may be forged.
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        // An entry that is no address ends the search.
        ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "<script>", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1,, ,", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:80", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]:80", "2001:db8::1"),
        ("10.0.0.1", "[198.51.100.1]", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:port", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, ::ffff:10.0.0.2", "198.51.100.1"),
    ] {
        let head =
            Head { forwarded_for: Some(Bytes::from_static(forwarded.as_bytes())), ..head(Method::Get, "/") };
        let peer = match peer {
            "unix" => ClientAddress::Unix,
            peer => ClientAddress::Ip(peer.parse().unwrap()),
        };
        let address = client_address(peer, &head, &access);
        assert_eq!(address.to_string(), client, "{peer} {forwarded:?}");
    }
    let head = head(Method::Get, "/");
    let peer = ClientAddress::Ip([10, 0, 0, 1].into());
    assert_eq!(client_address(peer, &head, &access), peer);
}

#[test]
fn without_trusted_proxies_nothing_is_believed() {
    let head = Head { forwarded_for: Some(Bytes::from_static(b"198.51.100.1")), ..head(Method::Get, "/") };
    let ips = ["127.0.0.1", "10.0.0.1", "::1"].map(|ip| ClientAddress::Ip(ip.parse().unwrap()));
    for peer in ips.into_iter().chain([ClientAddress::Unix]) {
        assert_eq!(client_address(peer, &head, &access("", &[])), peer);
    }
}
