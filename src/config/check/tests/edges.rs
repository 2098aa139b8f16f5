//! Values at the limits of flags, alone and in pairs.

use super::*;

/// Returns the values with which a flag is tried beside every other one.
fn edges(value_name: &str) -> &'static [&'static str] {
    match value_name {
        "SIZE" => &["1KiB", "64MiB", "1PiB"],
        "N" => &["1", "1000000000"],
        "IP:PORT|unix:PATH" => &["127.0.0.1:3000", "0.0.0.0:0", "unix:/run/esper.sock"],
        "IP[:PORT]|unix:PATH" => &["0.0.0.0", "[::]:3000", "127.0.0.1,[::1]:1,unix:/run/esper.sock"],
        "IP|CIDR|unix" => &["unix", "::ffff:10.0.0.0/104"],
        "MODE" => &["777"],
        "PORT" => &["0", "65535"],
        "URL" => &["amqp://localhost/"],
        "PATH" => &["/queue"],
        "ORIGIN" => &["https://a.example"],
        _ => &[],
    }
}

/// Returns the values with which a flag is tried by itself, and beside a broker.
fn alone(value_name: &str) -> &'static [&'static str] {
    match value_name {
        "SIZE" => &["0", "1023", "1MiB", "2PiB"],
        "TIME" => &["0s", "1ms", "1s", "41s", "365d"],
        "N" => &["0", "65534", "1000000001"],
        "PATH" => &["/", "/stats"],
        "ORIGIN" => &["*", "null"],
        _ => &[],
    }
}

/// The server checks again a configuration that the flags accepted, for programs that fill it in themselves.
#[test]
fn what_the_flags_allow_the_server_allows_and_what_they_refuse_names_a_flag() {
    let (mut pairs, mut singles) = (vec![Vec::new()], Vec::new());
    for arg in cli::command().get_arguments() {
        let Some(flag) = arg.get_long().filter(|flag| !["help", "version", "dump-config"].contains(flag))
        else {
            continue;
        };
        let flag = format!("--{flag}");
        let with =
            |values: &[&str]| values.iter().map(|value| vec![flag.clone(), (*value).to_owned()]).collect();
        let value_name = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        pairs.append(&mut with(edges(value_name)));
        singles.append(&mut with(alone(value_name)));
        if !arg.get_action().takes_values() {
            pairs.push(vec![flag]);
        }
    }
    let mut lines = singles.clone();
    lines.extend(
        singles.into_iter().map(|one| [&one[..], &["--broker-node".into(), "amqp://h/".into()]].concat()),
    );
    for (index, one) in pairs.iter().enumerate() {
        lines.extend(pairs[..=index].iter().map(|other| [&one[..], other].concat()));
    }
    let mut allowed = 0;
    for line in &lines {
        match Config::parse(["esper".to_owned()].iter().chain(line), &|_| None) {
            Ok(config) => {
                allowed += 1;
                assert_eq!(config.check(), Ok(()), "{line:?}");
            }
            Err(ConfigError::Usage(refusal)) => assert!(refusal.contains("--"), "{line:?} gave {refusal}"),
            // More CPUs than this machine has.
            Err(ConfigError::Host(_)) => {}
            Err(other) => panic!("{line:?} gave {other:?}"),
        }
    }
    assert!(allowed > 300 && lines.len() - allowed > 300, "{allowed} of {}", lines.len());
}

#[test]
fn limits_are_allowed_up_to_their_edges() {
    for line in [
        "--bind 127.0.0.1:3000 --port 3000",
        "-b [::1]:0 -p 0 --bind-control [::1]:0",
        "--bind 127.0.0.1 --bindctl=127.0.0.1:3001",
        "--session-time-max 1s",
        "--heartbeat 100ms",
        "--head-max 1MiB --body-max 1KiB --slow-lag 2KiB --mailbox-bytes 2KiB --request-memory 1MiB",
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
