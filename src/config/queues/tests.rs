use super::super::Config;
use super::*;

fn queues() -> Queues {
    let args = ["esper", "--broker-node", "amqp://localhost/"];
    Config::parse(args, &|_| None).unwrap().queues.unwrap()
}

#[test]
fn what_a_program_sets_wrong_is_refused_by_its_field() {
    type Row = (&'static str, fn(&mut Queues));
    let rows: [Row; 14] = [
        ("queues.nodes: empty", |q| q.nodes.clear()),
        ("queues.path \"a\": not a path", |q| q.path = "a".into()),
        ("queues.path \"/stats\": /stats is served", |q| q.path = "/stats".into()),
        ("queues.expire 0ns: not whole seconds", |q| q.expire = Duration::ZERO),
        ("queues.expire 1.5s: not whole seconds", |q| q.expire = Duration::from_millis(1500)),
        ("queues.prefetch 100: not more than queues.ack_window 100", |q| q.prefetch = 100),
        ("queues.ack_delay 30s: out of range", |q| q.ack_delay = Duration::from_secs(30)),
        ("queues.ack_delay", |q| q.ack_delay = Duration::MAX),
        ("queues.subscribe of \"\": a name of 1 to 255 bytes", |q| q.subscribe.push(rule("", "#", "x"))),
        ("queues.subscribe of \"e\": a name of", |q| {
            q.subscribe.push(rule("e", &"k".repeat(256), "x"));
        }),
        ("queues.subscribe of \"e\": topic \"x\": bad topic", |q| q.subscribe.push(rule("e", "#", "x"))),
        ("header.sse has no Content-Type", |q| q.headers_sse.clear()),
        ("header.cors.A\\nB: not a header's name", |q| {
            q.headers_cors.push(("A\nB".into(), String::new()));
        }),
        ("header.cors.vary: there twice", |q| {
            q.headers_cors.extend(["Vary", "vary"].map(|name| (name.into(), String::new())));
        }),
    ];
    for (start, change) in rows {
        let mut config = Config { queues: Some(queues()), ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        change(config.queues.as_mut().unwrap());
        let refused = config.check().unwrap_err();
        assert!(refused.starts_with(start), "{refused}, should begin with {start}");
        assert!(!refused.contains('\n'));
    }
}

fn rule(exchange: &str, routing_key: &str, topic: &str) -> SubscribeRule {
    let [exchange, routing_key, topic] = [exchange, routing_key, topic].map(str::to_owned);
    SubscribeRule { exchange, routing_key, topic }
}

#[test]
fn a_rules_topic_may_be_right_for_some_routing_key() {
    for (topic, namespaces, is_right) in [
        ("newspaper1", false, true),
        ("news", false, false),
        ("${routing_key}", false, true),
        ("news${routing_key}", false, true),
        ("news-${routing_key}", false, false),
        ("news${routing-key}", false, false),
        ("", false, false),
        ("a/${routing_key}/b", true, true),
        ("a.${routing_key}-${routing_key}", true, true),
        ("a//${routing_key}", true, false),
        ("..", true, false),
        ("", true, false),
    ] {
        assert_eq!(check_topic(topic, namespaces).is_ok(), is_right, "{topic} {namespaces}");
    }
    let longest = "x".repeat(63);
    assert!(check_topic(&format!("{longest}{ROUTING_KEY}"), false).is_ok());
    assert!(check_topic(&format!("{longest}x{ROUTING_KEY}"), false).is_err());
}

#[test]
fn seconds_need_no_unit_as_eventsourced_has_them() {
    for (text, seconds) in
        [("1800", Some(1800)), ("30m", Some(1800)), ("1", Some(1)), ("49d", Some(4_233_600))]
    {
        assert_eq!(expire(text).ok().map(|time| time.as_secs()), seconds, "{text}");
    }
    for text in ["", "0", "-1", "1.5", "4233601", "99999999999999999999", "1800 "] {
        assert!(expire(text).is_err(), "{text}");
    }
}
