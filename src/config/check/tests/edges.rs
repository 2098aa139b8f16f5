//! Values at the limits of flags, alone and in pairs.

use super::*;

/// Returns the values with which a flag is tried beside every other one.
fn edges(value_name: &str) -> &'static [&'static str] {
    match value_name {
        "SIZE" => &["1KiB", "64MiB", "1PiB"],
        "N" => &["1", "1000000000"],
        "IP:PORT" => &["127.0.0.1:3000", "0.0.0.0:0"],
        "IP[:PORT]" => &["0.0.0.0", "[::]:3000"],
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
