//! What is said of each flag and where it was written, one layer over another; refusals take their names from it:
//! `--heartbeat 15`, `ESPER_HEARTBEAT=15`, `/etc/esper/config.yml:3 heartbeat: 15`, or `stream.heartbeat 15s` of a
//! configuration that a program filled in.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use super::values::Bind;

/// Where something stands in a file. `Display` is `/etc/esper/config.yml:3 queue.path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FilePlace {
    /// The file's name, fit for a line of an error.
    pub(super) file: Arc<str>,
    /// Counted from 1.
    pub(super) line: usize,
    /// The key, with its section's before it.
    pub(super) key: String,
}

impl Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.key)
    }
}

/// Where a setting was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Written {
    Flag,
    Variable,
    File(FilePlace),
    /// In this field of a configuration, with this value as it is shown.
    Field(&'static str, String),
}

impl Written {
    fn name(&self, flag: &str) -> String {
        match self {
            Self::Flag => format!("--{flag}"),
            Self::Variable => variable(flag),
            Self::File(place) => place.to_string(),
            Self::Field(name, _) => (*name).to_owned(),
        }
    }

    /// Returns the name with the value, as the person wrote both.
    pub(super) fn with(&self, flag: &str, value: impl Display) -> String {
        let name = self.name(flag);
        match self {
            Self::Flag => format!("{name} {value}"),
            Self::Variable => format!("{name}={value}"),
            Self::File(_) => format!("{name}: {value}"),
            Self::Field(_, shown) => format!("{name} {shown}"),
        }
    }

    /// Returns whether neither of two overrides the other: both are in one file, or both in none.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(place), Self::File(other)) => place.file == other.file,
            (Self::File(_), _) | (_, Self::File(_)) => false,
            _ => true,
        }
    }
}

/// What is said of one flag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Setting {
    pub(super) written: Written,
    /// Values as the flag is given them, each with its line in a file. None at all: the flag is not given, whatever a
    /// layer below says.
    pub(super) values: Vec<(usize, String)>,
}

impl Setting {
    pub(super) fn text(&self) -> Option<&str> {
        self.values.first().map(|(_, text)| text.as_str())
    }
}

/// Settings by their flags' names, without dashes, in the order they were first said; also of keys that are no flags.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(pub(super) Vec<(String, Setting)>);

impl Layer {
    /// Returns what is said of a flag, or of a header in any case of its name.
    pub(super) fn get(&self, flag: &str) -> Option<&Setting> {
        self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(flag)).map(|(_, setting)| setting)
    }

    /// Sets what is said of a flag or header, and returns what was.
    pub(super) fn insert(&mut self, flag: &str, setting: Setting) -> Option<Setting> {
        match self.0.iter_mut().find(|(other, _)| other.eq_ignore_ascii_case(flag)) {
            Some(said) => Some(std::mem::replace(said, (flag.to_owned(), setting)).1),
            None => {
                self.0.push((flag.to_owned(), setting));
                None
            }
        }
    }

    fn remove(&mut self, flag: &str) {
        self.0.retain(|(other, _)| other != flag);
    }

    /// Puts `upper` over what is here: it overrides the same flag, and the other that says how many CPUs.
    pub(super) fn overwrite(&mut self, upper: Layer) {
        let said = |layer: &Layer, flag: &str| layer.get(flag).map(|setting| setting.written.clone());
        if upper.is_given("threads") {
            self.remove("cores");
        }
        if upper.is_given("cores") {
            self.remove("threads");
        }
        // The port that an address said goes with it.
        let is_taken_away = upper.get("bind").is_some() && !upper.is_given("bind");
        if is_taken_away && said(self, "bind") == said(self, "port") {
            self.remove("port");
        }
        for (flag, setting) in upper.0 {
            self.insert(&flag, setting);
        }
    }

    /// Takes out the files of secrets that are said themselves.
    pub(super) fn give_way(&mut self, is_said: impl Fn(&str) -> bool) {
        let secret =
            |flag: &str| flag.strip_suffix("-file").filter(|flag| flag.ends_with("-secret")).map(&is_said);
        self.0.retain(|(flag, _)| secret(flag) != Some(true));
    }

    /// Makes the port that an address says a setting of its own, where there is none.
    pub(super) fn split_port(&mut self) {
        let Some(Setting { written, values }) = self.get("bind") else { return };
        let Some((line, text)) = values.first() else { return };
        if let Some(port) = port_of(text).filter(|_| !self.is_given("port")) {
            let port = Setting { written: written.clone(), values: vec![(*line, port.to_string())] };
            self.insert("port", port);
        }
    }

    /// Adds a field of a configuration, under the flag that says the same.
    pub(super) fn field(&mut self, name: &'static str, flag: &str, value: &dyn Debug) {
        let shown = format!("{value:?}");
        self.insert(flag, Setting { values: vec![(0, shown.clone())], written: Written::Field(name, shown) });
    }

    /// Adds a field that is a text.
    pub(super) fn text(&mut self, name: &'static str, flag: &str, text: &str) {
        let written = Written::Field(name, format!("{text:?}"));
        self.insert(flag, Setting { values: vec![(0, text.to_owned())], written });
    }

    /// Adds a field whose value every flag could have.
    pub(super) fn name(&mut self, name: &'static str, flag: &str) {
        self.insert(flag, Setting { values: Vec::new(), written: Written::Field(name, String::new()) });
    }

    /// Returns whether this flag, its variable or its key has a value, which may be the default all the same.
    pub(super) fn is_given(&self, flag: &str) -> bool {
        self.get(flag).is_some_and(|setting| !setting.values.is_empty())
    }

    /// Returns what was written for this flag: `--slow-lag`, `ESPER_SLOW_LAG` or `config.yml:3 slow-lag`.
    pub(super) fn of(&self, flag: &str) -> String {
        self.written(flag).name(flag)
    }

    /// Returns as much, with the value: `--slow-lag 1MiB`, `ESPER_SLOW_LAG=1MiB` or `config.yml:3 slow-lag: 1MiB`.
    pub(super) fn with(&self, flag: &str, value: impl Display) -> String {
        self.written(flag).with(flag, value)
    }

    fn written(&self, flag: &str) -> &Written {
        self.get(flag).map_or(&Written::Flag, |setting| &setting.written)
    }
}

/// Returns the port that an address says.
pub(super) fn port_of(bind: &str) -> Option<u16> {
    bind.parse::<Bind>().ok()?.port
}

/// Returns a flag's variable: `ESPER_SLOW_LAG` of `slow-lag`.
pub(super) fn variable(flag: &str) -> String {
    format!("ESPER_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Returns a value as it stands in an error: on one line, and no longer than it takes to recognise it.
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

/// Returns what a person wrote, with what would end or garble the line escaped.
pub(super) fn on_one_line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
