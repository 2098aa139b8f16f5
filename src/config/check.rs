//! Flags and variables become a [`Config`]: what each value alone cannot say is refused here, naming every
//! flag that has a part in it and the mend.

use std::ffi::OsString;
use std::fmt::Display;
use std::time::Duration;

use super::cpus::{self, Wanted};
use super::flags::Flags;
use super::layers::{self, Names};
use super::values::{Size, Time};
use super::{
    Auth, Config, ConfigError, Cpus, Drain, History, Http, KIB, MIB, Mailbox, Secret, SecretPair, Signers,
    Stream,
};
use crate::http::Cors;

impl Config {
    /// The configuration this process was started with.
    ///
    /// # Errors
    /// What is wrong and the mend, or the help that was asked for; see [`ConfigError`].
    pub fn from_env_and_args() -> Result<Self, ConfigError> {
        Self::parse(std::env::args_os(), &|name| std::env::var_os(name))
    }

    /// Variables in the environment that begin as ours do and are none: typing errors, most likely, which
    /// nobody reads.
    pub fn unknown_variables() -> Vec<String> {
        let names: Vec<String> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        layers::unknown(names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect()
    }

    /// The configuration of these arguments, of which the first is the program's name, and these variables.
    /// Reads nothing else but which CPUs this process may use.
    ///
    /// # Errors
    /// As `from_env_and_args`.
    pub fn parse<I, T>(args: I, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString>,
    {
        let (flags, names) = layers::read(args.into_iter().map(Into::into).collect(), env)?;
        let auth = Auth {
            enabled: !flags.auth.no_auth,
            subscriber: Signers { secret: secrets("ESPER_SUBSCRIBER_SECRET", env)?, ..Signers::default() },
            publisher: Signers { secret: secrets("ESPER_PUBLISHER_SECRET", env)?, ..Signers::default() },
            cookie_name: flags.auth.cookie_name.clone(),
            ..Auth::default()
        };
        check(&flags, &names).map_err(ConfigError::Usage)?;
        // Last, so that a wrong value is named whatever machine it is tried on.
        let cpus = choose_cpus(&flags, &names)?;
        Ok(checked(flags, auth, cpus))
    }
}

/// Everything has been checked; here it only gets its place.
fn checked(flags: Flags, auth: Auth, cpus: Cpus) -> Config {
    let Flags { listening, auth: auth_flags, topics, history, streams, http, mailbox, drain, logging } =
        flags;
    Config {
        bind: listening.bind,
        port: listening.port,
        control: None,
        cpus,
        raise_file_limit: true,
        takeover: listening.takeover,
        log_format: logging.log_format,
        log_level: logging.log_level,
        auth,
        cors_origins: http.cors_origin,
        admin: !auth_flags.no_admin,
        trusted_proxies: http.trusted_proxy,
        namespaces: topics.namespaces,
        topics_max: topics.topics_max,
        history: History {
            events_max: history.history_events,
            bytes_max: history.history_bytes.0,
            age_max: history.history_age.0,
            memory_bytes_max: history.history_memory.0,
        },
        subscribers_max: streams.subscribers_max,
        stream: Stream {
            heartbeat: Some(streams.heartbeat.0).filter(|every| !every.is_zero()),
            lag_bytes_max: streams.slow_lag.0,
            slow_policy: streams.slow_policy,
            send_timeout: streams.send_timeout.0,
            refuse: streams.refuse_streams,
            retry_min: streams.retry_min.0,
            retry_max: streams.retry_max.0,
        },
        http: Http {
            head_bytes_max: http.head_max.0,
            body_bytes_max: http.body_max.0,
            head_timeout: http.head_timeout.0,
            body_timeout: http.body_timeout.0,
            idle_timeout: http.idle_timeout.0,
            unanswered_max: http.unanswered_max,
        },
        mailbox: Mailbox {
            bytes_max: mailbox.mailbox_bytes.0,
            messages_max: mailbox.mailbox_messages,
            wait_max: mailbox.mailbox_wait.0,
        },
        drain: Drain { delay: drain.drain_delay.0, time_max: drain.drain_time.0 },
    }
}

fn choose_cpus(flags: &Flags, names: &Names) -> Result<Cpus, ConfigError> {
    let (flag, wanted) = match (flags.listening.threads, &flags.listening.cores) {
        (Some(count), _) => ("threads", Wanted::Count(count)),
        (None, Some(cores)) => ("cores", cores.clone()),
        (None, None) => return Ok(Cpus { ids: cpus::usable()?, pin: !flags.listening.no_pin }),
    };
    let ids = wanted
        .among(&cpus::usable()?)
        .map_err(|reason| ConfigError::Host(format!("{}: {reason}", names.with(flag, wanted))))?;
    Ok(Cpus { ids, pin: !flags.listening.no_pin })
}

/// A side's secret and the one before it, from `name` and `name`_PREVIOUS.
fn secrets(name: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<SecretPair>, ConfigError> {
    let secret = |name: &str| match env(name) {
        None => Ok(None),
        Some(value) => Secret::new(layers::unicode(name, value)?).map(Some).ok_or_else(|| {
            ConfigError::Usage(format!("{name}: empty; write a secret, or unset it to have none"))
        }),
    };
    let previous_name = format!("{name}_PREVIOUS");
    match (secret(name)?, secret(&previous_name)?) {
        (Some(current), previous) => Ok(Some(SecretPair { current, previous })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ConfigError::Usage(format!(
            "{previous_name} is set without {name}; set {name} too, or unset both"
        ))),
    }
}

/// Limits that hold by themselves, then those that hold together.
fn check(flags: &Flags, names: &Names) -> Result<(), String> {
    let Flags { listening, auth: _, topics: _, history, streams, http, mailbox, drain, logging: _ } = flags;

    if listening.threads.is_some() && listening.cores.is_some() {
        let (threads, cores) = (names.of("threads"), names.of("cores"));
        return Err(format!("{threads} and {cores} both say how many CPUs; give one of them"));
    }
    for (flag, time) in [
        ("history-age", history.history_age),
        ("send-timeout", streams.send_timeout),
        ("retry-min", streams.retry_min),
        ("retry-max", streams.retry_max),
        ("head-timeout", http.head_timeout),
        ("body-timeout", http.body_timeout),
        ("idle-timeout", http.idle_timeout),
        ("drain-time", drain.drain_time),
    ] {
        if time == Time::ZERO {
            return Err(format!("{}: no time at all; write at least 1ms", names.with(flag, time)));
        }
    }
    // Below this a server with many idle streams does nothing but comment.
    let heartbeat_min = Time(Duration::from_millis(100));
    if streams.heartbeat != Time::ZERO && streams.heartbeat.0 < heartbeat_min.0 {
        let heartbeat = names.with("heartbeat", streams.heartbeat);
        return Err(format!("{heartbeat}: too often; write at least {heartbeat_min}, or 0s for never"));
    }
    within(names, "head-max", http.head_max, Size(KIB), Size(MIB))?;
    within(names, "body-max", http.body_max, Size(KIB), Size(64 * MIB))?;
    // Which of the origins it was, the reason says.
    Cors::parse(&http.cors_origin).map_err(|reason| format!("{}: {reason}", names.of("cors-origin")))?;

    // Twice, so that the largest event fits with its frame's own bytes, and beside another one.
    let two_bodies = Size(2 * http.body_max.0);
    let body_max = format!("twice {}", names.with("body-max", http.body_max));
    at_least(names, "slow-lag", streams.slow_lag, two_bodies, &body_max)?;
    at_least(names, "mailbox-bytes", mailbox.mailbox_bytes, two_bodies, &body_max)?;
    // The memory holds the logs, which hold what subscribers are behind, and the histories.
    for (flag, size) in [("slow-lag", streams.slow_lag), ("history-bytes", history.history_bytes)] {
        at_least(names, "history-memory", history.history_memory, size, &names.with(flag, size))?;
    }
    let retry_min = names.with("retry-min", streams.retry_min);
    at_least(names, "retry-max", streams.retry_max, streams.retry_min, &retry_min)
}

fn within(names: &Names, flag: &str, size: Size, min: Size, max: Size) -> Result<(), String> {
    if (min..=max).contains(&size) {
        return Ok(());
    }
    Err(format!("{}: out of range; write {min} to {max}", names.with(flag, size)))
}

/// `least` is what `other`, a flag with its value, asks of this one.
fn at_least<T>(names: &Names, flag: &str, value: T, least: T, other: &str) -> Result<(), String>
where
    T: PartialOrd + Display,
{
    if value >= least {
        return Ok(());
    }
    let (this, name) = (names.with(flag, value), names.of(flag));
    Err(format!("{this}: less than {other}; raise {name} to {least}, or lower the other"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::{LogFormat, LogLevel, RefuseStreams, SlowPolicy};
    use super::*;

    fn parse(line: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
        Config::parse(["esper"].into_iter().chain(line.split_whitespace()), &env)
    }

    /// What the binary does without flags and variables: the process is its own.
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
        let written = "--bind 127.0.0.1 --port 3000 --cookie-name esper_token --history-events 1000 \
            --history-bytes 4MiB --history-age 10m --history-memory 256MiB --topics-max 100000 \
            --heartbeat 15s --slow-lag 4MiB --slow-policy cut --send-timeout 20s --refuse-streams retry \
            --retry-min 1s --retry-max 5s --head-max 16KiB --body-max 1MiB --head-timeout 10s \
            --body-timeout 30s --idle-timeout 60s --unanswered-max 512 --cors-origin * --mailbox-bytes 64MiB \
            --mailbox-messages 65536 --mailbox-wait 1s --drain-delay 0s --drain-time 10s --log-format text \
            --log-level info";
        assert_eq!(parse(written, &[]), Ok(unflagged()));
    }

    /// A flag, a value that is not its default, and what it changes.
    type Row = (&'static str, &'static str, fn(&mut Config));

    const ROWS: &[Row] = &[
        ("bind", "::1", |c| c.bind = [0, 0, 0, 0, 0, 0, 0, 1].into()),
        ("port", "0", |c| c.port = 0),
        ("threads", "1", |c| c.cpus.ids.truncate(1)),
        ("cores", "1", |c| c.cpus.ids.truncate(1)),
        ("no-pin", "true", |c| c.cpus.pin = false),
        ("takeover", "true", |c| c.takeover = true),
        ("no-auth", "true", |c| c.auth.enabled = false),
        ("cookie-name", "t", |c| c.auth.cookie_name = "t".into()),
        ("no-admin", "true", |c| c.admin = false),
        ("namespaces", "true", |c| c.namespaces = true),
        ("history-events", "0", |c| c.history.events_max = 0),
        ("history-bytes", "1KiB", |c| c.history.bytes_max = 1024),
        ("history-age", "1h", |c| c.history.age_max = Duration::from_secs(3600)),
        ("history-memory", "1GiB", |c| c.history.memory_bytes_max = 1 << 30),
        ("topics-max", "1", |c| c.topics_max = 1),
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
        ("cors-origin", "https://a.example", |c| c.cors_origins = vec!["https://a.example".into()]),
        ("trusted-proxy", "10.0.0.1", |c| c.trusted_proxies = vec!["10.0.0.1/32".parse().unwrap()]),
        ("mailbox-bytes", "2MiB", |c| c.mailbox.bytes_max = 2 << 20),
        ("mailbox-messages", "1", |c| c.mailbox.messages_max = 1),
        ("mailbox-wait", "0s", |c| c.mailbox.wait_max = Duration::ZERO),
        ("drain-delay", "5s", |c| c.drain.delay = Duration::from_secs(5)),
        ("drain-time", "5s", |c| c.drain.time_max = Duration::from_secs(5)),
        ("log-format", "json", |c| c.log_format = LogFormat::Json),
        ("log-level", "debug", |c| c.log_level = LogLevel::Debug),
    ];

    #[test]
    fn every_flag_and_its_variable_set_what_they_name_and_nothing_else() {
        use clap::CommandFactory as _;
        let flags: HashSet<String> =
            Flags::command().get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
        assert_eq!(ROWS.iter().map(|row| row.0.to_owned()).collect::<HashSet<_>>(), flags);

        for (flag, value, change) in ROWS {
            let mut expected = unflagged();
            change(&mut expected);
            let switch = *value == "true";
            let line = if switch { format!("--{flag}") } else { format!("--{flag} {value}") };
            let name = format!("ESPER_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(parse(&line, &[]).as_ref(), Ok(&expected), "{line}");
            assert_eq!(parse("", &[(&name, value)]).as_ref(), Ok(&expected), "{name}={value}");
        }
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
    fn limits_are_allowed_up_to_their_edges() {
        for line in [
            "--heartbeat 100ms",
            "--head-max 1MiB --body-max 1KiB --slow-lag 2KiB --mailbox-bytes 2KiB",
            "--body-max 64MiB --slow-lag 128MiB --mailbox-bytes 128MiB --history-memory 128MiB",
            "--history-bytes 256MiB",
            "--retry-min 5s --retry-max 5s",
        ] {
            assert!(parse(line, &[]).is_ok(), "{line}");
        }
    }

    #[test]
    fn an_origin_that_is_none_is_refused_by_its_flag() {
        for (line, variables, start) in [
            ("--cors-origin example.org", &[][..], "--cors-origin: 'example.org' "),
            ("", &[("ESPER_CORS_ORIGIN", "example.org")], "ESPER_CORS_ORIGIN: 'example.org' "),
        ] {
            let refused = parse(line, variables).unwrap_err();
            assert_eq!(refused.exit_code(), 2);
            assert!(refused.to_string().starts_with(start), "{refused}");
        }
    }

    #[test]
    fn what_this_host_lacks_is_told_apart_from_a_wrong_value() {
        let host = parse("-t 1000000", &[]).unwrap_err();
        assert!(
            matches!(&host, ConfigError::Host(line) if line.starts_with("--threads 1000000: more than the "))
        );
        assert_eq!(host.exit_code(), 1);
        let host = parse("", &[("ESPER_CORES", "1000,")]).unwrap_err();
        assert!(
            matches!(&host, ConfigError::Host(line) if line.starts_with("ESPER_CORES=1000-1000: no CPU "))
        );
        let usage = parse("-t 0", &[]).unwrap_err();
        assert!(matches!(&usage, ConfigError::Usage(line) if line.starts_with("--threads 0: not a count")));
        assert_eq!(usage.exit_code(), 2);
        assert_eq!(parse("--help", &[]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn secrets_come_from_variables_alone_and_are_never_printed() {
        let config = parse(
            "--no-auth",
            &[
                ("ESPER_SUBSCRIBER_SECRET", "sub-now"),
                ("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "sub-before"),
                ("ESPER_PUBLISHER_SECRET", "pub-now"),
            ],
        )
        .unwrap();
        let subscriber = config.auth.subscriber.secret.as_ref().unwrap();
        assert_eq!(subscriber.current.expose(), b"sub-now");
        assert_eq!(subscriber.previous.as_ref().unwrap().expose(), b"sub-before");
        let publisher = config.auth.publisher.secret.as_ref().unwrap();
        assert_eq!(publisher.current.expose(), b"pub-now");
        assert_eq!(publisher.previous, None);
        assert!(!config.auth.enabled);

        for printed in [format!("{config:?}"), format!("{config:#?}")] {
            assert!(printed.contains("***"));
            for secret in ["sub-now", "sub-before", "pub-now"] {
                assert!(!printed.contains(secret), "{secret} is in {printed}");
            }
        }
        let refused = parse("--publisher-secret pub-now", &[]).unwrap_err();
        assert!(refused.to_string().starts_with("unexpected argument '--publisher-secret'"));
    }

    #[test]
    fn a_secret_that_cannot_serve_is_refused_by_its_name() {
        for (variables, refused) in [
            (
                [("ESPER_PUBLISHER_SECRET", "")],
                "ESPER_PUBLISHER_SECRET: empty; write a secret, or unset it to have none",
            ),
            (
                [("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "before")],
                "ESPER_SUBSCRIBER_SECRET_PREVIOUS is set without ESPER_SUBSCRIBER_SECRET; \
                 set ESPER_SUBSCRIBER_SECRET too, or unset both",
            ),
            (
                [("ESPER_PUBLISHER_SECRET_PREVIOUS", "")],
                "ESPER_PUBLISHER_SECRET_PREVIOUS: empty; write a secret, or unset it to have none",
            ),
        ] {
            assert_eq!(parse("", &variables), Err(ConfigError::Usage(refused.to_owned())));
        }
    }

    #[test]
    fn a_secret_that_is_not_utf_8_is_refused_without_its_bytes() {
        use std::os::unix::ffi::OsStringExt as _;
        let env =
            |name: &str| (name == "ESPER_PUBLISHER_SECRET").then(|| OsString::from_vec(b"key\xff".to_vec()));
        let refused = Config::parse(["esper"], &env).unwrap_err().to_string();
        assert_eq!(refused, "ESPER_PUBLISHER_SECRET: not UTF-8; write it in UTF-8");
    }
}
