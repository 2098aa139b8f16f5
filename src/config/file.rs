//! Configuration files. Their keys are the flags' names, and the sections `server`, `broker`, `queue` and `header` of
//! eventsourced's files with our additions.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};

use super::layer::{FilePlace, Layer, Setting, Written, on_one_line, shown, variable};
use super::yaml::{self, YamlKey, YamlNode, YamlValue};
use super::{MIB, Notes, SubscribeRule, headers, keys};

/// The largest file, in bytes: far more than any use.
const FILE_BYTES_MAX: usize = MIB;

/// The settings of all files, later files over earlier ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    /// Settings of flags, and of headers under `header.cors.` or `header.sse.` and their names.
    pub(super) layer: Layer,
    /// Rules, each with the place of its topic, which is checked once the kind of topics is known.
    pub(super) subscribe: Vec<(FilePlace, SubscribeRule)>,
    /// The files' names, escaped for a line of the log, and what is dangerous about them.
    pub(super) notes: Notes,
}

/// Returns where files are looked for; later ones override earlier ones.
pub(super) fn places() -> Vec<PathBuf> {
    // The first is a package's or an image's own, so that what it needs otherwise stands under all that a person writes.
    let known = ["/usr/lib/esper/config.yml", "/etc/eventsourced/config.yml", "/etc/esper/config.yml"];
    let mut places: Vec<PathBuf> = known.map(Into::into).into();
    let binary = std::env::current_exe().ok();
    places.extend(binary.and_then(|binary| Some(binary.parent()?.join("config.yml"))));
    places
}

impl Files {
    /// Reads the files at `places` that exist, then `named`, which must exist and comes with the text by which the
    /// person named it. `command` has the flags that may be keys.
    ///
    /// # Errors
    /// One line: which file, line and key, what is wrong and the remedy.
    pub(super) fn read(
        places: &[PathBuf],
        named: Option<(PathBuf, String)>,
        command: &Command,
    ) -> Result<Self, String> {
        let mut files = Self::default();
        let is_there = |path: &&PathBuf| {
            let missing = [ErrorKind::NotFound, ErrorKind::NotADirectory];
            !fs::metadata(path).is_err_and(|error| missing.contains(&error.kind()))
        };
        let found = places.iter().filter(is_there).map(|path| (path.clone(), path.display().to_string()));
        for (path, called) in found.chain(named) {
            files.add(&path, command, &on_one_line(&called))?;
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path, command: &Command, called: &str) -> Result<(), String> {
        let (text, mode) =
            keys::read(path, FILE_BYTES_MAX).map_err(|reason| format!("{called}: {reason}"))?;
        let name: Arc<str> = on_one_line(&path.to_string_lossy()).into();
        let root = yaml::parse(&text).map_err(|fault| format!("{name}:{}: {}", fault.line, fault.reason))?;
        let mut reader = FileReader { name: &name, command, layer: Layer::default(), subscribe: None };
        reader.read(root)?;
        let FileReader { mut layer, subscribe, .. } = reader;
        let urls = ["broker-node", "cluster"].into_iter().filter_map(|flag| layer.get(flag));
        let has_login = urls.flat_map(|setting| &setting.values).any(|(_, url)| url.contains('@'));
        if mode & 0o004 != 0 && has_login {
            self.notes.warnings.push(format!(
                "{name}: everybody on this machine may read the passwords in its URLs; chmod o-r"
            ));
        }
        layer.split_port();
        self.layer.overwrite(layer);
        self.subscribe = subscribe.unwrap_or_else(|| std::mem::take(&mut self.subscribe));
        self.notes.files.push(name.to_string());
        Ok(())
    }
}

/// Returns whether a flag is a key: a file cannot name other files, and must not show a secret to everybody who may
/// read it.
pub(super) fn is_key(flag: &str) -> bool {
    !["config", "dump-config"].contains(&flag) && !is_secret(flag)
}

/// Returns whether a flag or a variable of this name holds a secret itself.
fn is_secret(flag: &str) -> bool {
    flag == "secret" || flag.ends_with("-secret") || flag.ends_with("-secret-previous")
}

/// A file while it is read.
struct FileReader<'a> {
    name: &'a Arc<str>,
    command: &'a Command,
    layer: Layer,
    subscribe: Option<Vec<(FilePlace, SubscribeRule)>>,
}

impl<'a> FileReader<'a> {
    fn read(&mut self, root: YamlNode) -> Result<(), String> {
        if let YamlValue::Text(_) | YamlValue::List(_) = root.value {
            return Err(format!(
                "{}:{}: {}, not keys and values; write a key and its value on a line, such as port: 3000",
                self.name,
                root.line,
                root.value.kind()
            ));
        }
        for (key, node) in root.value.entries() {
            let place = self.place(&key, None);
            if self.keys_below(&key.name).is_empty() {
                self.key(None, &key.name, place, node)?;
                continue;
            }
            for (inner, node) in mapping(&place, node)? {
                let place = self.place(&inner, Some(&key.name));
                self.key(Some(&key.name), &inner.name, place, node)?;
            }
        }
        Ok(())
    }

    fn key(
        &mut self,
        section: Option<&str>,
        name: &str,
        place: FilePlace,
        node: YamlNode,
    ) -> Result<(), String> {
        // As in the file that comes with eventsourced; its README has the other word.
        let name = if (section, name) == (Some("queue"), "expires") { "expire" } else { name };
        let is_nested =
            |arg: &&Arg| arg.get_id().as_str().split_once('.') == section.map(|section| (section, name));
        let is_flag = |arg: &&Arg| arg.get_long() == Some(name) && is_key(name);
        let mut args = self.command.get_arguments();
        match (section, name) {
            (Some("header"), "cors" | "sse") => self.headers(name, &place, node),
            (Some("queue"), "subscribe") => {
                self.subscribe = Some(self.rules(&place, node)?);
                Ok(())
            }
            (Some(section), _) => match args.find(is_nested) {
                Some(arg) => self.flag(arg, place, node),
                None => {
                    let keys = self.keys_below(section).join(", ");
                    Err(format!("{place}: unknown key; {section} has {keys}"))
                }
            },
            (None, _) => match args.find(is_flag) {
                Some(arg) => self.flag(arg, place, node),
                None => Err(self.unknown(name, &place)),
            },
        }
    }

    fn flag(&mut self, arg: &Arg, place: FilePlace, node: YamlNode) -> Result<(), String> {
        let flag = arg.get_long().unwrap_or_default();
        let takes_list = matches!(arg.get_action(), ArgAction::Append);
        let mut values = match node.value {
            YamlValue::Null => Vec::new(),
            YamlValue::List(list)
                if takes_list && list.is_empty() && !arg.get_default_values().is_empty() =>
            {
                return Err(format!("{place}: an empty list; write what is meant, or null for the default"));
            }
            YamlValue::List(list) if takes_list => {
                list.into_iter().map(|item| text(&place, item)).collect::<Result<_, _>>()?
            }
            _ => vec![text(&place, node)?],
        };
        if place.key == "server.address"
            && let Some((line, text)) =
                values.iter().find(|(_, text)| text.trim().parse::<std::net::IpAddr>().is_ok())
        {
            // As in eventsourced.
            let place = FilePlace { line: *line, ..place };
            return Err(format!("{place}: {}: no port; write one, such as 0.0.0.0:2069", shown(text)));
        }
        if flag == "broker-node" {
            // A comma separates a flag's values; in a URL it means the same in either form (RFC 3986, section 2.4).
            values.iter_mut().for_each(|(_, url)| *url = url.replace(',', "%2C"));
        }
        self.set(flag, place, values)
    }

    fn set(&mut self, name: &str, place: FilePlace, values: Vec<(usize, String)>) -> Result<(), String> {
        let said = self.layer.insert(name, Setting { written: Written::File(place.clone()), values });
        match said.map(|setting| setting.written) {
            Some(Written::File(other)) if other.key.eq_ignore_ascii_case(&place.key) => {
                Err(format!("{place}: there twice; keep one of them"))
            }
            Some(Written::File(FilePlace { line, key, .. })) => {
                Err(format!("{place}: line {line} says the same as {key}; keep one of them"))
            }
            _ => Ok(()),
        }
    }

    fn headers(&mut self, kind: &str, place: &FilePlace, node: YamlNode) -> Result<(), String> {
        for (key, node) in mapping(place, node)? {
            let place = self.place(&key, Some(&place.key));
            let values = match node.value {
                YamlValue::Null => Vec::new(),
                _ => vec![text(&place, node)?],
            };
            let value = values.first().map(|(_, value)| value.as_str());
            headers::check(kind == "sse", &key.name, value).map_err(|reason| format!("{place}: {reason}"))?;
            self.set(&format!("header.{kind}.{}", key.name), place, values)?;
        }
        Ok(())
    }

    fn rules(&self, place: &FilePlace, node: YamlNode) -> Result<Vec<(FilePlace, SubscribeRule)>, String> {
        match node.value {
            YamlValue::List(rules) => rules.into_iter().map(|node| self.rule(place, node)).collect(),
            YamlValue::Null => Ok(Vec::new()),
            other => {
                let kind = other.kind();
                Err(format!("{place}: {kind}, not a list; write - exchange: NAME, with topic: below it"))
            }
        }
    }

    fn rule(&self, place: &FilePlace, node: YamlNode) -> Result<(FilePlace, SubscribeRule), String> {
        let place = FilePlace { line: node.line, ..place.clone() };
        let mut texts = BTreeMap::new();
        for (key, node) in mapping(&place, node)? {
            let place = self.place(&key, Some(&place.key));
            if !["exchange", "routing_key", "topic"].contains(&&*key.name) {
                return Err(format!("{place}: unknown key; an entry has exchange, routing_key, topic"));
            }
            let (_, text) = text(&place, node)?;
            // The limit of AMQP's short string (AMQP 0-9-1, section 4.2.5.3).
            if text.len() > 255 {
                return Err(format!("{place}: more than 255 bytes; write a shorter one"));
            }
            texts.insert(key.name, (place, text));
        }
        let mut take = |key| {
            let missing =
                || format!("{place}: no {key}; write exchange: and topic:, and routing_key: if not all");
            texts.remove(key).ok_or_else(missing)
        };
        let (exchange_place, exchange) = take("exchange")?;
        if exchange.is_empty() {
            return Err(format!("{exchange_place}: empty; write the exchange's name, such as amq.topic"));
        }
        let (topic_place, topic) = take("topic")?;
        let routing_key = take("routing_key").map_or_else(|_| "#".to_owned(), |(_, text)| text);
        Ok((topic_place, SubscribeRule { exchange, routing_key, topic }))
    }

    /// Returns the keys of a section; empty if it is no section.
    fn keys_below(&self, section: &str) -> Vec<&'a str> {
        let ids = self.command.get_arguments().filter_map(|arg| arg.get_id().as_str().split_once('.'));
        let flags = ids.filter(|(other, _)| *other == section).map(|(_, key)| key);
        let others: &[&str] = match section {
            "header" => &["cors", "sse"],
            "queue" => &["subscribe"],
            _ => &[],
        };
        flags.chain(others.iter().copied()).collect()
    }

    /// Returns why there is no such key, and the most likely intended one.
    fn unknown(&self, name: &str, place: &FilePlace) -> String {
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
        let nested = self.command.get_arguments().filter_map(|arg| arg.get_id().as_str().split_once('.'));
        if let Some((section, key)) = nested.into_iter().find(|(_, key)| *key == name) {
            return format!("{place}: unknown key; {key} stands below {section}:, indented");
        }
        let is_flag = |flag: &str| self.command.get_arguments().any(|arg| arg.get_long() == Some(flag));
        let similar = if is_flag(&flag) { Some(flag) } else { self.similar(&flag) };
        let hint = similar.filter(|flag| is_key(flag)).map(|flag| format!("there is {flag}, and "));
        let hint = hint.unwrap_or_default();
        format!("{place}: unknown key; {hint}esper config dump shows all there are")
    }

    /// Returns the key that clap would suggest for a flag; `None` for one or two letters, which may mean anything.
    fn similar(&self, flag: &str) -> Option<String> {
        if flag.len() < 3 {
            return None;
        }
        let error = self.command.clone().try_get_matches_from(["esper", &format!("--{flag}=x")]).err()?;
        let Some(ContextValue::String(similar)) = error.get(ContextKind::SuggestedArg) else { return None };
        Some(similar.trim_start_matches('-').to_owned()).filter(|flag| flag != "help" && flag != "version")
    }

    fn place(&self, key: &YamlKey, section: Option<&str>) -> FilePlace {
        let name = shown(&key.name);
        let key_name = section.map_or(name.clone(), |section| format!("{section}.{name}"));
        FilePlace { file: Arc::clone(self.name), line: key.line, key: key_name }
    }
}

fn mapping(place: &FilePlace, node: YamlNode) -> Result<Vec<(YamlKey, YamlNode)>, String> {
    match node.value {
        YamlValue::Text(_) | YamlValue::List(_) => {
            let kind = node.value.kind();
            Err(format!("{place}: {kind}, not keys and values; write them below it, indented"))
        }
        value => Ok(value.entries()),
    }
}

/// Returns a single value and its line.
fn text(place: &FilePlace, node: YamlNode) -> Result<(usize, String), String> {
    match node.value {
        YamlValue::Text(text) => Ok((node.line, text)),
        YamlValue::Empty => Err(format!("{place}: nothing; write a value, or null for none")),
        other => Err(format!(
            "{}: {}, where one value is asked for; write the value itself",
            FilePlace { line: node.line, ..place.clone() },
            other.kind()
        )),
    }
}

#[cfg(test)]
mod tests;
