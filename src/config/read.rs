//! Reads a configuration: the command line, then files, then the secrets and keys that they name; then checks it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::cli::{self, Flags};
use super::command_line::command_line;
use super::cpus::CpuFlags;
use super::file::{self, Files};
use super::keys::{SideFlags, Sources};
use super::layer::Layer;
use super::layers::{Parsed, Typed};
use super::{BindAddress, Config, ConfigError, Cpus, Notes, dump};

impl Config {
    /// Returns the configuration that this process was started with, and notes for a person. Files are looked for in
    /// `/usr/lib/esper`, `/etc/eventsourced`, `/etc/esper` and beside the binary.
    ///
    /// # Errors
    /// The reason and the remedy, or the text that was asked for instead of a start; see [`ConfigError`].
    pub fn from_env_and_args() -> Result<(Self, Notes), ConfigError> {
        let (config, notes) = Self::from_env_and(server_args(std::env::args_os()))?;
        Ok((Self { command_line: command_line(), ..config }, notes))
    }

    /// Returns the configuration again for [`Server::replace_keys`](crate::Server::replace_keys): rereads the files,
    /// and those that they and flags name. It leaves the CPUs alone, some of which this process may have lost since.
    ///
    /// # Errors
    /// As [`Config::from_env_and_args`].
    pub fn keys_from_env_and_args() -> Result<(Self, Notes), ConfigError> {
        Self::read(server_args(std::env::args_os()), &variable_of_process, &file::places(), no_cpus)
    }

    /// Returns the configuration that a server with these arguments would have, of which the first is the program's
    /// name, with the variables of this process and the files where they are looked for.
    ///
    /// # Errors
    /// As [`Config::from_env_and_args`].
    pub(crate) fn from_env_and(args: Vec<OsString>) -> Result<(Self, Notes), ConfigError> {
        let (config, mut notes) = Self::read(args, &variable_of_process, &file::places(), CpuFlags::choose)?;
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let unknown = cli::unknown_variables(names).into_iter();
        notes.warnings.splice(
            0..0,
            unknown.map(|name| {
                format!("{name} is no variable of esper's and does nothing; --help names those there are")
            }),
        );
        Ok((config, notes))
    }

    /// Returns the configuration of this file, and notes on it, read without variables and other files, on whatever machine.
    ///
    /// # Errors
    /// As [`Config::from_env_and_args`].
    pub(crate) fn check_file(path: &Path) -> Result<(Self, Notes), ConfigError> {
        let args = vec!["esper".into(), "--config".into(), path.into()];
        Self::read(args, &|_| None, &[], no_cpus)
    }

    /// Returns where a server with these arguments listens first, as [`Config::from_env_and`], without reading secrets and
    /// keys.
    ///
    /// # Errors
    /// As [`Config::from_env_and_args`].
    pub(crate) fn address(args: Vec<OsString>) -> Result<BindAddress, ConfigError> {
        let (_, Parsed { flags, .. }) = parse(args, &variable_of_process, &file::places())?;
        let nowhere = || ConfigError::Usage("--bind: nothing to listen on; set an address".to_owned());
        flags.config.addresses().into_iter().next().ok_or_else(nowhere)
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
        let (files, Parsed { flags, names, matches }) = parse(args, env, places)?;
        let Flags {
            files: file_flags,
            cpus,
            control,
            sides,
            session,
            keys,
            parties,
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
        let mut signers = |flags| sources.signers(flags).map_err(usage);
        let auth = &mut config.auth;
        auth.subscriber = signers(SideFlags {
            side: "subscriber",
            secret: None,
            secret_file: sides.subscriber_secret_file,
            public_key: keys.subscriber_public_key,
            jwks: keys.subscriber_jwks,
            audiences: parties.subscriber_audience,
            issuers: parties.subscriber_issuer,
        })?;
        auth.publisher = signers(SideFlags {
            side: "publisher",
            secret: None,
            secret_file: sides.publisher_secret_file,
            public_key: keys.publisher_public_key,
            jwks: keys.publisher_jwks,
            audiences: parties.publisher_audience,
            issuers: parties.publisher_issuer,
        })?;
        auth.session = signers(SideFlags {
            side: "session",
            secret: session.session_secret,
            secret_file: session.session_secret_file,
            public_key: keys.session_public_key,
            jwks: keys.session_jwks,
            audiences: parties.session_audience,
            issuers: parties.session_issuer,
        })?;
        config.control = sources.control(control).map_err(usage)?;
        notes.warnings.append(&mut sources.warnings);
        notes.warnings.extend(config.auth.warnings(&names));
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
        if config.access_log_sample > 1 && config.access_log.is_none() {
            let sample = names.of("access-log-sample");
            notes
                .warnings
                .push(format!("{sample} does nothing without --access-log: requests are not logged"));
        }
        let namespaces = config.namespaces;
        config.queues = queues.with_files(&files, namespaces, &names, &mut notes.warnings).map_err(usage)?;
        config.check_together(&names).map_err(usage)?;
        // `127.0.0.1:3000` and `127.0.0.1` beside port 3000 mean the same, and are dumped and compared in one form.
        let shared = config.port;
        let is_shared = |address: &&mut BindAddress| address.port() == Some(shared);
        config.bind.iter_mut().filter(is_shared).for_each(|address| *address = address.without_port());
        // Done last, so that a wrong value is reported on any machine.
        config.cpus = choose_cpus(&cpus, &names)?;
        notes.warnings.extend(cpus.warning(&config.cpus, &names));
        if file_flags.dump_config {
            let text = dump::text(&config, &matches, &names, &files);
            return Err(text.map_or_else(usage, ConfigError::Help));
        }
        Ok((config, notes))
    }
}

/// Parses the command line, variables and files, and reads no other file that they name.
fn parse(
    args: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    places: &[PathBuf],
) -> Result<(Files, Parsed<Flags>), ConfigError> {
    let typed = Typed::parse::<Flags>(args, cli::has_variable)?;
    if let Some(name) = typed.command_name() {
        return Err(ConfigError::Usage(format!(
            "{name}: a command of its own; write it first, or leave it out: here stand flags of the server"
        )));
    }
    let files = Files::read(places, typed.config_file(env), typed.command()).map_err(ConfigError::Usage)?;
    let parsed = typed.over::<Flags>(env, files.layer.clone())?;
    Ok((files, parsed))
}

/// Returns a server's arguments without the command `serve`, which changes nothing.
pub(crate) fn server_args(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|word| word == "serve") {
        args.remove(1);
    }
    args
}

fn variable_of_process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Chooses no CPUs, for a configuration that no server is started with.
fn no_cpus(_: &CpuFlags, _: &Layer) -> Result<Cpus, ConfigError> {
    Ok(Cpus::default())
}
