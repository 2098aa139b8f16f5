//! Prints the settings in force as YAML that can be read back. Secrets are replaced by comments: a printed file ends up
//! in a log or a ticket.

use std::ffi::OsStr;
use std::fmt::Write as _;

use clap::{Arg, ArgAction, ArgMatches};

use super::command_line::without_credentials;
use super::file::{Files, is_key};
use super::headers::{self, HeaderSetting};
use super::layer::{Layer, variable};
use super::{BindAddress, BrokerUrl, Config, cli};

const START: &str = "\
# What is in force: by flags, over variables, over files, over defaults. To be read by --config.
# Secrets are not shown.
";

/// Returns all settings: `matches` are the values as they were written, `config` what they mean.
///
/// # Errors
/// One line, when a value cannot be written as YAML.
pub(super) fn text(
    config: &Config,
    matches: &ArgMatches,
    names: &Layer,
    files: &Files,
) -> Result<String, String> {
    let mut out = Dump { text: START.to_owned(), matches };
    let command = cli::command();
    let flags = || command.get_arguments().filter(|arg| arg.get_long().is_some_and(is_key));
    let mut headings = Vec::new();
    for heading in flags().filter_map(|arg| arg.get_help_heading()) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let flags: Vec<&Arg> = flags().filter(|arg| arg.get_help_heading() == Some(heading)).collect();
        out.line(0, &format!("\n# {heading}"));
        if heading == "Listening" {
            out.address(config);
        }
        let is_nested = |arg: &&Arg| arg.get_id().as_str().contains('.');
        if flags.iter().all(is_nested) {
            out.queues(&flags, names, files)?;
            continue;
        }
        for arg in flags.into_iter().filter(|arg| arg.get_long() != Some("port") && !is_nested(arg)) {
            out.flag(0, arg)?;
            out.secret(arg, config);
        }
    }
    Ok(out.text)
}

struct Dump<'a> {
    text: String,
    matches: &'a ArgMatches,
}

impl Dump<'_> {
    fn line(&mut self, depth: usize, line: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{}{line}", "  ".repeat(depth));
    }

    fn address(&mut self, config: &Config) {
        let addresses: Vec<String> =
            config.addresses().iter().map(|address| scalar(&address.to_string())).collect();
        self.line(0, "server:");
        match (&config.bind[..], &addresses[..]) {
            ([BindAddress::Unix(_)] | [_, _, ..], _) | (_, []) => {
                self.line(1, "address:");
                addresses.iter().for_each(|address| self.line(2, &format!("- {address}")));
            }
            ([alone], [address, ..]) => {
                let (bind, port) = (alone.without_port().to_string(), config.port);
                self.line(1, &format!("address: {address}"));
                self.line(0, &format!("# The same in two keys: bind: {} and port: {port}", scalar(&bind)));
            }
            ([], _) => {}
        }
    }

    /// Writes a flag under the last word of its key; its section is written already.
    fn flag(&mut self, depth: usize, arg: &Arg) -> Result<(), String> {
        let (id, flag) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        let key = id.split_once('.').map_or(flag, |(_, key)| key);
        let is_on = |on: bool| vec![(self.matches.get_flag(id) == on).to_string()];
        let values = match arg.get_action() {
            ArgAction::SetTrue => is_on(true),
            ArgAction::SetFalse => is_on(false),
            _ => {
                let text = |value: &OsStr| {
                    let value = value.to_str()?.trim();
                    Some(scalar(&if flag == "cluster" {
                        without_credentials(value)
                    } else {
                        value.to_owned()
                    }))
                };
                let values = self.matches.get_raw(id).into_iter().flatten().map(text).collect();
                Option::<Vec<_>>::ok_or(values, format!("--{flag}: not UTF-8; write it in UTF-8"))?
            }
        };
        match (&*values, arg.get_action()) {
            ([], ArgAction::Append) => self.line(depth, &format!("{key}: []")),
            ([], _) => self.line(depth, &format!("{key}: null")),
            (values, ArgAction::Append) => {
                self.line(depth, &format!("{key}:"));
                values.iter().for_each(|value| self.line(depth + 1, &format!("- {value}")));
            }
            ([value, ..], _) => self.line(depth, &format!("{key}: {value}")),
        }
        Ok(())
    }

    /// Writes a comment that there is a secret, which no file holds, beside the key of its file.
    fn secret(&mut self, arg: &Arg, config: &Config) {
        let (side, signers) = match arg.get_long() {
            Some("subscriber-secret-file") => ("subscriber", &config.auth.subscriber),
            Some("publisher-secret-file") => ("publisher", &config.auth.publisher),
            Some("session-secret-file") => ("session", &config.auth.session),
            _ => return,
        };
        if signers.secret.is_some() && !self.matches.contains_id(arg.get_id().as_str()) {
            let variable = variable(&format!("{side}-secret"));
            self.line(0, &format!("# {side}-secret: '***' (set by {variable})"));
        }
    }

    /// Writes the keys of queues, as comments when there is no broker: read back as keys they would have no effect.
    fn queues(&mut self, args: &[&Arg], names: &Layer, files: &Files) -> Result<(), String> {
        let mut keys = Dump { text: String::new(), matches: self.matches };
        keys.queue_keys(args, names, files)?;
        if names.is_given("broker-node") {
            self.text += &keys.text;
        } else {
            self.line(0, "# No broker is named, so there are no queues. With one there are these keys:");
            keys.text.lines().for_each(|line| self.line(0, &format!("# {line}")));
        }
        Ok(())
    }

    fn queue_keys(&mut self, args: &[&Arg], names: &Layer, files: &Files) -> Result<(), String> {
        let mut section = "";
        for arg in args {
            let id = arg.get_id().as_str();
            let own = id.split('.').next().unwrap_or_default();
            if section != own {
                section = own;
                self.line(0, &format!("{section}:"));
            }
            match id {
                "broker.node" => self.nodes(arg)?,
                // In seconds, as in eventsourced's files.
                "queue.expire" => {
                    let expire = self.matches.get_one::<std::time::Duration>(id);
                    self.line(1, &format!("expire: {}", expire.map_or(0, |time| time.as_secs())));
                }
                _ => self.flag(1, arg)?,
            }
        }
        self.line(1, if files.subscribe.is_empty() { "subscribe: []" } else { "subscribe:" });
        for (_, rule) in &files.subscribe {
            self.line(2, &format!("- exchange: {}", scalar(&rule.exchange)));
            self.line(3, &format!("routing_key: {}", scalar(&rule.routing_key)));
            self.line(3, &format!("topic: {}", scalar(&rule.topic)));
        }
        self.line(0, "header:");
        let (cors, sse) = headers::of_files(names);
        for (kind, headers) in [("cors", cors), ("sse", sse)] {
            self.line(1, &format!("{kind}:"));
            for HeaderSetting { name, value, .. } in headers {
                let value = value.as_deref().map_or_else(|| "null".to_owned(), scalar);
                self.line(2, &format!("{}: {value}", scalar(&name)));
            }
        }
        Ok(())
    }

    fn nodes(&mut self, arg: &Arg) -> Result<(), String> {
        let nodes: Vec<&BrokerUrl> = self.matches.get_many("broker.node").into_iter().flatten().collect();
        if !nodes.iter().any(|node| node.has_credentials()) {
            return self.flag(1, arg);
        }
        self.line(1, "# Without the credentials; to use this list, write them in and take the # away:");
        self.line(1, "# node:");
        nodes.iter().for_each(|node| self.line(1, &format!("#   - {}", scalar(&node.to_string()))));
        Ok(())
    }
}

/// Returns a value in YAML: plain where every reader takes it for the same text, else in double quotes, as in JSON.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,+".contains(c);
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let is_null = text.eq_ignore_ascii_case("null");
    if starts_plain && text.chars().all(is_plain) && !text.ends_with(':') && !is_null {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::yaml::{self, YamlValue};
    use super::*;

    /// Text that means something in YAML, and text that no reader takes as it is.
    const TEXT: &str = "(\\PC|[\n\t\r\0 :#'\"\\\\~-]|null|\u{85}|\u{feff}){0,20}";

    proptest! {
        #[test]
        fn any_text_is_written_so_that_it_reads_back(text in TEXT) {
            let document = format!("- {}\n", scalar(&text));
            let read = yaml::parse(&document).map(|node| node.value);
            let Ok(YamlValue::List(list)) = read else { panic!("{document:?} gave {read:?}") };
            prop_assert_eq!(&list[0].value, &YamlValue::Text(text), "{:?}", document);
        }
    }
}
