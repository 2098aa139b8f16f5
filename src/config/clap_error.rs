//! clap's refusals, in one line that names the setting as it was written and the remedy.

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::ConfigError;
use super::layer::{Layer, Written, shown};

/// Parses the arguments of a separate command, without variables and files. clap expects a program's name first.
///
/// # Errors
/// One line with what is wrong, or the help that was asked for.
pub(crate) fn parse_command<C: clap::Parser>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<C, ConfigError> {
    C::try_parse_from(args).map_err(|error| explain(&error))
}

/// Returns the help that clap was asked for, or what it refuses, in one line.
pub(crate) fn explain(error: &clap::Error) -> ConfigError {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ConfigError::Help(error.render().to_string())
        }
        _ => ConfigError::Usage(in_one_line(error)),
    }
}

/// Returns clap's error in one line, `--heartbeat 15: no unit; write 15s or 15ms`; `names` says where it was written.
pub(super) fn refusal(error: &clap::Error, names: &Layer) -> ConfigError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return explain(error);
    }
    // clap names an argument as in its usage line: `--port <PORT>`.
    let flag = text(ContextKind::InvalidArg)
        .and_then(|usage| usage.split([' ', '=']).next())
        .map_or("a flag", |flag| flag.trim_start_matches('-'));
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    // In a malformed URL of a broker the password may be anywhere.
    let value_shown = if ["broker-node", "cluster", "session-secret"].contains(&flag) && !value.is_empty() {
        "***".to_owned()
    } else {
        shown(value)
    };
    let what = written(names, flag, value).with(flag, value_shown);
    let wrong = if value.is_empty() { "its value is missing" } else { "not one of its values" };
    let reason = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(reason), _) => reason.to_string(),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            format!("{wrong}; write {}", valid.join(" or "))
        }
        _ => format!("{wrong}; --help says what it may be"),
    };
    ConfigError::Usage(format!("{what}: {reason}"))
}

/// Returns where this value of a flag was written; for a list in a file, the value's own line.
fn written(names: &Layer, flag: &str, value: &str) -> Written {
    let Some(setting) = names.get(flag) else { return Written::Flag };
    let mut written = setting.written.clone();
    let is_it = |text: &str| text == value || text.split(',').any(|part| part == value);
    if let Written::File(place) = &mut written
        && let Some((line, _)) = setting.values.iter().find(|(_, text)| is_it(text))
    {
        place.line = *line;
    }
    written
}

/// Returns the first paragraph of clap's message and its tips; the rest is a usage line and a pointer to the help.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim);
    // Missing arguments are listed on lines of their own.
    let first = lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    // A flag that there is not was hardly meant as a value.
    let tips = lines.filter_map(|line| line.strip_prefix("tip: ")).filter(|tip| !tip.starts_with("to pass "));
    for tip in tips {
        line.push_str("; ");
        line.push_str(tip);
    }
    line.push_str("; --help says what there is");
    line
}
