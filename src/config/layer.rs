//! Settings by flag with the place where each was written, one layer over another. Refusals take their names from it:
//! `--heartbeat 15`, `ESPER_HEARTBEAT=15`, `/etc/esper/config.yml:3 heartbeat: 15`, or `stream.heartbeat 15s` of a
//! configuration that a program filled in.

use std::fmt::{self, Display};
use std::sync::Arc;

use super::BindAddress;

/// A place in a file. `Display` is `/etc/esper/config.yml:3 queue.path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FilePlace {
    /// The file's name, escaped for a line of an error.
    pub(super) file: Arc<str>,
    /// Counted from 1.
    pub(super) line: usize,
    /// The key, behind its section's.
    pub(super) key: String,
}

impl Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.key)
    }
}

/// The place where a setting was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Written {
    Flag,
    Variable,
    File(FilePlace),
    /// In this field of a configuration, with its value as it is shown.
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

    /// Returns the name with the value, in the form in which the person wrote both.
    pub(super) fn with(&self, flag: &str, value: impl Display) -> String {
        let name = self.name(flag);
        match self {
            Self::Flag => format!("{name} {value}"),
            Self::Variable => format!("{name}={value}"),
            Self::File(_) => format!("{name}: {value}"),
            Self::Field(_, shown) => format!("{name} {shown}"),
        }
    }

    /// Returns whether neither place overrides the other: both are in one file, or neither is in a file.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(place), Self::File(other)) => place.file == other.file,
            (Self::File(_), _) | (_, Self::File(_)) => false,
            // A program's port is that of addresses without one.
            (Self::Field(..), _) | (_, Self::Field(..)) => false,
            _ => true,
        }
    }
}

/// The values of one flag, and where they were written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Setting {
    pub(super) written: Written,
    /// The values as texts for the flag, each with its line in a file. Empty: the flag is not given, whatever a lower
    /// layer says.
    pub(super) values: Vec<(usize, String)>,
}

impl Setting {
    pub(super) fn text(&self) -> Option<&str> {
        self.values.first().map(|(_, text)| text.as_str())
    }
}

/// Settings by their flags' names, without dashes, in the order they were first set; also of keys that are no flags.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(pub(super) Vec<(String, Setting)>);

impl Layer {
    /// Returns the setting of a flag, or of a header in any case of its name.
    pub(super) fn get(&self, flag: &str) -> Option<&Setting> {
        self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(flag)).map(|(_, setting)| setting)
    }

    /// Sets the setting of a flag or header, and returns the one before.
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

    /// Puts `upper` over this layer. A setting overrides that of the same flag, and `threads` and `cores` override each
    /// other.
    pub(super) fn overwrite(&mut self, upper: Layer) {
        let said = |layer: &Layer, flag: &str| layer.get(flag).map(|setting| setting.written.clone());
        if upper.is_given("threads") {
            self.remove("cores");
        }
        if upper.is_given("cores") {
            self.remove("threads");
        }
        // A port over addresses is that of all of them.
        if upper.get("port").is_some() && upper.get("bind").is_none() {
            self.strip_ports();
        }
        // A port that came with the address is removed with it.
        let is_taken_away = upper.get("bind").is_some() && !upper.is_given("bind");
        if is_taken_away && said(self, "bind") == said(self, "port") {
            self.remove("port");
        }
        for (flag, setting) in upper.0 {
            self.insert(&flag, setting);
        }
    }

    /// Removes settings of secret files whose secrets are given directly.
    pub(super) fn give_way(&mut self, is_said: impl Fn(&str) -> bool) {
        let secret =
            |flag: &str| flag.strip_suffix("-file").filter(|flag| flag.ends_with("-secret")).map(&is_said);
        self.0.retain(|(flag, _)| secret(flag) != Some(true));
    }

    /// Makes the port of the only address a setting of its own, unless there is one: another layer may say another address
    /// without a port.
    pub(super) fn split_port(&mut self) {
        let Some(Setting { written, values }) = self.get("bind") else { return };
        let [(line, text)] = &values[..] else { return };
        if let Some(port) = port_of(text).filter(|_| !self.is_given("port")) {
            let port = Setting { written: written.clone(), values: vec![(*line, port.to_string())] };
            self.insert("port", port);
        }
    }

    /// Takes the ports from the addresses.
    fn strip_ports(&mut self) {
        let Some((_, bind)) = self.0.iter_mut().find(|(flag, _)| flag == "bind") else { return };
        let without_port = |text: &str| {
            let address = text.parse().map(|address: BindAddress| address.without_port().to_string());
            address.unwrap_or_else(|_| text.to_owned())
        };
        for (_, list) in &mut bind.values {
            *list = list.split(',').map(without_port).collect::<Vec<_>>().join(",");
        }
    }

    /// Adds a field of a configuration under the flag of the same meaning, as it is shown; `text` is the flag's value, and
    /// `None` where the field needs no check by its flag.
    pub(super) fn field(&mut self, name: &'static str, flag: &str, shown: String, text: Option<String>) {
        let values = text.into_iter().map(|text| (0, text)).collect();
        self.insert(flag, Setting { written: Written::Field(name, shown), values });
    }

    /// Returns whether the flag has a value, from any place; it may equal the default.
    pub(super) fn is_given(&self, flag: &str) -> bool {
        self.get(flag).is_some_and(|setting| !setting.values.is_empty())
    }

    /// Returns the name as it was written for this flag: `--slow-lag`, `ESPER_SLOW_LAG` or `config.yml:3 slow-lag`.
    pub(super) fn of(&self, flag: &str) -> String {
        self.written(flag).name(flag)
    }

    /// Returns that name with the value: `--slow-lag 1MiB`, `ESPER_SLOW_LAG=1MiB` or `config.yml:3 slow-lag: 1MiB`.
    pub(super) fn with(&self, flag: &str, value: impl Display) -> String {
        self.written(flag).with(flag, value)
    }

    fn written(&self, flag: &str) -> &Written {
        self.get(flag).map_or(&Written::Flag, |setting| &setting.written)
    }
}

/// Returns the port of an address, if it has one.
pub(super) fn port_of(bind: &str) -> Option<u16> {
    bind.parse::<BindAddress>().ok()?.port()
}

/// Returns a flag's variable: `ESPER_SLOW_LAG` of `slow-lag`.
pub(super) fn variable(flag: &str) -> String {
    format!("ESPER_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Returns a value for an error: on one line, and just long enough to be recognised.
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

/// Returns text on one line, with characters that would end or garble the line escaped.
pub(super) fn on_one_line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
