//! Reads a configuration: the command line, then files, then the secrets and keys that they name; then checks it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::cli::{self, Flags};
use super::command_line::command_line;
use super::cpus::CpuFlags;
use super::file::{self, Files};
use super::keys::Sources;
use super::layer::Layer;
use super::layers::{Parsed, Typed};
use super::{Config, ConfigError, Cpus, Notes, Secret, dump};

impl Config {
    /// Returns the configuration that this process was started with, and notes for a person. Files are looked for in
    /// `/usr/lib/esper`, `/etc/eventsourced`, `/etc/esper` and beside the binary.
    ///
    /// # Errors
    /// The reason and the remedy, or the text that was asked for instead of a start; see [`ConfigError`].
    pub fn from_env_and_args() -> Result<(Self, Notes), ConfigError> {
        let env = |name: &str| std::env::var_os(name);
        let args = std::env::args_os().collect();
        let (config, notes) = Self::read(args, &env, &file::places(), CpuFlags::choose)?;
        Ok((Self { command_line: command_line(), ..config }, notes))
    }

    /// Returns the configuration again for [`Server::replace_keys`](crate::Server::replace_keys): rereads the files,
    /// and those that they and flags name. It leaves the CPUs alone, some of which this process may have lost since.
    ///
    /// # Errors
    /// As [`Config::from_env_and_args`].
    pub fn keys_from_env_and_args() -> Result<(Self, Notes), ConfigError> {
        let env = |name: &str| std::env::var_os(name);
        Self::read(std::env::args_os().collect(), &env, &file::places(), |_, _| Ok(Cpus::default()))
    }

    /// Returns the environment's variables that begin like ours and are not: most likely typing errors.
    pub fn unknown_variables() -> Vec<String> {
        cli::unknown_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
    }

    /// Returns the configuration of these arguments, of which the first is the program's name, and these variables.
    /// Looks for no files and reads only those that they name, and which CPUs this process may use.
    ///
    /// # Errors
    /// As [`Config::from_env_and_args`].
    pub fn parse<I, T>(args: I, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString>,
    {
        let args = args.into_iter().map(Into::into).collect();
        Self::read(args, env, &[], CpuFlags::choose).map(|(config, _)| config)
    }

    pub(super) fn read(
        args: Vec<OsString>,
        env: &dyn Fn(&str) -> Option<OsString>,
        places: &[PathBuf],
        choose_cpus: fn(&CpuFlags, &Layer) -> Result<Cpus, ConfigError>,
    ) -> Result<(Self, Notes), ConfigError> {
        let usage = ConfigError::Usage;
        let typed = Typed::parse::<Flags>(args, cli::has_variable)?;
        let files = Files::read(places, typed.config_file(env), typed.command()).map_err(usage)?;
        let Parsed { flags, names, matches } = typed.over::<Flags>(env, files.layer.clone())?;
        let Flags {
            files: file_flags,
            cpus,
            control,
            sides,
            session,
            keys,
            queues,
            data,
            cluster,
            mut config,
        } = flags;

        config.raise_file_limit = true;
        config.stream.heartbeat = config.stream.heartbeat.filter(|every| !every.is_zero());
        config.data = data.data();
        config.cluster = cluster.cluster();
        let mut notes = files.notes.clone();
        let mut sources = Sources::new(&names, env);
        let mut signers = |side, secret: &Option<Secret>, file, key| {
            sources.signers(side, secret.as_ref(), file, key).map_err(usage)
        };
        let auth = &mut config.auth;
        auth.subscriber =
            signers("subscriber", &None, &sides.subscriber_secret_file, &keys.subscriber_public_key)?;
        auth.publisher =
            signers("publisher", &None, &sides.publisher_secret_file, &keys.publisher_public_key)?;
        auth.session = signers(
            "session",
            &session.session_secret,
            &session.session_secret_file,
            &keys.session_public_key,
        )?;
        config.control = sources.control(control).map_err(usage)?;
        notes.warnings.append(&mut sources.warnings);
        if !config.auth.session.is_empty() && config.control.is_none() {
            notes.warnings.push(
                "sessions have keys, but without a control port nothing can be emitted to them; \
                 open one with --bind-control 127.0.0.1:8001"
                    .to_owned(),
            );
        }
        if names.is_given("data-max") && config.data.is_none() {
            let (limit, dir) = (names.of("data-max"), names.of("data-dir"));
            notes
                .warnings
                .push(format!("{limit} does nothing without {dir}: events are kept in memory alone"));
        }
        let namespaces = config.namespaces;
        config.queues = queues.with_files(&files, namespaces, &names, &mut notes.warnings).map_err(usage)?;
        config.check_together(&names).map_err(usage)?;
        // Done last, so that a wrong value is reported on any machine.
        config.cpus = choose_cpus(&cpus, &names)?;
        if file_flags.dump_config {
            let text = dump::text(&config, &matches, &names, &files);
            return Err(text.map_or_else(usage, ConfigError::Help));
        }
        Ok((config, notes))
    }
}
