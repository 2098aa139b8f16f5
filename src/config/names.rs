//! How what a person wrote is named in errors: `--heartbeat 15`, `ESPER_HEARTBEAT=15` or
//! `/etc/esper/config.yml:3 heartbeat: 15`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::entries::Place;

/// Which flags were given, and which of them by variables or in files: for the names in errors.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) given: BTreeSet<String>,
    pub(super) from_variables: BTreeSet<String>,
    pub(super) from_files: BTreeMap<String, Place>,
}

impl Names {
    /// Whether this flag, or its variable, was given: its value may be the default all the same.
    pub(super) fn is_given(&self, flag: &str) -> bool {
        self.given.contains(flag)
    }

    /// What the person wrote for this flag: `--slow-lag`, `ESPER_SLOW_LAG` or `config.yml:3 slow-lag`.
    pub(super) fn of(&self, flag: &str) -> String {
        self.origin(flag).name(flag)
    }

    /// As much, with the value: `--slow-lag 1MiB`, `ESPER_SLOW_LAG=1MiB` or `config.yml:3 slow-lag: 1MiB`.
    pub(super) fn with(&self, flag: &str, value: impl Display) -> String {
        self.origin(flag).with(flag, value)
    }

    fn origin(&self, flag: &str) -> Origin<'_> {
        match self.from_files.get(flag) {
            Some(place) => Origin::File(place),
            None if self.from_variables.contains(flag) => Origin::Variable,
            None => Origin::Flag,
        }
    }
}

/// Where a value was written.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Flag,
    Variable,
    File(&'a Place),
}

impl Origin<'_> {
    fn name(self, flag: &str) -> String {
        match self {
            Self::Flag => format!("--{flag}"),
            Self::Variable => variable(flag),
            Self::File(place) => place.to_string(),
        }
    }

    pub(super) fn with(self, flag: &str, value: impl Display) -> String {
        let between = match self {
            Self::Flag => " ",
            Self::Variable => "=",
            Self::File(_) => ": ",
        };
        format!("{}{between}{value}", self.name(flag))
    }
}

/// A flag's variable: `ESPER_SLOW_LAG` of `slow-lag`.
pub(super) fn variable(flag: &str) -> String {
    format!("ESPER_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// A value as it stands in an error: on one line, and no longer than it takes to recognise it.
pub(super) fn shown(value: &str) -> String {
    const CHARS_MAX: usize = 80;
    if value.is_empty() {
        return "''".to_owned();
    }
    match value.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => on_one_line(&value[..end]) + "...",
        None => on_one_line(value),
    }
}

/// What a person wrote, with what would end or garble the line escaped.
pub(super) fn on_one_line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}
