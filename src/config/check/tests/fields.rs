//! Configurations as a program fills them in, and the field that a refusal names.

use std::time::Duration;

use super::*;
use crate::config::MIB;

fn control(bind: &str) -> Control {
    Control::new(bind.parse().unwrap())
}

#[test]
fn what_is_out_of_range_is_refused_by_its_field() {
    type Row = (&'static str, fn(&mut Config));
    let rows: [Row; 48] = [
        ("cpus.ids.len() 0", |c| c.cpus.ids.clear()),
        ("cpus.ids.len() 1025", |c| c.cpus.ids = (0..1025).collect()),
        ("bind: nothing to listen on", |c| c.bind.clear()),
        ("bind unix:s: not a path from the root", |c| c.bind = vec![BindAddress::Unix("s".into())]),
        ("bind_mode 0o66: not a mode", |c| c.bind_mode = 0o066),
        ("control.bind 127.0.0.1: not an address with its port", |c| c.control = Some(control("127.0.0.1"))),
        ("partitions 0", |c| c.partitions = 0),
        ("partitions 65", |c| c.partitions = 65),
        ("topics_max 0", |c| c.topics_max = 0),
        ("subscribers_max 0", |c| c.subscribers_max = Some(0)),
        ("history.events_max", |c| c.history.events_max = usize::MAX),
        ("history.bytes_max", |c| c.history.bytes_max = usize::MAX),
        ("history.memory_bytes_max", |c| c.history.memory_bytes_max = usize::MAX),
        ("history.age_max 0ns", |c| c.history.age_max = Duration::ZERO),
        ("stream.heartbeat 99ms", |c| c.stream.heartbeat = Some(Duration::from_millis(99))),
        ("stream.lag_bytes_max", |c| c.stream.lag_bytes_max = usize::MAX),
        ("stream.send_timeout", |c| c.stream.send_timeout = Duration::MAX),
        ("stream.retry_min", |c| c.stream.retry_min = Duration::ZERO),
        ("stream.retry_max", |c| c.stream.retry_max = Duration::MAX),
        ("http.head_bytes_max 1023", |c| c.http.head_bytes_max = 1023),
        ("http.body_bytes_max 0", |c| c.http.body_bytes_max = 0),
        ("http.head_timeout", |c| c.http.head_timeout = Duration::ZERO),
        ("http.body_timeout", |c| c.http.body_timeout = Duration::ZERO),
        ("http.idle_timeout", |c| c.http.idle_timeout = Duration::ZERO),
        ("http.unanswered_max 0", |c| c.http.unanswered_max = 0),
        ("http.memory_bytes_max 1048575", |c| c.http.memory_bytes_max = MIB - 1),
        ("mailbox.bytes_max", |c| c.mailbox.bytes_max = usize::MAX),
        ("mailbox.messages_max 0", |c| c.mailbox.messages_max = 0),
        ("mailbox.wait_max", |c| c.mailbox.wait_max = Duration::MAX),
        ("drain.delay", |c| c.drain.delay = Duration::MAX),
        ("drain.time_max 0ns", |c| c.drain.time_max = Duration::ZERO),
        ("access_log_sample 0", |c| c.access_log_sample = 0),
        ("auth.cookie_name", |c| c.auth.cookie_name = "a;b".into()),
        ("auth.session_time_max 999ms", |c| c.auth.session_time_max = Duration::from_millis(999)),
        ("auth.leeway", |c| c.auth.leeway = Duration::from_secs(601)),
        ("auth.session_time_max", |c| c.auth.session_time_max = Duration::MAX),
        ("auth.token_bytes_max 32769", |c| c.auth.token_bytes_max = 32_769),
        ("http.head_bytes_max 16384: less than auth.token_bytes_max 12289", |c| {
            c.auth.token_bytes_max = 12_289;
        }),
        ("auth.subscriber.audiences: no key", |c| c.auth.subscriber.audiences = vec!["a".to_owned()]),
        ("auth.session.issuers: no key", |c| c.auth.session.issuers = vec!["a".to_owned()]),
        ("control.bind 127.0.0.1:3000: the public", |c| c.control = Some(control("127.0.0.1:3000"))),
        ("control.token None: other machines", |c| c.control = Some(control("0.0.0.0:1"))),
        ("control.token: a token of less than 16 bytes", |c| {
            c.control = Some(Control { token: Secret::new("fifteen bytes.."), ..control("0.0.0.0:1") });
        }),
        ("control.token: a token with other than", |c| {
            c.control = Some(Control { token: Secret::new("sixteen bytes..."), ..control("0.0.0.0:1") });
        }),
        ("control.hosts \"A.example\"", |c| {
            c.control = Some(Control { hosts: vec!["A.example".into()], ..control("127.0.0.1:1") });
        }),
        ("control.hosts \"a:80\"", |c| {
            c.control = Some(Control { hosts: vec!["b".into(), "a:80".into()], ..control("127.0.0.1:1") });
        }),
        ("history.memory_bytes_max 3145728: less than", |c| c.history.memory_bytes_max = 3 * MIB),
        ("stream.retry_max 500ms: less than", |c| c.stream.retry_max = Duration::from_millis(500)),
    ];
    for (start, change) in rows {
        let mut config = Config::default();
        change(&mut config);
        let refused = config.check().unwrap_err();
        assert!(refused.starts_with(start), "{refused}, should begin with {start}");
        assert!(!refused.contains('\n'));
    }
}

#[test]
fn what_the_flags_allow_at_their_edges_is_allowed() {
    let exposed = Control { token: Secret::new("sixteen-bytes..."), ..control("0.0.0.0:3001") };
    let config = Config { control: Some(exposed), ..Config::default() };
    assert_eq!(config.check(), Ok(()));
    for line in [
        "",
        "--bind-control 127.0.0.1:0 --control-host a.example,b --session-time-max 365d",
        "--bind 127.0.0.1:0 --bind-control [::1]:1 --session-time-max 1s",
        "--heartbeat 100ms --history-events 0 --mailbox-wait 0s --retry-min 365d --retry-max 365d",
        "--heartbeat 0s --topics-max 1000000000 --subscribers-max 1 --mailbox-messages 1",
        "--head-max 1MiB --body-max 1KiB --slow-lag 2KiB --mailbox-bytes 2KiB --request-memory 1MiB",
        "--body-max 64MiB --slow-lag 128MiB --mailbox-bytes 128MiB --history-memory 1PiB",
    ] {
        let config = Config::parse(["esper"].into_iter().chain(line.split_whitespace()), &|_| None);
        assert_eq!(config.unwrap().check(), Ok(()), "{line}");
    }
}
