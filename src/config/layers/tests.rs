use std::collections::BTreeSet;

use clap::Arg;

use super::super::cli::{Flags, command, has_variable, unknown_variables};
use super::*;

/// Reads a command line and variables, both as in a shell.
fn read_line(line: &str, variables: &[(&str, &str)]) -> Result<(Flags, Layer), String> {
    let args = ["esper"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
    let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
    read(args, &env).map_err(|error| error.to_string())
}

fn read(args: Vec<OsString>, env: &dyn Fn(&str) -> Option<OsString>) -> Result<(Flags, Layer), ConfigError> {
    let parsed = Typed::parse::<Flags>(args, has_variable)?.over::<Flags>(env, Layer::default())?;
    Ok((parsed.flags, parsed.names))
}

fn port(line: &str, variables: &[(&str, &str)]) -> u16 {
    read_line(line, variables).unwrap().0.config.port
}

#[test]
fn a_flag_stands_over_its_variable_and_a_variable_over_the_default() {
    assert_eq!(port("", &[]), 3000);
    assert_eq!(port("", &[("ESPER_PORT", "1")]), 1);
    assert_eq!(port("--port 2", &[("ESPER_PORT", "1")]), 2);
    assert_eq!(port("-p2", &[("ESPER_PORT", "1")]), 2);
    // A variable that an argument overrides is not checked.
    assert_eq!(port("-p2", &[("ESPER_PORT", "wrong")]), 2);
}

#[test]
fn a_flag_with_several_values_stands_over_its_variable_as_a_whole() {
    let origins = |line, variables: &[_]| read_line(line, variables).unwrap().0.config.cors_origins;
    let variable = [("ESPER_CORS_ORIGIN", "https://a.example, https://b.example")];
    assert_eq!(origins("", &variable), ["https://a.example", "https://b.example"]);
    assert_eq!(origins("--cors-origin https://c.example", &variable), ["https://c.example"]);
    assert_eq!(
        origins("--cors-origin https://c.example --cors-origin https://d.example", &variable),
        ["https://c.example", "https://d.example"]
    );
}

#[test]
fn trusted_proxies_are_repeated_or_parted_by_commas() {
    for line in ["--trusted-proxy 10.0.0.0/8 --trusted-proxy ::1", "--trusted-proxy=10.0.0.0/8,::1"] {
        let (flags, _) = read_line(line, &[]).unwrap();
        let networks: Vec<String> =
            flags.config.trusted_proxies.iter().map(|network| network.to_string()).collect();
        assert_eq!(networks, ["10.0.0.0/8", "::1/128"], "{line}");
    }
    let refused = read_line("", &[("ESPER_TRUSTED_PROXY", "10.0.0.0/8, lb")]).unwrap_err();
    assert!(refused.starts_with("ESPER_TRUSTED_PROXY= lb: not an address or a network; "), "{refused}");
}

#[test]
fn either_flag_for_cpus_stands_over_both_variables() {
    let variables = [("ESPER_THREADS", "7"), ("ESPER_CORES", "0-6")];
    for line in ["-t 1", "--threads 1", "--cores 1"] {
        let flags = read_line(line, &variables).unwrap().0.cpus;
        assert_eq!(flags.threads.is_some(), line != "--cores 1", "{line}");
        assert_eq!(flags.cores.is_some(), line == "--cores 1", "{line}");
    }
}

#[test]
fn a_switch_is_turned_on_and_off_by_its_variable() {
    for (value, on) in
        [("true", true), ("1", true), ("Yes", true), ("false", false), ("0", false), ("off", false)]
    {
        let (flags, _) = read_line("", &[("ESPER_NO_AUTH", value)]).unwrap();
        assert_eq!(!flags.config.auth.enabled, on, "{value}");
    }
    assert!(!read_line("--no-auth", &[("ESPER_NO_AUTH", "false")]).unwrap().0.config.auth.enabled);
}

#[test]
fn three_flags_may_have_one_dash_until_the_flags_end() {
    let rewritten = |line: &str| {
        let args = with_two_dashes(line.split(' ').map(OsString::from).collect());
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    for (line, two) in [
        ("-bind 1 -bindctl 2 -secret 3", "--bind 1 --bindctl 2 --secret 3"),
        ("-bind=1 -bindctl= -secret=-bind", "--bind=1 --bindctl= --secret=-bind"),
        ("-b ind -binds -bind1 bind --bind", "-b ind -binds -bind1 bind --bind"),
        ("-secret a -- -secret b", "--secret a -- -secret b"),
    ] {
        assert_eq!(rewritten(line), two);
    }
}

#[test]
fn a_mistyped_secret_is_not_shown() {
    for line in ["--sercet=hunter2", "-secrets=hunter2", "-secrethunter2", "-secret=hunter2 -secret=hunter2"]
    {
        let refused = read_line(line, &[]).unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}

#[test]
fn a_brokers_password_is_not_shown() {
    for (line, variables) in [
        ("--broker-node amqps:guest:hunter2", &[][..]),
        ("--broker-node http://guest:hunter2@h/", &[]),
        ("--broker-nod=amqp://guest:hunter2@h/", &[]),
        ("amqp://guest:hunter2@h/", &[]),
        ("--broker-node amqp://h/ amqp://guest:hunter2@h/", &[]),
        ("", &[("ESPER_BROKER_NODE", "amqp://h/,hunter2")]),
    ] {
        let refused = read_line(line, variables).unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    let (flags, _) = read_line("--broker-node amqp://guest:hunter2@h/", &[]).unwrap();
    assert!(!format!("{flags:?}").contains("hunter2"));
}

#[test]
fn a_mistyped_variable_is_found_and_one_of_others_is_not() {
    let names = [
        "ESPER_HISTROY_AGE",
        "ESPER_HISTORY_AGE",
        "ESPER_PUBLISHER_SECRET",
        "ESPER_SESSION_SECRET",
        "ESPER_SESSION_SECRET_PREVIOUS",
        "ESPER_BIND_CONTROL",
        "ESPER_CONFIG",
        "ESPER_BROKER_NODE",
        "ESPER_PORT_3000_TCP",
        "HOME",
    ];
    assert_eq!(unknown_variables(names.into_iter().map(str::to_owned)), ["ESPER_HISTROY_AGE"]);
}

#[test]
fn what_ends_the_program_is_no_variable() {
    // Images often have their version in such a variable.
    let forgotten = [("ESPER_VERSION", "1.2"), ("ESPER_HELP", "true"), ("ESPER_DUMP_CONFIG", "true")];
    let (flags, _) = read_line("", &forgotten).unwrap();
    assert_eq!((flags.config.port, flags.files.dump_config), (3000, false));
}

#[test]
fn help_names_every_flags_variable_and_is_the_same_short_and_long() {
    let help = |flag| match read(vec!["esper".into(), OsString::from(flag)], &|_| None) {
        Err(ConfigError::Help(text)) => text,
        other => panic!("{flag} gave {other:?}"),
    };
    let text = help("--help");
    assert_eq!(text, help("-h"));
    let words: BTreeSet<&str> = text.split_whitespace().map(|word| word.trim_matches(']')).collect();
    for flag in command().get_arguments().filter_map(Arg::get_long) {
        if !has_variable(flag) {
            continue;
        }
        let name = variable(flag);
        assert!(words.contains(name.as_str()), "{name} is missing");
    }
    assert!(text.contains("ESPER_PUBLISHER_SECRET_PREVIOUS"));
    assert!(help("--version").starts_with("esper "));
}

#[test]
fn what_is_wrong_is_named_as_it_was_written_with_what_is_right() {
    for (line, variables, refused) in [
        ("--heartbeat 15", &[][..], "--heartbeat 15: no unit; write 15s or 15ms"),
        ("--heartbeat=15", &[], "--heartbeat 15: no unit; write 15s or 15ms"),
        ("", &[("ESPER_HEARTBEAT", "15")], "ESPER_HEARTBEAT=15: no unit; write 15s or 15ms"),
        ("-p -1", &[], "--port -1: not a port; write a number from 0 to 65535, 0 is any free port"),
        (
            "-b localhost",
            &[],
            "--bind localhost: not an address; \
             write 127.0.0.1 or ::1 for this machine alone, 0.0.0.0 or :: for all, \
             with a port 127.0.0.1:8000, [::1]:8000 or :8000, or a socket unix:/run/esper.sock",
        ),
        ("--slow-policy kill", &[], "--slow-policy kill: not one of its values; write cut or skip"),
        ("--slow-policy", &[], "--slow-policy '': its value is missing; write cut or skip"),
        ("", &[("ESPER_LOG_FORMAT", "")], "ESPER_LOG_FORMAT='': its value is missing; write text or json"),
        ("--port", &[], "--port '': its value is missing; --help says what it may be"),
        ("", &[("ESPER_TAKEOVER", "maybe")], "ESPER_TAKEOVER=maybe: not a yes or no; write true or false"),
        (
            "",
            &[("ESPER_SLOW_LAG", "4\nMeg")],
            "ESPER_SLOW_LAG=4\\nMeg: not a size; write 64KiB, 1MiB or 4194304",
        ),
        ("--cores 3-0", &[], "--cores 3-0: 3-0 is backwards; write 0-3"),
        (
            "--prot 3",
            &[],
            "unexpected argument '--prot' found; \
             a similar argument exists: '--port'; --help says what there is",
        ),
        ("stray", &[], "unrecognized subcommand 'stray'; --help says what there is"),
        (
            "-p 1 -p 2",
            &[],
            "the argument '--port <PORT>' cannot be used multiple times; --help says what there is",
        ),
    ] {
        assert_eq!(read_line(line, variables).unwrap_err(), refused);
    }
}

#[test]
fn a_value_that_is_not_utf_8_is_refused_by_its_name() {
    use std::os::unix::ffi::OsStringExt as _;
    let env = |name: &str| (name == "ESPER_COOKIE_NAME").then(|| OsString::from_vec(vec![0xff]));
    let refused = read(vec!["esper".into()], &env).unwrap_err();
    assert_eq!(refused.to_string(), "ESPER_COOKIE_NAME: not UTF-8; write it in UTF-8");
}

#[test]
fn a_long_value_is_shown_cut_short() {
    let refused = read_line(&format!("--port {}", "9".repeat(10_000)), &[]).unwrap_err();
    assert!(
        refused.len() < 300 && refused.starts_with("--port 999") && refused.contains("9...: "),
        "{refused}"
    );
}
