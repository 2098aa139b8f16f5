//! Flags, variables and files as a person writes them, and the configuration or the refusal they give.

mod edges;
mod features;
mod fields;
mod listeners;
mod tokens;

use std::collections::HashSet;
use std::ffi::OsString;

use super::super::keys::tests::{TempFile, pair, parse, parse_with_warnings};
use super::super::{
    Cluster, ConfigError, Control, Cpus, Data, LogFormat, LogLevel, PublicKey, Queues, RefuseStreams, Secret,
    SlowPolicy, SyncPolicy, TrustedProxy, cpus,
};
use super::*;
use tokens::asked_of;

/// Ed25519, made for these tests.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA895MFtRI5RnkL3JFEcZS7LL/rFQ93ZcfEmRd/Ic//LQ=
-----END PUBLIC KEY-----
";
/// A JWK Set with the same key.
const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"895MFtRI5RnkL3JFEcZS7LL_rFQ93ZcfEmRd_Ic__LQ"}]}"#;
const SECRET: &str = "a-secret-of-these-tests-and-of-nothing-else";

/// Returns the binary's configuration without flags and variables, which configures the whole process.
fn unflagged() -> Config {
    let cpus = Cpus { ids: cpus::usable().unwrap(), pin: true };
    Config { cpus, raise_file_limit: true, ..Config::default() }
}

#[test]
fn without_flags_and_variables_it_is_the_default_on_every_cpu() {
    assert_eq!(parse("", &[]), Ok(unflagged()));
}

#[test]
fn the_defaults_are_allowed_when_they_are_written_out() {
    let written = "--bind 127.0.0.1 --bind-mode 660 --port 3000 --session-time-max 30d --cookie-name esper_token --leeway 5s --token-max 8KiB --history-events 1000 \
        --history-bytes 4MiB --history-age 10m --history-memory 256MiB --partitions 16 --topics-max 100000 --sync always \
        --heartbeat 15s --slow-lag 4MiB --slow-policy cut --send-timeout 20s --refuse-streams retry \
        --retry-min 1s --retry-max 5s --head-max 16KiB --body-max 1MiB --head-timeout 10s \
        --body-timeout 30s --idle-timeout 75s --unanswered-max 512 --request-memory 128MiB --cors-origin * --mailbox-bytes 64MiB \
        --mailbox-messages 65536 --mailbox-wait 1s --drain-delay 0s --drain-time 10s --log-format text \
        --log-level info --access-log-sample 1";
    assert_eq!(parse(written, &[]), Ok(unflagged()));
}

/// A flag, a value that is not its default, and its effect. `SECRET`, `KEY` and `JWKS` stand for files with those.
type Row = (&'static str, &'static str, fn(&mut Config));

/// The flag that the control port's other flags need.
const WITH_CONTROL: &str = "--bind-control 127.0.0.1:1";

fn control(change: fn(&mut Control)) -> Option<Control> {
    let mut control = Control::new("127.0.0.1:1".parse().unwrap());
    change(&mut control);
    Some(control)
}

/// The flag that the journal's other flags need.
const WITH_DATA: &str = "--data-dir /tmp/data";
const WITH_CLUSTER: &str = "--cluster nats://h:4222";

/// Returns a cluster of one server, changed.
fn cluster(change: impl FnOnce(&mut Cluster)) -> Option<Cluster> {
    let mut cluster = Cluster {
        nodes: vec!["nats://h:4222".parse().unwrap()],
        name: "esper".to_owned(),
        replicas: 3,
        nkey_file: None,
        credentials_file: None,
        ca_file: None,
    };
    change(&mut cluster);
    Some(cluster)
}

fn data(change: fn(&mut Data)) -> Option<Data> {
    let mut data = Data { dir: "/tmp/data".into(), sync: SyncPolicy::Always, bytes_max: None };
    change(&mut data);
    Some(data)
}

/// The flag that the queues' other flags need.
const WITH_BROKER: &str = "--broker-node amqp://localhost/";

fn queues(change: fn(&mut Queues)) -> Option<Queues> {
    let mut queues = parse(WITH_BROKER, &[]).unwrap().queues.unwrap();
    change(&mut queues);
    Some(queues)
}

fn public_keys() -> Vec<PublicKey> {
    PublicKey::list_from_pem(PUBLIC_KEY).unwrap()
}

const ROWS: &[Row] = &[
    ("bind", "::1", |c| c.bind = vec!["::1".parse().unwrap()]),
    ("bind", "127.0.0.1:1,unix:/run/a", |c| {
        c.bind = ["127.0.0.1:1", "unix:/run/a"].map(|text| text.parse().unwrap()).into();
    }),
    ("bind-mode", "0666", |c| c.bind_mode = 0o666),
    ("bind-group", "www-data", |c| c.bind_group = Some("www-data".into())),
    ("port", "0", |c| c.port = 0),
    ("threads", "1", |c| c.cpus.ids.truncate(1)),
    ("cores", "1", |c| c.cpus.ids.truncate(1)),
    ("no-pin", "true", |c| c.cpus.pin = false),
    ("takeover", "true", |c| c.takeover = true),
    ("bind-control", "127.0.0.1:1", |c| c.control = control(|_| {})),
    ("control-token-file", "SECRET", |c| c.control = control(|c| c.token = Secret::new(SECRET))),
    ("control-host", "a.example", |c| c.control = control(|c| c.hosts = vec!["a.example".into()])),
    ("public-publish", "true", |c| c.control = control(|c| c.public_publish = true)),
    ("subscriber-secret-file", "SECRET", |c| c.auth.subscriber.secret = Some(pair(SECRET, None))),
    ("publisher-secret-file", "SECRET", |c| c.auth.publisher.secret = Some(pair(SECRET, None))),
    ("session-secret-file", "SECRET", |c| c.auth.session.secret = Some(pair(SECRET, None))),
    ("session-secret", "s", |c| c.auth.session.secret = Some(pair("s", None))),
    ("subscriber-public-key", "KEY", |c| c.auth.subscriber.public_keys = public_keys()),
    ("publisher-public-key", "KEY", |c| c.auth.publisher.public_keys = public_keys()),
    ("session-public-key", "KEY", |c| c.auth.session.public_keys = public_keys()),
    ("subscriber-jwks", "JWKS", |c| c.auth.subscriber.public_keys = public_keys()),
    ("publisher-jwks", "JWKS", |c| c.auth.publisher.public_keys = public_keys()),
    ("session-jwks", "JWKS", |c| c.auth.session.public_keys = public_keys()),
    ("subscriber-audience", "a", |c| c.auth.subscriber = asked_of(["a"], [])),
    ("publisher-audience", "a,b", |c| c.auth.publisher = asked_of(["a", "b"], [])),
    ("session-audience", "a", |c| c.auth.session = asked_of(["a"], [])),
    ("subscriber-issuer", "a", |c| c.auth.subscriber = asked_of([], ["a"])),
    ("publisher-issuer", "https://a/,b", |c| c.auth.publisher = asked_of([], ["https://a/", "b"])),
    ("session-issuer", "a", |c| c.auth.session = asked_of([], ["a"])),
    ("token-max", "4KiB", |c| c.auth.token_bytes_max = 4096),
    ("session-time-max", "1h", |c| c.auth.session_time_max = Duration::from_secs(3600)),
    ("no-auth", "true", |c| c.auth.enabled = false),
    ("leeway", "0s", |c| c.auth.leeway = Duration::ZERO),
    ("cookie-name", "t", |c| c.auth.cookie_name = "t".into()),
    ("no-admin", "true", |c| c.admin = false),
    ("broker-node", "amqp://localhost/", |c| c.queues = queues(|_| {})),
    ("queue-pattern", "q-${cookie:sid}", |c| {
        c.queues = queues(|q| q.pattern = "q-${cookie:sid}".parse().unwrap());
    }),
    ("queue-path", "/queue", |c| c.queues = queues(|q| q.path = "/queue".into())),
    ("queue-expire", "60", |c| c.queues = queues(|q| q.expire = Duration::from_secs(60))),
    ("queue-prefetch", "101", |c| c.queues = queues(|q| q.prefetch = 101)),
    ("queue-ack-window", "0", |c| c.queues = queues(|q| q.ack_window = 0)),
    ("queue-ack-delay", "1m", |c| c.queues = queues(|q| q.ack_delay = Duration::from_secs(60))),
    ("namespaces", "true", |c| c.namespaces = true),
    ("history-events", "0", |c| c.history.events_max = 0),
    ("history-bytes", "1KiB", |c| c.history.bytes_max = 1024),
    ("history-age", "1h", |c| c.history.age_max = Duration::from_secs(3600)),
    ("history-memory", "1GiB", |c| c.history.memory_bytes_max = 1 << 30),
    ("partitions", "64", |c| c.partitions = 64),
    ("topics-max", "1", |c| c.topics_max = 1),
    ("data-dir", "/tmp/data", |c| c.data = data(|_| {})),
    ("sync", "10ms", |c| c.data = data(|d| d.sync = SyncPolicy::Every(Duration::from_millis(10)))),
    ("data-max", "1GiB", |c| c.data = data(|d| d.bytes_max = Some(1 << 30))),
    ("cluster", "nats://h:4222", |c| c.cluster = cluster(|_| {})),
    ("cluster-name", "other", |c| c.cluster = cluster(|k| k.name = "other".to_owned())),
    ("cluster-replicas", "1", |c| c.cluster = cluster(|k| k.replicas = 1)),
    ("cluster-nkey-file", "/tmp/seed", |c| c.cluster = cluster(|k| k.nkey_file = Some("/tmp/seed".into()))),
    ("cluster-credentials-file", "/tmp/creds", |c| {
        c.cluster = cluster(|k| k.credentials_file = Some("/tmp/creds".into()));
    }),
    ("cluster-ca-file", "/tmp/ca.pem", |c| c.cluster = cluster(|k| k.ca_file = Some("/tmp/ca.pem".into()))),
    ("no-first-retry", "true", |c| c.stream.first_retry = false),
    ("heartbeat", "0s", |c| c.stream.heartbeat = None),
    ("slow-lag", "2MiB", |c| c.stream.lag_bytes_max = 2 << 20),
    ("slow-policy", "skip", |c| c.stream.slow_policy = SlowPolicy::Skip),
    ("send-timeout", "1s", |c| c.stream.send_timeout = Duration::from_secs(1)),
    ("subscribers-max", "5", |c| c.subscribers_max = Some(5)),
    ("refuse-streams", "503", |c| c.stream.refuse = RefuseStreams::Unavailable),
    ("retry-min", "5s", |c| c.stream.retry_min = Duration::from_secs(5)),
    ("retry-max", "1s", |c| c.stream.retry_max = Duration::from_secs(1)),
    ("head-max", "1KiB", |c| c.http.head_bytes_max = 1024),
    ("body-max", "2MiB", |c| c.http.body_bytes_max = 2 << 20),
    ("head-timeout", "1ms", |c| c.http.head_timeout = Duration::from_millis(1)),
    ("body-timeout", "1ms", |c| c.http.body_timeout = Duration::from_millis(1)),
    ("idle-timeout", "1ms", |c| c.http.idle_timeout = Duration::from_millis(1)),
    ("unanswered-max", "1", |c| c.http.unanswered_max = 1),
    ("request-memory", "2MiB", |c| c.http.memory_bytes_max = 2 << 20),
    ("cors-origin", "https://a.example", |c| c.cors_origins = vec!["https://a.example".into()]),
    ("trusted-proxy", "10.0.0.1", |c| {
        c.trusted_proxies = vec![TrustedProxy::Network("10.0.0.1/32".parse().unwrap())]
    }),
    ("trusted-proxy", "unix", |c| c.trusted_proxies = vec![TrustedProxy::Unix]),
    ("mailbox-bytes", "2MiB", |c| c.mailbox.bytes_max = 2 << 20),
    ("mailbox-messages", "1", |c| c.mailbox.messages_max = 1),
    ("mailbox-wait", "0s", |c| c.mailbox.wait_max = Duration::ZERO),
    ("drain-delay", "5s", |c| c.drain.delay = Duration::from_secs(5)),
    ("drain-time", "5s", |c| c.drain.time_max = Duration::from_secs(5)),
    ("log-format", "json", |c| c.log_format = LogFormat::Json),
    ("log-level", "debug", |c| c.log_level = LogLevel::Debug),
    ("access-log", "-", |c| c.access_log = Some("-".into())),
    ("access-log-sample", "100", |c| c.access_log_sample = 100),
];

/// Calls `each` with each row, its files' names put in, and the flags that it needs.
fn rows(mut each: impl FnMut(&str, &str, &str, &Config)) {
    let (secret, key, jwks) = (TempFile::new(SECRET), TempFile::new(PUBLIC_KEY), TempFile::new(JWKS));
    for (flag, value, change) in ROWS {
        let mut expected = unflagged();
        change(&mut expected);
        let value = match *value {
            "SECRET" => secret.path(),
            "KEY" => key.path(),
            "JWKS" => jwks.path(),
            value => value,
        };
        let side = flag.strip_suffix("-audience").or(flag.strip_suffix("-issuer"));
        let with_key = side.map(|side| format!("--{side}-public-key {}", key.path()));
        let with = match (&expected.control, &expected.queues) {
            _ if with_key.is_some() => with_key.as_deref().unwrap_or_default(),
            _ if expected.cluster.is_some() && *flag != "cluster" => WITH_CLUSTER,
            _ if expected.data.is_some() && *flag != "data-dir" => WITH_DATA,
            (Some(_), _) if *flag != "bind-control" => WITH_CONTROL,
            (_, Some(_)) if *flag != "broker-node" => WITH_BROKER,
            _ => "",
        };
        each(flag, value, with, &expected);
    }
}

fn flags_line(flag: &str, value: &str, with: &str) -> String {
    if value == "true" { format!("{with} --{flag}") } else { format!("{with} --{flag} {value}") }
}

/// Returns what `--dump-config` prints with these flags.
fn dumped(line: &str) -> String {
    match parse(&format!("{line} --dump-config"), &[]) {
        Err(ConfigError::Help(text)) => text,
        other => panic!("{line} gave {other:?}"),
    }
}

#[test]
fn every_flag_its_variable_and_its_key_set_what_they_name_and_nothing_else() {
    let command = cli::command();
    let not_settings = ["config", "dump-config"];
    let flags: HashSet<String> = (command.get_arguments())
        .filter_map(|arg| arg.get_long().filter(|flag| !not_settings.contains(flag)).map(str::to_owned))
        .collect();
    assert_eq!(ROWS.iter().map(|row| row.0.to_owned()).collect::<HashSet<_>>(), flags);

    rows(|flag, value, with, expected| {
        let line = flags_line(flag, value, with);
        let name = format!("ESPER_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(parse(&line, &[]).as_ref(), Ok(expected), "{line}");
        assert_eq!(parse(with, &[(&name, value)]).as_ref(), Ok(expected), "{name}={value}");
        assert_eq!(cli::unknown_variables([name.clone()].into_iter()), [""; 0], "{name} is known");

        if flag == "session-secret" {
            return;
        }
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag) && flag != "bind");
        let nested = arg.and_then(|arg| arg.get_id().as_str().split_once('.'));
        let nested = nested.map(|(section, key)| format!("{section}:\n  {key}: '{value}'\n"));
        for text in [Some(format!("{flag}: '{value}'\n")), nested].into_iter().flatten() {
            let file = TempFile::new(&text);
            assert_eq!(
                parse(&format!("{with} --config {}", file.path()), &[]).as_ref(),
                Ok(expected),
                "{text}"
            );
        }
    });
}

#[test]
fn what_is_dumped_reads_back_as_what_it_was_and_is_dumped_as_the_same() {
    rows(|flag, value, with, expected| {
        let text = dumped(&flags_line(flag, value, with));
        let file = TempFile::new(&text);
        let line = format!("--config {}", file.path());
        if flag == "session-secret" {
            assert!(text.contains("\n# session-secret: '***' (set by ESPER_SESSION_SECRET)\n"), "{text}");
            assert!(parse(&line, &[]).unwrap().auth.session.secret.is_none());
            return;
        }
        assert_eq!(parse(&line, &[]).as_ref(), Ok(expected), "{flag}: {text}");
        assert_eq!(dumped(&line), text, "{flag}");
    });
}

#[test]
fn a_dump_stands_over_every_file_below_it() {
    // Flags that undo a file's settings, and settings that only a file can have.
    let lower = TempFile::new(
        "threads: 1\nnamespaces: true\ntrusted-proxy: [10.0.0.1, '::1']\nsubscribers-max: 7\n\
         header: {sse: {X-Accel-Buffering: null, X-A: 'b: \"c\"'}, cors: {Access-Control-Allow-Origin: x}}\n\
         queue: {subscribe: [{exchange: e, topic: 'a/${routing_key}'}]}\n",
    );
    let places = [lower.path().into()];
    let read = |line: &str| {
        let args = ["esper"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
        parse_with_warnings(args, &|_| None, &places)
    };
    let line = format!("--cores 1 {WITH_BROKER} --trusted-proxy 10.0.0.2");
    let expected = read(&line).unwrap().0;
    let Err(ConfigError::Help(text)) = read(&format!("{line} -c")) else { panic!("no dump") };
    let file = TempFile::new(&text);
    let line = format!("--config {}", file.path());
    assert_eq!(read(&line).unwrap().0, expected, "{text}");
    assert_eq!(read(&format!("{line} -c")), Err(ConfigError::Help(text)));
    let queues = expected.queues.unwrap();
    assert_eq!(queues.subscribe[0].topic, "a/${routing_key}");
    assert!(queues.headers_sse.contains(&("X-A".to_owned(), "b: \"c\"".to_owned())));
    assert!(!queues.headers_sse.iter().any(|(name, _)| name == "X-Accel-Buffering"));
}

#[test]
fn a_dump_shows_no_credentials_and_a_masked_url_is_no_url() {
    let text = dumped("--broker-node amqp://guest:hunter2@a:1/ --broker-node amqp://b/");
    assert!(!text.contains("hunter2") && text.contains("#   - \"amqp://***@a:1/\"\n"), "{text}");
    let read_back = |text: &str| {
        let file = TempFile::new(text);
        parse(&format!("--config {}", file.path()), &[])
            .map_err(|error| error.to_string().replace(file.path(), "FILE"))
    };
    assert_eq!(read_back(&text).unwrap().queues, None, "it says that they must be written in");
    let line = 1 + text.lines().position(|line| line == "  # node:").unwrap();
    let shown = text.replace("  # node:", "  node:").replace("  #   - ", "    - ");
    assert_eq!(
        read_back(&shown).unwrap_err(),
        format!(
            "FILE:{} broker.node: ***: its credentials are masked; \
             write the broker's user and password in the place of ***",
            line + 1
        )
    );
}

#[test]
fn limits_that_cannot_hold_are_refused_with_every_flag_and_the_mend() {
    for (line, variables, refused) in [
        ("-t 1 --cores 1", &[][..], "--threads and --cores both say how many CPUs; give one of them"),
        (
            "",
            &[("ESPER_THREADS", "1"), ("ESPER_CORES", "1")],
            "ESPER_THREADS and ESPER_CORES both say how many CPUs; give one of them",
        ),
        (
            "--bind 127.0.0.1:1 --port 2",
            &[],
            "--bind 127.0.0.1:1 and --port 2 say two ports; give one of them",
        ),
        (
            "-b 127.0.0.1:3000",
            &[("ESPER_PORT", "2")],
            "--bind 127.0.0.1:3000 and ESPER_PORT=2 say two ports; give one of them",
        ),
        (
            "--public-publish",
            &[],
            "--public-publish: there is no control port; \
             open one with --bind-control 127.0.0.1:8001, or leave this out",
        ),
        (
            "",
            &[("ESPER_CONTROL_HOST", "a.example")],
            "ESPER_CONTROL_HOST: there is no control port; \
             open one with --bind-control 127.0.0.1:8001, or leave this out",
        ),
        (
            "--control-token-file /nowhere",
            &[],
            "--control-token-file: there is no control port; \
             open one with --bind-control 127.0.0.1:8001, or leave this out",
        ),
        (
            "-bindctl 0.0.0.0:1",
            &[],
            "--bind-control 0.0.0.0:1: other machines may reach it, so it needs a token; \
             name its file with --control-token-file, or bind it to 127.0.0.1 or ::1",
        ),
        (
            "",
            &[("ESPER_BIND_CONTROL", "127.0.0.1:3000")],
            "ESPER_BIND_CONTROL=127.0.0.1:3000: the public port is there, by --bind 127.0.0.1 --port 3000; \
             give them different ports",
        ),
        (
            "-bind 0.0.0.0:1 -bindctl 127.0.0.1:1",
            &[],
            "--bind-control 127.0.0.1:1: the public port is there, by --bind 0.0.0.0:1; \
             give them different ports",
        ),
        ("--session-time-max 999ms", &[], "--session-time-max 999ms: too short; write at least 1s"),
        ("--heartbeat 99ms", &[], "--heartbeat 99ms: too often; write at least 100ms, or 0s for never"),
        ("--history-age 0s", &[], "--history-age 0s: no time at all; write at least 1ms"),
        ("--send-timeout 0s", &[], "--send-timeout 0s: no time at all; write at least 1ms"),
        ("--retry-min 0s", &[], "--retry-min 0s: no time at all; write at least 1ms"),
        ("--head-timeout 0s", &[], "--head-timeout 0s: no time at all; write at least 1ms"),
        ("--body-timeout 0s", &[], "--body-timeout 0s: no time at all; write at least 1ms"),
        ("--idle-timeout 0s", &[], "--idle-timeout 0s: no time at all; write at least 1ms"),
        ("--drain-time 0s", &[], "--drain-time 0s: no time at all; write at least 1ms"),
        ("--head-max 1023", &[], "--head-max 1023: out of range; write 1KiB to 1MiB"),
        ("--head-max 2MiB", &[], "--head-max 2MiB: out of range; write 1KiB to 1MiB"),
        ("--body-max 0", &[], "--body-max 0: out of range; write 1KiB to 64MiB"),
        ("--body-max 65MiB", &[], "--body-max 65MiB: out of range; write 1KiB to 64MiB"),
        (
            "--slow-lag 1MiB",
            &[],
            "--slow-lag 1MiB: less than twice --body-max 1MiB; \
             raise --slow-lag to 2MiB, or lower the other",
        ),
        (
            "--slow-lag 64MiB --body-max 33MiB",
            &[("ESPER_MAILBOX_BYTES", "65MiB")],
            "--slow-lag 64MiB: less than twice --body-max 33MiB; \
             raise --slow-lag to 66MiB, or lower the other",
        ),
        (
            "--slow-lag 66MiB --body-max 33MiB",
            &[("ESPER_MAILBOX_BYTES", "65MiB")],
            "ESPER_MAILBOX_BYTES=65MiB: less than twice --body-max 33MiB; \
             raise ESPER_MAILBOX_BYTES to 66MiB, or lower the other",
        ),
        (
            "--history-memory 3MiB",
            &[],
            "--history-memory 3MiB: less than --slow-lag 4MiB; \
             raise --history-memory to 4MiB, or lower the other",
        ),
        (
            "--history-bytes 257MiB",
            &[],
            "--history-memory 256MiB: less than --history-bytes 257MiB; \
             raise --history-memory to 257MiB, or lower the other",
        ),
        (
            "--retry-min 1m30s",
            &[("ESPER_RETRY_MAX", "1s")],
            "ESPER_RETRY_MAX=1s: less than --retry-min 1m30s; \
             raise ESPER_RETRY_MAX to 1m30s, or lower the other",
        ),
    ] {
        assert_eq!(parse(line, variables), Err(ConfigError::Usage(refused.to_owned())), "{line}");
    }
}

#[test]
fn what_this_host_lacks_is_told_apart_from_a_wrong_value() {
    let host = parse("--cores 1000000", &[]).unwrap_err();
    assert!(matches!(&host, ConfigError::Host(line) if line.starts_with("--cores 1000000: more than the ")));
    assert_eq!(host.exit_code(), 1);
    let host = parse("", &[("ESPER_CORES", "1000,")]).unwrap_err();
    assert!(matches!(&host, ConfigError::Host(line) if line.starts_with("ESPER_CORES=1000-1000: no CPU ")));
    let usage = parse("-t 0", &[]).unwrap_err();
    assert!(matches!(&usage, ConfigError::Usage(line) if line.starts_with("--threads 0: not a count")));
    assert_eq!(usage.exit_code(), 2);
    assert_eq!(parse("--help", &[]).unwrap_err().exit_code(), 0);
}
