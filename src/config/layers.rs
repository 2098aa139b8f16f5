//! Parses the command line over variables, variables over files, files over defaults.
//!
//! clap could read variables itself, but then it blames the flag for them, and only the process's own environment could
//! be tested. So each variable, and each key of a file, is passed to clap as its flag, before the real ones, and clap's
//! refusals are renamed to the place where the value was written.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::ConfigError;
use super::clap_error::refusal;
use super::layer::{Layer, Setting, Written, shown, variable};
use super::values::yes_or_no;

/// A parsed command line, before variables and files are known.
pub(super) struct Typed {
    args: Vec<OsString>,
    command: Command,
    matches: ArgMatches,
    has_variable: fn(&str) -> bool,
}

/// The settings of flags, variables and files together.
pub(super) struct Parsed<F> {
    pub(super) flags: F,
    /// Where each setting was written.
    pub(super) names: Layer,
    /// Every flag's values as text.
    pub(super) matches: ArgMatches,
}

impl Typed {
    /// Parses `args`, of which the first is the program's name. `has_variable` says which flags have variables.
    pub(super) fn parse<F: CommandFactory>(
        args: Vec<OsString>,
        has_variable: fn(&str) -> bool,
    ) -> Result<Self, ConfigError> {
        let args = with_two_dashes(args);
        let command = command::<F>(has_variable);
        let matches = command.clone().try_get_matches_from(&args);
        let matches = matches.map_err(|error| refusal(&error, &Layer::default()))?;
        Ok(Self { args, command, matches, has_variable })
    }

    /// Returns the name of the command among the arguments, if there is one.
    pub(super) fn command_name(&self) -> Option<&str> {
        self.matches.subcommand_name()
    }

    pub(super) fn command(&self) -> &Command {
        &self.command
    }

    /// Returns the file that `--config` or its variable names, and the text by which the person named it.
    pub(super) fn config_file(&self, env: &dyn Fn(&str) -> Option<OsString>) -> Option<(PathBuf, String)> {
        let (written, path) = match self.matches.get_one::<PathBuf>("config") {
            Some(path) => (Written::Flag, path.clone()),
            None => (Written::Variable, env(&variable("config"))?.into()),
        };
        let called = written.with("config", path.display());
        Some((path, called))
    }

    /// Puts the command line over its variables, and both over `files`.
    pub(super) fn over<F: FromArgMatches>(
        self,
        env: &dyn Fn(&str) -> Option<OsString>,
        files: Layer,
    ) -> Result<Parsed<F>, ConfigError> {
        let is_typed =
            |arg: &Arg| self.matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let (mut typed, mut over_files) = (Layer::default(), Layer::default());
        for arg in self.command.get_arguments() {
            let Some(flag) = arg.get_long() else { continue };
            if is_typed(arg) {
                let values = self.matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
                let values = values.map(|text| (0, text.to_string_lossy().into_owned())).collect();
                typed.insert(flag, Setting { written: Written::Flag, values });
            } else if (self.has_variable)(flag)
                && let Some(value) = env(&variable(flag))
            {
                let value = unicode(&variable(flag), value).map_err(ConfigError::Usage)?;
                over_files.insert(flag, Setting { written: Written::Variable, values: vec![(0, value)] });
            }
        }
        over_files.overwrite(typed);
        over_files.split_port();

        let mut names = files;
        names.give_way(|secret| over_files.is_given(secret) || env(&variable(secret)).is_some());
        names.overwrite(over_files);
        let mut args = names.args(&self.command, is_typed).map_err(ConfigError::Usage)?;
        args.extend(self.args.into_iter().skip(1));
        let matches = self.command.try_get_matches_from(args).map_err(|error| refusal(&error, &names))?;
        let flags = F::from_arg_matches(&matches).map_err(|error| refusal(&error, &names))?;
        Ok(Parsed { flags, names, matches })
    }
}

impl Layer {
    /// Returns a command line with the same settings, the program's name first, without the flags of `leave_out`.
    /// Removes the values of switches that are off.
    pub(super) fn args(
        &mut self,
        command: &Command,
        leave_out: impl Fn(&Arg) -> bool,
    ) -> Result<Vec<OsString>, String> {
        let mut args = vec![OsString::from("esper")];
        for arg in command.get_arguments().filter(|arg| !leave_out(arg)) {
            let Some((flag, setting)) =
                self.0.iter_mut().find(|(flag, _)| arg.get_long() == Some(flag.as_str()))
            else {
                continue;
            };
            let Setting { written, values } = setting;
            if arg.get_action().takes_values() {
                args.extend(values.iter().map(|(_, value)| format!("--{flag}={value}").into()));
            } else if let Some((_, value)) = values.first() {
                match yes_or_no(value) {
                    Ok(true) => args.push(format!("--{flag}").into()),
                    Ok(false) => values.clear(),
                    Err(reason) => return Err(format!("{}: {reason}", written.with(flag, shown(value)))),
                }
            }
        }
        Ok(args)
    }
}

/// Gives `-bind`, `-bindctl` and `-secret`, alone or with `=` and a value, a second dash: clap would read `-b ind`, and
/// users of Simple SSE Server write them so.
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

/// Returns a variable's text, or a refusal if it is not UTF-8.
pub(super) fn unicode(name: &str, value: OsString) -> Result<String, String> {
    value.into_string().map_err(|_| format!("{name}: not UTF-8; write it in UTF-8"))
}

/// Returns the command with each flag's variable in its help; short and long help are the same.
pub(super) fn command<F: CommandFactory>(has_variable: fn(&str) -> bool) -> Command {
    F::command().mut_args(|arg| {
        let (Some(flag), Some(help)) = (arg.get_long(), arg.get_help()) else { return arg };
        let help = match has_variable(flag) {
            true => format!("{help} [env: {}]", variable(flag)),
            false => help.to_string(),
        };
        let takes_values = arg.get_action().takes_values();
        // The paragraphs below a field's first are for programs.
        let arg = arg.help(help).long_help(Resettable::Reset);
        if !takes_values {
            return arg;
        }
        // `--port -1` is then a wrong port, not an unknown flag `-1`. The value's name lists an enum's values already;
        // listing them again would make a second, longer help.
        arg.allow_negative_numbers(true).hide_possible_values(true)
    })
}

#[cfg(test)]
mod tests;
