//! What is in force, as YAML that can be read back. Secrets are left out, as comments that say so: a file
//! that is printed ends in a log or a ticket.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, ArgMatches};

use super::file::{NESTED, NO_KEYS, Settings};
use super::flags::{Flags, QueueFlags};
use super::headers::Headers;
use super::layers;
use super::names::variable;
use super::{Auth, Signers};

const START: &str = "\
# What is in force: by flags, over variables, over files, over defaults. To be read by --config.
# Secrets are not shown.
";

/// All of it: `matches` are the values as they were written, whose meanings are in `flags`.
///
/// # Errors
/// One line, when a value cannot be written as YAML.
pub(super) fn text(
    matches: &ArgMatches,
    flags: &Flags,
    settings: &Settings,
    auth: &Auth,
) -> Result<String, String> {
    let mut out = Dump { text: START.to_owned() };
    let command = layers::command::<Flags>();
    let mut heading = None;
    for arg in command.get_arguments() {
        let Some(flag) = arg.get_long().filter(|flag| !NO_KEYS.contains(flag)) else { continue };
        let is_first = arg.get_help_heading() != heading;
        if is_first {
            heading = arg.get_help_heading();
            out.line(0, &format!("\n# {}", heading.unwrap_or_default()));
        }
        match flag {
            "bind" => out.address(flags),
            "port" => {}
            "session-secret" => {}
            flag if NESTED.iter().any(|(.., nested)| *nested == flag) => {
                if is_first {
                    out.queues(&flags.queues, settings);
                }
            }
            flag => out.flag(flag, arg, matches)?,
        }
        out.secret(flag, auth, matches);
    }
    Ok(out.text)
}

struct Dump {
    text: String,
}

impl Dump {
    fn line(&mut self, depth: usize, line: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{}{line}", "  ".repeat(depth));
    }

    fn address(&mut self, flags: &Flags) {
        let bind = flags.listening.bind;
        let port = bind.port.unwrap_or(flags.listening.port);
        self.line(0, "server:");
        self.line(1, &format!("address: {}", scalar(&std::net::SocketAddr::new(bind.ip, port).to_string())));
        self.line(
            0,
            &format!("# The same in two keys: bind: {} and port: {port}", scalar(&bind.ip.to_string())),
        );
    }

    fn flag(&mut self, flag: &str, arg: &Arg, matches: &ArgMatches) -> Result<(), String> {
        let id = arg.get_id().as_str();
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            self.line(0, &format!("{flag}: {}", matches.get_flag(id)));
            return Ok(());
        }
        let mut values = Vec::new();
        for value in matches.get_raw(id).into_iter().flatten() {
            let value = value.to_str().ok_or_else(|| format!("--{flag}: not UTF-8; write it in UTF-8"))?;
            values.push(scalar(value.trim()));
        }
        match (&*values, arg.get_action()) {
            ([], ArgAction::Append) => self.line(0, &format!("{flag}: []")),
            ([], _) => self.line(0, &format!("{flag}: null")),
            (values, ArgAction::Append) => {
                self.line(0, &format!("{flag}:"));
                values.iter().for_each(|value| self.line(1, &format!("- {value}")));
            }
            ([value, ..], _) => self.line(0, &format!("{flag}: {value}")),
        }
        Ok(())
    }

    /// That there is a secret which no file holds, beside the key of its file.
    fn secret(&mut self, flag: &str, auth: &Auth, matches: &ArgMatches) {
        let signers = |signers: &Signers| signers.secret.is_some();
        let (side, is_set) = match flag {
            "subscriber-secret-file" => ("subscriber", signers(&auth.subscriber)),
            "publisher-secret-file" => ("publisher", signers(&auth.publisher)),
            "session-secret-file" => ("session", signers(&auth.session)),
            _ => return,
        };
        if is_set && !matches.contains_id(&flag.replace('-', "_")) {
            let variable = variable(&format!("{side}-secret"));
            self.line(0, &format!("# {side}-secret: '***' (set by {variable})"));
        }
    }

    /// What concerns queues, as comments where there are none: read back as keys they would be of no use.
    fn queues(&mut self, flags: &QueueFlags, settings: &Settings) {
        if !flags.broker_node.is_empty() {
            return self.queue_keys(flags, settings);
        }
        self.line(0, "# No broker is named, so there are no queues. With one there are these keys:");
        let mut keys = Dump { text: String::new() };
        keys.queue_keys(flags, settings);
        keys.text.lines().for_each(|line| self.line(0, &format!("# {line}")));
    }

    fn queue_keys(&mut self, flags: &QueueFlags, settings: &Settings) {
        let nodes = &flags.broker_node;
        self.line(0, "broker:");
        if nodes.is_empty() {
            self.line(1, "node: []");
        } else if nodes.iter().any(|node| node.has_credentials()) {
            self.line(1, "# Without the credentials; to use this list, write them in and take the # away:");
            self.line(1, "# node:");
            nodes.iter().for_each(|node| self.line(1, &format!("#   - {}", scalar(&node.to_string()))));
        } else {
            self.line(1, "node:");
            nodes.iter().for_each(|node| self.line(2, &format!("- {}", scalar(&node.to_string()))));
        }
        self.line(0, "queue:");
        self.line(1, &format!("pattern: {}", scalar(&flags.queue_pattern.to_string())));
        self.line(1, &format!("path: {}", scalar(&flags.queue_path)));
        self.line(1, &format!("expire: {}", flags.queue_expire.0.as_secs()));
        self.line(1, &format!("prefetch: {}", flags.queue_prefetch));
        self.line(1, &format!("ack_window: {}", flags.queue_ack_window));
        self.line(1, &format!("ack_delay: {}", flags.queue_ack_delay));
        self.line(1, if settings.subscribe.is_empty() { "subscribe: []" } else { "subscribe:" });
        for (_, rule) in &settings.subscribe {
            self.line(2, &format!("- exchange: {}", scalar(&rule.exchange)));
            self.line(3, &format!("routing_key: {}", scalar(&rule.routing_key)));
            self.line(3, &format!("topic: {}", scalar(&rule.topic)));
        }
        self.line(0, "header:");
        self.headers("cors", &settings.cors);
        self.headers("sse", &settings.sse);
    }

    fn headers(&mut self, kind: &str, headers: &Headers) {
        self.line(1, &format!("{kind}:"));
        for header in headers.all() {
            let value = header.value.as_deref().map_or_else(|| "null".to_owned(), scalar);
            self.line(2, &format!("{}: {value}", scalar(&header.name)));
        }
    }
}

/// A value in YAML: plain where that is the same text to every reader, else in double quotes (YAML 1.2,
/// 7.3.1).
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,+".contains(c);
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let is_null = text.eq_ignore_ascii_case("null");
    if starts_plain && text.chars().all(is_plain) && !text.ends_with(':') && !is_null {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::yaml::{self, Value};
    use super::*;

    /// What means something in YAML, and what none of its readers takes as it is.
    const TEXT: &str = "(\\PC|[\n\t\r\0 :#'\"\\\\~-]|null|\u{85}|\u{feff}){0,20}";

    proptest! {
        #[test]
        fn any_text_is_written_so_that_it_reads_back(text in TEXT) {
            let document = format!("- {}\n", scalar(&text));
            let read = yaml::parse(&document).map(|node| node.value);
            let Ok(Value::List(list)) = read else { panic!("{document:?} gave {read:?}") };
            prop_assert_eq!(&list[0].value, &Value::Text(text), "{:?}", document);
        }
    }
}
