//! Configuration files. Their keys are the flags' names, and those that eventsourced has: `server`, `broker`,
//! `queue` and `header`, with what is added to them here.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Command};

use super::entries::{Entries, Entry, Place};
use super::headers::{self, Headers, Purpose};
use super::keys;
use super::names::{on_one_line, shown, variable};
use super::values::Bind;
use super::yaml::{self, Key, Node, Value};
use super::{MIB, SubscribeRule};

/// Most bytes of a file: far past any use.
const FILE_BYTES_MAX: usize = MIB;

/// The keys that are not a flag's name, each with the flag it is.
pub(super) const NESTED: [(&str, &str, &str); 8] = [
    ("server", "address", "bind"),
    ("broker", "node", "broker-node"),
    ("queue", "pattern", "queue-pattern"),
    ("queue", "path", "queue-path"),
    ("queue", "expire", "queue-expire"),
    ("queue", "prefetch", "queue-prefetch"),
    ("queue", "ack_window", "queue-ack-window"),
    ("queue", "ack_delay", "queue-ack-delay"),
];

/// Flags that are no keys: which files there are is not for a file to say.
pub(super) const NO_KEYS: [&str; 4] = ["config", "dump-config", "help", "version"];

/// What the files say together.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) entries: Entries,
    pub(super) cors: Headers,
    pub(super) sse: Headers,
    /// Each with the place of its topic, which is checked when it is known what topics are.
    pub(super) subscribe: Vec<(Place, SubscribeRule)>,
    /// The files' names, fit for a line of the log.
    pub(super) files: Vec<String>,
    /// Lines for the log.
    pub(super) warnings: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            cors: Headers::default_of(Purpose::Cors),
            sse: Headers::default_of(Purpose::Sse),
            subscribe: Vec::new(),
            files: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Where files are looked for, the first below the others.
pub(super) fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        ["/etc/eventsourced/config.yml", "/etc/esper/config.yml"].into_iter().map(PathBuf::from).collect();
    let binary = std::env::current_exe().ok();
    places.extend(binary.and_then(|binary| Some(binary.parent()?.join("config.yml"))));
    places
}

impl Settings {
    /// Reads the files at `places` that are there, then `named`, which must be, each over those before it;
    /// with that stands how the person named it. `command` has the flags that may be keys.
    ///
    /// # Errors
    /// One line: which file, line and key, what is wrong and the mend.
    pub(super) fn read(
        places: &[PathBuf],
        named: Option<(&Path, String)>,
        command: &Command,
    ) -> Result<Self, String> {
        let mut settings = Self::default();
        let is_there = |path: &&PathBuf| {
            let missing = [ErrorKind::NotFound, ErrorKind::NotADirectory];
            !fs::metadata(path).is_err_and(|error| missing.contains(&error.kind()))
        };
        let found = places.iter().filter(is_there).map(|path| (path.as_path(), path.display().to_string()));
        for (path, called) in found.chain(named) {
            let (text, mode) = keys::read(path, FILE_BYTES_MAX)
                .map_err(|reason| format!("{}: {reason}", on_one_line(&called)))?;
            let name: Arc<str> = on_one_line(&path.to_string_lossy()).into();
            settings.add(&name, &text, command)?;
            settings.files.push(name.to_string());
            let nodes = settings.entries.get("broker-node").filter(|entry| entry.place.file == name);
            if mode & 0o004 != 0
                && nodes.is_some_and(|entry| entry.values.iter().any(|(_, url)| url.contains('@')))
            {
                settings.warnings.push(format!(
                    "{name}: everybody on this machine may read the brokers' passwords in it; chmod o-r"
                ));
            }
        }
        Ok(settings)
    }

    /// Adds what a file says to what those below it say.
    pub(super) fn add(&mut self, name: &Arc<str>, text: &str, command: &Command) -> Result<(), String> {
        let root = yaml::parse(text).map_err(|fault| format!("{name}:{}: {}", fault.line, fault.reason))?;
        let mut reader = File { name, command, settings: self, entries: Entries::default() };
        reader.read(root)?;
        let entries = reader.entries;
        self.entries.overwrite(entries);
        Ok(())
    }
}

/// A file that is being read.
struct File<'a> {
    name: &'a Arc<str>,
    command: &'a Command,
    settings: &'a mut Settings,
    entries: Entries,
}

impl File<'_> {
    fn read(&mut self, root: Node) -> Result<(), String> {
        if let Value::Text(_) | Value::List(_) = root.value {
            return Err(format!(
                "{}:{}: {}, not keys and values; write a key and its value on a line, such as port: 3000",
                self.name,
                root.line,
                root.value.kind()
            ));
        }
        for (key, node) in entries_of(root.value) {
            let place = self.place(&key, None);
            match &*key.name {
                section @ ("server" | "broker" | "queue" | "header") => {
                    self.section(section, &place, node)?
                }
                flag if self.is_key(flag) => self.flag(flag, place, node)?,
                _ => return Err(self.unknown(&key.name, &place)),
            }
        }
        Ok(())
    }

    fn section(&mut self, section: &str, place: &Place, node: Node) -> Result<(), String> {
        for (key, node) in mapping(place, node)? {
            let place = self.place(&key, Some(section));
            let known = NESTED.iter().find(|(other, name, _)| *other == section && *name == key.name);
            match (section, &*key.name, known) {
                ("header", "cors", _) => self.headers(Purpose::Cors, &place, node)?,
                ("header", "sse", _) => self.headers(Purpose::Sse, &place, node)?,
                ("queue", "subscribe", _) => self.settings.subscribe = self.subscribe(&place, node)?,
                ("server", "address", Some((.., flag))) => self.address(flag, place, node)?,
                (.., Some((.., flag))) => self.flag(flag, place, node)?,
                _ => {
                    let mut keys: Vec<&str> =
                        NESTED.iter().filter(|known| known.0 == section).map(|known| known.1).collect();
                    keys.extend(match section {
                        "header" => &["cors", "sse"][..],
                        "queue" => &["subscribe"],
                        _ => &[],
                    });
                    return Err(format!("{place}: unknown key; {section} has {}", keys.join(", ")));
                }
            }
        }
        Ok(())
    }

    /// An address as eventsourced has it: always with a port, and without an IP it is all of them.
    fn address(&mut self, flag: &str, place: Place, mut node: Node) -> Result<(), String> {
        if let Value::Text(text) = &mut node.value {
            if text.starts_with(':') {
                text.insert_str(0, "[::]");
            }
            if text.parse::<Bind>().is_ok_and(|bind| bind.port.is_none()) {
                return Err(format!("{place}: {}: no port; write one, such as 0.0.0.0:2069", shown(text)));
            }
        }
        self.flag(flag, place, node)
    }

    fn flag(&mut self, flag: &str, place: Place, node: Node) -> Result<(), String> {
        let arg = self.command.get_arguments().find(|arg| arg.get_long() == Some(flag));
        let takes_list = arg.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append));
        let has_default = arg.is_some_and(|arg| !arg.get_default_values().is_empty());
        let mut values = match node.value {
            Value::Null => Vec::new(),
            Value::List(list) if takes_list && list.is_empty() && has_default => {
                return Err(format!("{place}: an empty list; write what is meant, or null for the default"));
            }
            Value::List(list) if takes_list => {
                list.into_iter().map(|item| text(&place, item)).collect::<Result<_, _>>()?
            }
            _ => vec![text(&place, node)?],
        };
        if flag == "broker-node" {
            // A comma parts the values of a flag; in a URL it means the same in either form (RFC 3986, 2.4).
            values.iter_mut().for_each(|(_, url)| *url = url.replace(',', "%2C"));
        }
        let said = self.entries.insert(flag, Entry { place: place.clone(), values });
        said.map_or(Ok(()), |other| {
            let Place { line, key, .. } = other.place;
            Err(format!("{place}: line {line} says the same as {key}; keep one of them"))
        })
    }

    fn headers(&mut self, purpose: Purpose, place: &Place, node: Node) -> Result<(), String> {
        let mut names: Vec<String> = Vec::new();
        for (key, node) in mapping(place, node)? {
            let place = self.place(&key, Some(&place.key));
            let value = match node.value {
                Value::Null => None,
                _ => Some(text(&place, node)?.1),
            };
            headers::check(purpose, &key.name, value.as_deref())
                .map_err(|reason| format!("{place}: {reason}"))?;
            if names.iter().any(|other| other.eq_ignore_ascii_case(&key.name)) {
                return Err(format!("{place}: there twice; keep one of them"));
            }
            names.push(key.name.clone());
            let headers = match purpose {
                Purpose::Cors => &mut self.settings.cors,
                Purpose::Sse => &mut self.settings.sse,
            };
            headers.set(key.name, value, Some(place));
        }
        Ok(())
    }

    fn subscribe(&self, place: &Place, node: Node) -> Result<Vec<(Place, SubscribeRule)>, String> {
        let rules = match node.value {
            Value::List(rules) => rules,
            Value::Null => Vec::new(),
            other => {
                let kind = other.kind();
                return Err(format!(
                    "{place}: {kind}, not a list; write - exchange: NAME, with topic: below it"
                ));
            }
        };
        rules.into_iter().map(|node| self.rule(place, node)).collect()
    }

    fn rule(&self, place: &Place, node: Node) -> Result<(Place, SubscribeRule), String> {
        let place = Place { line: node.line, ..place.clone() };
        let (mut exchange, mut routing_key, mut topic) = (None, None, None);
        for (key, node) in mapping(&place, node)? {
            let place = self.place(&key, Some(&place.key));
            let slot = match &*key.name {
                "exchange" => &mut exchange,
                "routing_key" => &mut routing_key,
                "topic" => &mut topic,
                _ => return Err(format!("{place}: unknown key; an entry has exchange, routing_key, topic")),
            };
            let (_, text) = text(&place, node)?;
            // AMQP's short string (AMQP 0-9-1, 4.2.5.3).
            if text.len() > 255 {
                return Err(format!("{place}: more than 255 bytes; write a shorter one"));
            }
            *slot = Some((place, text));
        }
        let missing =
            |key| format!("{place}: no {key}; write exchange: and topic:, and routing_key: if not all");
        let (exchange_place, exchange) = exchange.ok_or_else(|| missing("exchange"))?;
        if exchange.is_empty() {
            return Err(format!("{exchange_place}: empty; write the exchange's name, such as amq.topic"));
        }
        let (topic_place, topic) = topic.ok_or_else(|| missing("topic"))?;
        let routing_key = routing_key.map_or_else(|| "#".to_owned(), |(_, text)| text);
        Ok((topic_place, SubscribeRule { exchange, routing_key, topic }))
    }

    fn is_key(&self, name: &str) -> bool {
        let is_flag = self.command.get_arguments().any(|arg| arg.get_long() == Some(name));
        is_flag && !NO_KEYS.contains(&name) && !is_secret(name)
    }

    /// Why there is no such key, and what is meant, most likely.
    fn unknown(&self, name: &str, place: &Place) -> String {
        let flag = name.to_ascii_lowercase().replace('_', "-");
        if is_secret(&flag) {
            let side = ["subscriber", "publisher"].into_iter().find(|side| flag.starts_with(side));
            let side = side.unwrap_or("session");
            let variable = variable(&format!("{side}-secret"));
            return format!(
                "{place}: a secret, which does not stand in this file; \
                 write it into one of its own and name that by {side}-secret-file, or set {variable}"
            );
        }
        if let Some((section, key, _)) = NESTED.iter().find(|(_, key, _)| *key == name) {
            return format!("{place}: unknown key; {key} stands below {section}:, indented");
        }
        let similar = if self.is_key(&flag) { Some(flag) } else { self.similar(&flag) };
        let mend = similar.map(|flag| format!("there is {flag}, and ")).unwrap_or_default();
        format!("{place}: unknown key; {mend}esper --dump-config shows all there are")
    }

    /// The key that clap would suggest, were it a flag. Of one or two letters anything may be meant.
    fn similar(&self, flag: &str) -> Option<String> {
        if flag.len() < 3 {
            return None;
        }
        let error = self.command.clone().try_get_matches_from(["esper", &format!("--{flag}=x")]).err()?;
        let Some(ContextValue::String(similar)) = error.get(ContextKind::SuggestedArg) else { return None };
        let similar = similar.trim_start_matches('-');
        self.is_key(similar).then(|| similar.to_owned())
    }

    fn place(&self, key: &Key, section: Option<&str>) -> Place {
        let name = shown(&key.name);
        let key_name = section.map_or(name.clone(), |section| format!("{section}.{name}"));
        Place { file: Arc::clone(self.name), line: key.line, key: key_name }
    }
}

/// Whether a flag or a variable of this name holds a secret itself.
fn is_secret(flag: &str) -> bool {
    flag == "secret" || flag.ends_with("-secret") || flag.ends_with("-secret-previous")
}

fn mapping(place: &Place, node: Node) -> Result<Vec<(Key, Node)>, String> {
    match node.value {
        Value::Text(_) | Value::List(_) => {
            let kind = node.value.kind();
            Err(format!("{place}: {kind}, not keys and values; write them below it, indented"))
        }
        value => Ok(entries_of(value)),
    }
}

fn entries_of(value: Value) -> Vec<(Key, Node)> {
    match value {
        Value::Map(map) => map,
        _ => Vec::new(),
    }
}

/// A single value and its line.
fn text(place: &Place, node: Node) -> Result<(usize, String), String> {
    match node.value {
        Value::Text(text) => Ok((node.line, text)),
        Value::Empty => Err(format!("{place}: nothing; write a value, or null for none")),
        other => Err(format!(
            "{}: {}, where one value is asked for; write the value itself",
            Place { line: node.line, ..place.clone() },
            other.kind()
        )),
    }
}

#[cfg(test)]
mod tests;
