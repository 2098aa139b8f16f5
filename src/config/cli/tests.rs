use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;

use super::*;

#[test]
fn an_enums_values_are_its_values_name() {
    for arg in Flags::command().get_arguments() {
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if values.is_empty() || !arg.get_action().takes_values() {
            continue;
        }
        let names = arg.get_value_names().unwrap_or_default();
        assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), [values.join("|")]);
    }
}

/// A flag in `docs/flags.md`: `-p`, `--port PORT`, and its default.
type Told = BTreeMap<String, (Option<char>, String, String)>;

#[test]
fn the_document_has_every_flag_with_its_value_and_its_default() {
    let mut told = Told::new();
    for line in include_str!("../../../docs/flags.md").lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [flag, default, meaning] = cells[..] else { continue };
        let flag = flag.replace('`', "").replace("\\|", "|");
        let (short, flag) = flag.rsplit_once(", ").unwrap_or(("", &flag));
        let Some((flag, value)) =
            flag.strip_prefix("--").map(|flag| flag.split_once(' ').unwrap_or((flag, "")))
        else {
            continue;
        };
        assert!(!meaning.is_empty(), "what does --{flag} mean?");
        let fixed = if default.starts_with('`') { default.replace('`', "") } else { String::new() };
        told.insert(flag.to_owned(), (short.chars().nth(1), value.to_owned(), fixed));
    }
    let command = command();
    let there: Told = (command.get_arguments())
        .map(|arg| {
            let takes_value = arg.get_action().takes_values();
            let value = arg.get_value_names().filter(|_| takes_value).and_then(<[_]>::first);
            let default = arg.get_default_values().first().filter(|_| takes_value);
            let default = default.and_then(|text| text.to_str()).unwrap_or_default();
            let value = value.map_or("", |name| name.as_str());
            (arg.get_long().unwrap().to_owned(), (arg.get_short(), value.to_owned(), default.to_owned()))
        })
        .collect();
    assert_eq!(told, there);
}

/// Otherwise a program could set a value that no flag accepts.
#[test]
fn every_flag_that_may_refuse_a_number_or_a_time_checks_its_field_too() {
    let config = Config {
        subscribers_max: Some(1),
        data: Some(crate::config::Data {
            dir: "/tmp".into(),
            sync: crate::config::SyncPolicy::Every(std::time::Duration::from_secs(1)),
            bytes_max: Some(1 << 30),
        }),
        cluster: Config::parse(["esper", "--cluster", "nats://h"], &|_| None).unwrap().cluster,
        queues: Config::parse(["esper", "--broker-node", "amqp://h/"], &|_| None).unwrap().queues,
        ..Config::default()
    };
    let fields = config.fields();
    let missing: BTreeSet<String> = (command().get_arguments())
        .filter(|arg| {
            let value = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
            arg.get_action().takes_values() && ["N", "SIZE", "TIME", "always|TIME"].contains(&value)
        })
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .filter(|flag| !fields.is_given(flag))
        .collect();
    // A flag cannot know which CPUs there are.
    assert_eq!(missing, BTreeSet::from(["threads".to_owned()]));
}
