//! A flag stands over its variable, a variable over files, a file over the default, and whatever is wrong is
//! named as the person wrote it: `--heartbeat 15`, `ESPER_HEARTBEAT=15` or `config.yml:3 heartbeat: 15`.
//!
//! clap could read the variables itself, but then it blames the flag for them, and only the process's own
//! environment could be tested. So each variable, and each entry of a file, is given to clap as its flag,
//! before the real ones.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::ConfigError;
use super::clap_error::refusal;
use super::entries::Entries;
use super::flags::Flags;
pub(super) use super::names::{Names, on_one_line, variable};
use super::names::{Origin, shown};
use super::values::yes_or_no;

/// A command's flags, which variables may stand in for.
pub(super) trait Layered: CommandFactory + FromArgMatches {
    /// Whether this flag, named without dashes, is a variable too.
    fn has_variable(_flag: &str) -> bool {
        true
    }
}

impl Layered for Flags {
    /// A forgotten variable would make every start print and end.
    fn has_variable(flag: &str) -> bool {
        flag != "dump-config"
    }
}

/// What was read, and how the person wrote it.
pub(super) struct Read<F> {
    pub(super) flags: F,
    pub(super) names: Names,
    /// Every flag's values as text.
    pub(super) matches: ArgMatches,
}

/// Reads `args`, of which the first is the program's name, and a variable for each flag that is not there.
pub(super) fn read<F: Layered>(
    args: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(F, Names), ConfigError> {
    read_over(args, env, &Entries::default()).map(|read| (read.flags, read.names))
}

/// As much, and what files say where neither a flag nor a variable does.
pub(super) fn read_over<F: Layered>(
    args: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    files: &Entries,
) -> Result<Read<F>, ConfigError> {
    let args = with_two_dashes(args);
    let command = command::<F>();
    let typed = command.clone().try_get_matches_from(&args).map_err(|error| refusal(&error, Origin::Flag))?;
    let is_typed = |id: &str| typed.value_source(id) == Some(ValueSource::CommandLine);
    let mut files = files.clone();
    files.give_way(&|flag| {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
        let typed = arg.and_then(|arg| typed_text(arg, &typed));
        typed.or_else(|| Some(env(&variable(flag))?.to_string_lossy().into_owned()))
    });

    let mut names = Names::default();
    let mut all = vec![OsString::from("esper")];
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        // The two say the same thing, so one of them typed stands over both variables.
        let same = ["threads", "cores"];
        let over = if same.contains(&id) { same.into_iter().any(is_typed) } else { is_typed(id) };
        let (Some(flag), false) = (arg.get_long().filter(|flag| F::has_variable(flag)), over) else {
            continue;
        };
        let name = variable(flag);
        if let Some(value) = env(&name) {
            let value = unicode(&name, value)?;
            all.extend(given(&command, arg, flag, &value, Origin::Variable)?);
            names.from_variables.insert(flag.to_owned());
        } else if let Some(entry) = files.get(flag) {
            for (line, value) in &entry.values {
                let place = entry.place_of(*line);
                all.extend(given(&command, arg, flag, value, Origin::File(&place))?);
            }
            names.from_files.insert(flag.to_owned(), entry.place.clone());
        }
    }
    all.extend(args.into_iter().skip(1));

    let matches = command.clone().try_get_matches_from(all).map_err(|error| refusal(&error, Origin::Flag))?;
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    names.given = (command.get_arguments().filter(|arg| given(arg.get_id().as_str())))
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect();
    let flags = F::from_arg_matches(&matches).map_err(|error| refusal(&error, Origin::Flag))?;
    Ok(Read { flags, names, matches })
}

/// The file that `--config` or its variable names, and how the person wrote it.
pub(super) fn config_file(
    args: &[OsString],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let args = with_two_dashes(args.to_vec());
    let typed =
        command::<Flags>().try_get_matches_from(args).map_err(|error| refusal(&error, Origin::Flag))?;
    let (origin, path) = match typed.get_one::<PathBuf>("config") {
        Some(path) => (Origin::Flag, path.clone()),
        None => match env(&variable("config")) {
            Some(path) => (Origin::Variable, PathBuf::from(path)),
            None => return Ok(None),
        },
    };
    let called = origin.with("config", path.display());
    Ok(Some((path, called)))
}

/// The first value of a flag that was typed.
fn typed_text(arg: &Arg, typed: &ArgMatches) -> Option<String> {
    let id = arg.get_id().as_str();
    let is_typed = typed.value_source(id) == Some(ValueSource::CommandLine);
    let text = typed.get_raw(id).filter(|_| is_typed)?.next()?;
    Some(text.to_string_lossy().into_owned())
}

/// The flag that says what a variable or a file says; nothing for a switch that is off.
fn given(
    command: &Command,
    arg: &Arg,
    flag: &str,
    value: &str,
    origin: Origin<'_>,
) -> Result<Option<OsString>, ConfigError> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let yes = yes_or_no(value)
            .map_err(|reason| ConfigError::Usage(format!("{}: {reason}", origin.with(flag, shown(value)))))?;
        return Ok(yes.then(|| format!("--{flag}").into()));
    }
    let given = OsString::from(format!("--{flag}={value}"));
    // By itself first, so that what is wrong with it is known to be this one's.
    let alone = command.clone().try_get_matches_from([OsString::from("esper"), given.clone()]);
    alone.map(|_| Some(given)).map_err(|error| refusal(&error, origin))
}

/// `-bind`, `-bindctl` and `-secret`, alone or with `=` and a value, get a second dash: clap would read
/// `-b ind`, and those who come from Simple SSE Server write them so.
fn with_two_dashes(mut args: Vec<OsString>) -> Vec<OsString> {
    for arg in args.iter_mut().take_while(|arg| *arg != "--") {
        let name = arg.as_encoded_bytes().split(|byte| *byte == b'=').next();
        if [&b"-bind"[..], b"-bindctl", b"-secret"].into_iter().any(|known| name == Some(known)) {
            let mut two = OsString::from("-");
            two.push(&*arg);
            *arg = two;
        }
    }
    args
}

/// Of these names, those that look like variables of ours and are none: a typing error, most likely.
pub(super) fn unknown<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    const SECRETS: [&str; 5] = [
        "ESPER_SUBSCRIBER_SECRET",
        "ESPER_SUBSCRIBER_SECRET_PREVIOUS",
        "ESPER_PUBLISHER_SECRET",
        "ESPER_PUBLISHER_SECRET_PREVIOUS",
        "ESPER_SESSION_SECRET_PREVIOUS",
    ];
    let command = command::<Flags>();
    let flags = command.get_arguments().filter_map(|arg| arg.get_long());
    let known: Vec<String> = flags.filter(|flag| Flags::has_variable(flag)).map(variable).collect();
    names
        .filter(|name| name.starts_with("ESPER_") && !SECRETS.contains(name))
        // The first is the tests' own, the others are what Kubernetes sets for a service named esper, and
        // images.
        .filter(|name| {
            let others = ["ESPER_TEST_", "ESPER_SERVICE_", "ESPER_PORT_", "ESPER_VERSION"];
            !others.iter().any(|other| name.starts_with(other))
        })
        .filter(|name| !known.iter().any(|known| known == name))
        .collect()
}

/// A variable's text, or the refusal of what is not UTF-8.
pub(super) fn unicode(name: &str, value: OsString) -> Result<String, ConfigError> {
    value.into_string().map_err(|_| ConfigError::Usage(format!("{name}: not UTF-8; write it in UTF-8")))
}

/// The flags with each one's variable in its help.
pub(super) fn command<F: Layered>() -> Command {
    F::command().mut_args(|arg| {
        let (Some(flag), Some(help)) = (arg.get_long(), arg.get_help()) else { return arg };
        let help = match F::has_variable(flag) {
            true => format!("{help} [env: {}]", variable(flag)),
            false => help.to_string(),
        };
        let takes_values = arg.get_action().takes_values();
        let arg = arg.help(help);
        if !takes_values {
            return arg;
        }
        // `--port -1` is then a wrong port, not an unknown flag `-1`. The values of an enum are its value's
        // name already; told again they would make a second, longer help.
        arg.allow_negative_numbers(true).hide_possible_values(true)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Reads a command line and variables, both as a shell would have them.
    fn read_line(line: &str, variables: &[(&str, &str)]) -> Result<(Flags, Names), String> {
        let args = ["esper"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
        let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
        read(args, &env).map_err(|error| error.to_string())
    }

    fn port(line: &str, variables: &[(&str, &str)]) -> u16 {
        read_line(line, variables).unwrap().0.listening.port
    }

    #[test]
    fn a_flag_stands_over_its_variable_and_a_variable_over_the_default() {
        assert_eq!(port("", &[]), 3000);
        assert_eq!(port("", &[("ESPER_PORT", "1")]), 1);
        assert_eq!(port("--port 2", &[("ESPER_PORT", "1")]), 2);
        assert_eq!(port("-p2", &[("ESPER_PORT", "1")]), 2);
        // A variable that nobody reads harms nobody.
        assert_eq!(port("-p2", &[("ESPER_PORT", "wrong")]), 2);
    }

    #[test]
    fn a_flag_with_several_values_stands_over_its_variable_as_a_whole() {
        let origins = |line, variables: &[_]| read_line(line, variables).unwrap().0.http.cors_origin;
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
                flags.http.trusted_proxy.iter().map(|network| network.to_string()).collect();
            assert_eq!(networks, ["10.0.0.0/8", "::1/128"], "{line}");
        }
        let refused = read_line("", &[("ESPER_TRUSTED_PROXY", "10.0.0.0/8, lb")]).unwrap_err();
        assert!(refused.starts_with("ESPER_TRUSTED_PROXY= lb: not an address or a network; "), "{refused}");
    }

    #[test]
    fn either_flag_for_cpus_stands_over_both_variables() {
        let variables = [("ESPER_THREADS", "7"), ("ESPER_CORES", "0-6")];
        for line in ["-t 1", "--threads 1", "--cores 1"] {
            let flags = read_line(line, &variables).unwrap().0.listening;
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
            assert_eq!(flags.auth.no_auth, on, "{value}");
        }
        assert!(read_line("--no-auth", &[("ESPER_NO_AUTH", "false")]).unwrap().0.auth.no_auth);
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
        for line in
            ["--sercet=hunter2", "-secrets=hunter2", "-secrethunter2", "-secret=hunter2 -secret=hunter2"]
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
        assert_eq!(unknown(names.into_iter()), ["ESPER_HISTROY_AGE"]);
    }

    #[test]
    fn what_ends_the_program_is_no_variable() {
        // Images often carry their version in such a variable.
        let forgotten = [("ESPER_VERSION", "1.2"), ("ESPER_HELP", "true"), ("ESPER_DUMP_CONFIG", "true")];
        let (flags, _) = read_line("", &forgotten).unwrap();
        assert_eq!((flags.listening.port, flags.files.dump_config), (3000, false));
    }

    #[test]
    fn help_names_every_flags_variable_and_is_the_same_short_and_long() {
        let help = |flag| match read::<Flags>(vec!["esper".into(), OsString::from(flag)], &|_| None) {
            Err(ConfigError::Help(text)) => text,
            other => panic!("{flag} gave {other:?}"),
        };
        let text = help("--help");
        assert_eq!(text, help("-h"));
        let words: BTreeSet<&str> = text.split_whitespace().map(|word| word.trim_matches(']')).collect();
        for flag in command::<Flags>().get_arguments().filter_map(Arg::get_long) {
            if !Flags::has_variable(flag) {
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
                 or with a port 127.0.0.1:8000 or [::1]:8000",
            ),
            ("--slow-policy kill", &[], "--slow-policy kill: not one of its values; write cut or skip"),
            ("--slow-policy", &[], "--slow-policy '': its value is missing; write cut or skip"),
            (
                "",
                &[("ESPER_LOG_FORMAT", "")],
                "ESPER_LOG_FORMAT='': its value is missing; write text or json",
            ),
            ("--port", &[], "--port '': its value is missing; --help says what it may be"),
            (
                "",
                &[("ESPER_TAKEOVER", "maybe")],
                "ESPER_TAKEOVER=maybe: not a yes or no; write true or false",
            ),
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
            ("stray", &[], "unexpected argument 'stray' found; --help says what there is"),
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
        let refused = read::<Flags>(vec!["esper".into()], &env).unwrap_err();
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
}
