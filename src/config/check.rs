//! Flags, variables and files become a [`Config`]: what each value alone cannot say is refused here, naming
//! every flag that has a part in it and the mend.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::command_line::command_line;
use super::cpus::{self, Wanted};
use super::file::{self, Settings};
use super::flags::{Flags, QueueFlags};
use super::keys::{Given, Sources};
use super::layers::{self, Read};
use super::names::Names;
use super::values::{Size, Time};
use super::{
    Auth, Config, ConfigError, Control, Cpus, Data, Drain, History, Http, KIB, MIB, Mailbox, Notes, Queues,
    Stream, dump,
};
use crate::http::Cors;

impl Config {
    /// The configuration this process was started with, and what a person may want to know of it.
    /// Files are looked for in `/etc/eventsourced`, `/etc/esper` and beside the binary.
    ///
    /// # Errors
    /// What is wrong and the mend, or what was asked for instead of a start; see [`ConfigError`].
    pub fn from_env_and_args() -> Result<(Self, Notes), ConfigError> {
        let env = |name: &str| std::env::var_os(name);
        let args = std::env::args_os().collect();
        let (config, notes) = Self::read(args, &env, &file::places(), choose_cpus)?;
        Ok((Self { command_line: command_line(), ..config }, notes))
    }

    /// As much, for [`Server::replace_keys`](crate::Server::replace_keys): reads the files again, and those that
    /// they and flags name, and leaves the CPUs alone, which this process may have lost some of since.
    ///
    /// # Errors
    /// As `from_env_and_args`.
    pub fn keys_from_env_and_args() -> Result<(Self, Notes), ConfigError> {
        let env = |name: &str| std::env::var_os(name);
        Self::read(std::env::args_os().collect(), &env, &file::places(), |_, _| Ok(Cpus::default()))
    }

    /// Variables in the environment that begin as ours do and are none: typing errors, most likely, which
    /// nobody reads.
    pub fn unknown_variables() -> Vec<String> {
        let names: Vec<String> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        layers::unknown(names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect()
    }

    /// The configuration of these arguments, of which the first is the program's name, and these variables.
    /// Looks for no files: reads those alone that they name, and which CPUs this process may use.
    ///
    /// # Errors
    /// As `from_env_and_args`.
    pub fn parse<I, T>(args: I, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString>,
    {
        let args = args.into_iter().map(Into::into).collect();
        Self::parse_with_warnings(args, env, &[]).map(|(config, _)| config)
    }

    pub(super) fn parse_with_warnings(
        args: Vec<OsString>,
        env: &dyn Fn(&str) -> Option<OsString>,
        places: &[PathBuf],
    ) -> Result<(Self, Vec<String>), ConfigError> {
        Self::read(args, env, places, choose_cpus).map(|(config, notes)| (config, notes.warnings))
    }

    fn read(
        args: Vec<OsString>,
        env: &dyn Fn(&str) -> Option<OsString>,
        places: &[PathBuf],
        choose_cpus: fn(&Flags, &Names) -> Result<Cpus, ConfigError>,
    ) -> Result<(Self, Notes), ConfigError> {
        let named = layers::config_file(&args, env)?;
        let named = named.as_ref().map(|(path, called)| (path.as_path(), called.clone()));
        let settings =
            Settings::read(places, named, &layers::command::<Flags>()).map_err(ConfigError::Usage)?;
        let Read { flags, names, matches } = layers::read_over::<Flags>(args, env, &settings.entries)?;
        check(&flags, &names).map_err(ConfigError::Usage)?;
        let mut sources = Sources::new(&names, env);
        let auth = auth(&flags, &mut sources)?;
        let control = control(&flags, &mut sources)?;
        let mut warnings = settings.warnings.clone();
        warnings.append(&mut sources.warnings);
        if !auth.session.is_empty() && control.is_none() {
            warnings.push(
                "sessions have keys, but without a control port nothing can be emitted to them; \
                 open one with --bind-control 127.0.0.1:8001"
                    .to_owned(),
            );
        }
        if flags.journal.data_max.is_some() && flags.journal.data_dir.is_none() {
            let (limit, dir) = (names.of("data-max"), names.of("data-dir"));
            warnings.push(format!("{limit} does nothing without {dir}: events are kept in memory alone"));
        }
        // Last, so that a wrong value is named whatever machine it is tried on.
        let cpus = choose_cpus(&flags, &names)?;
        check_head(&flags, &names).map_err(ConfigError::Usage)?;
        let dumped = flags.files.dump_config.then(|| dump::text(&matches, &flags, &settings, &auth));
        let (queue_flags, config) = checked(flags, auth, control, cpus);
        let around = (&config.stream, config.namespaces);
        let queues = Queues::new(queue_flags, &settings, around, &names, &mut warnings);
        let config = Self { queues: queues.map_err(ConfigError::Usage)?, ..config };
        // Finds nothing that was not refused by its flag; else it is refused here, and not when the server starts.
        config.check().map_err(ConfigError::Usage)?;
        match dumped {
            None => Ok((config, Notes { files: settings.files, warnings })),
            Some(text) => Err(text.map_or_else(ConfigError::Usage, ConfigError::Help)),
        }
    }
}

/// Everything but the queues has been checked; here it only gets its place.
fn checked(flags: Flags, auth: Auth, control: Option<Control>, cpus: Cpus) -> (QueueFlags, Config) {
    let Flags {
        files: _,
        listening,
        control: _,
        auth: auth_flags,
        session: _,
        queues,
        topics,
        history,
        journal,
        streams,
        http,
        mailbox,
        drain,
        logging,
    } = flags;
    let config = Config {
        bind: listening.bind.ip,
        port: listening.bind.port.unwrap_or(listening.port),
        control,
        cpus,
        raise_file_limit: true,
        takeover: listening.takeover,
        command_line: Vec::new(),
        log_format: logging.log_format,
        log_level: logging.log_level,
        auth,
        cors_origins: http.cors_origin,
        admin: !auth_flags.no_admin,
        trusted_proxies: http.trusted_proxy,
        queues: None,
        namespaces: topics.namespaces,
        partitions: topics.partitions,
        topics_max: topics.topics_max,
        history: History {
            events_max: history.history_events,
            bytes_max: history.history_bytes.0,
            age_max: history.history_age.0,
            memory_bytes_max: history.history_memory.0,
        },
        data: journal.data_dir.map(|dir| Data {
            dir,
            sync: journal.sync,
            bytes_max: journal.data_max.map(|size| size.0),
        }),
        subscribers_max: streams.subscribers_max,
        stream: Stream {
            heartbeat: Some(streams.heartbeat.0).filter(|every| !every.is_zero()),
            lag_bytes_max: streams.slow_lag.0,
            slow_policy: streams.slow_policy,
            send_timeout: streams.send_timeout.0,
            refuse: streams.refuse_streams,
            retry_min: streams.retry_min.0,
            retry_max: streams.retry_max.0,
        },
        http: Http {
            head_bytes_max: http.head_max.0,
            body_bytes_max: http.body_max.0,
            head_timeout: http.head_timeout.0,
            body_timeout: http.body_timeout.0,
            idle_timeout: http.idle_timeout.0,
            unanswered_max: http.unanswered_max,
            memory_bytes_max: http.request_memory.0,
        },
        mailbox: Mailbox {
            bytes_max: mailbox.mailbox_bytes.0,
            messages_max: mailbox.mailbox_messages,
            wait_max: mailbox.mailbox_wait.0,
        },
        drain: Drain { delay: drain.drain_delay.0, time_max: drain.drain_time.0 },
    };
    (queues, config)
}

fn choose_cpus(flags: &Flags, names: &Names) -> Result<Cpus, ConfigError> {
    let (flag, wanted) = match (flags.listening.threads, &flags.listening.cores) {
        (Some(count), _) => ("threads", Wanted::Count(count)),
        (None, Some(cores)) => ("cores", cores.clone()),
        (None, None) => return Ok(Cpus { ids: cpus::usable()?, pin: !flags.listening.no_pin }),
    };
    let ids = wanted
        .among(&cpus::usable()?)
        .map_err(|reason| ConfigError::Host(format!("{}: {reason}", names.with(flag, wanted))))?;
    Ok(Cpus { ids, pin: !flags.listening.no_pin })
}

/// Who may subscribe and publish, and whose session tokens are good.
fn auth(flags: &Flags, sources: &mut Sources<'_>) -> Result<Auth, ConfigError> {
    let (auth, session) = (&flags.auth, &flags.session);
    let subscriber = Given {
        secret: None,
        secret_file: auth.subscriber_secret_file.as_ref(),
        public_key: auth.subscriber_public_key.as_ref(),
    };
    let publisher = Given {
        secret: None,
        secret_file: auth.publisher_secret_file.as_ref(),
        public_key: auth.publisher_public_key.as_ref(),
    };
    let sessions = Given {
        secret: session.session_secret.as_ref(),
        secret_file: session.session_secret_file.as_ref(),
        public_key: session.session_public_key.as_ref(),
    };
    Ok(Auth {
        enabled: !auth.no_auth,
        subscriber: sources.signers("subscriber", subscriber)?,
        publisher: sources.signers("publisher", publisher)?,
        session: sources.signers("session", sessions)?,
        cookie_name: auth.cookie_name.clone(),
        session_time_max: session.session_time_max.0,
    })
}

fn control(flags: &Flags, sources: &mut Sources<'_>) -> Result<Option<Control>, ConfigError> {
    let flags = &flags.control;
    let Some(bind) = flags.bind_control else { return Ok(None) };
    let token = flags.control_token_file.as_ref().map(|path| sources.control_token(path)).transpose()?;
    let (hosts, public_publish) = (flags.control_host.clone(), flags.public_publish);
    Ok(Some(Control { bind, hosts, token, public_publish }))
}

/// Limits that hold by themselves, then those that hold together.
fn check(flags: &Flags, names: &Names) -> Result<(), String> {
    let Flags { listening, session, history, journal, streams, http, mailbox, drain, .. } = flags;

    check_listeners(flags, names)?;
    if listening.threads.is_some() && listening.cores.is_some() {
        let (threads, cores) = (names.of("threads"), names.of("cores"));
        return Err(format!("{threads} and {cores} both say how many CPUs; give one of them"));
    }
    for (flag, time) in [
        ("history-age", history.history_age),
        ("send-timeout", streams.send_timeout),
        ("retry-min", streams.retry_min),
        ("retry-max", streams.retry_max),
        ("head-timeout", http.head_timeout),
        ("body-timeout", http.body_timeout),
        ("idle-timeout", http.idle_timeout),
        ("drain-time", drain.drain_time),
    ] {
        if time == Time::ZERO {
            return Err(format!("{}: no time at all; write at least 1ms", names.with(flag, time)));
        }
    }
    if session.session_time_max.0 < Auth::SESSION_TIME_MIN {
        let time_max = names.with("session-time-max", session.session_time_max);
        return Err(format!("{time_max}: too short; write at least 1s"));
    }
    if journal.data_dir.is_some() && history.history_events == 0 {
        let events = names.with("history-events", 0);
        return Err(format!("{}: nothing is kept with {events}; leave out one", names.of("data-dir")));
    }
    if let Some(size) = journal.data_max {
        let least = Size(Data::BYTES_MAX_MIN);
        let data_max = names.with("data-max", size);
        if size < least {
            return Err(format!("{data_max}: too small; write at least {least}"));
        }
    }
    // Below this a server with many idle streams does nothing but comment.
    let heartbeat_min = Time(Duration::from_millis(100));
    if streams.heartbeat != Time::ZERO && streams.heartbeat.0 < heartbeat_min.0 {
        let heartbeat = names.with("heartbeat", streams.heartbeat);
        return Err(format!("{heartbeat}: too often; write at least {heartbeat_min}, or 0s for never"));
    }
    within(names, "head-max", http.head_max, Size(KIB), Size(MIB))?;
    within(names, "body-max", http.body_max, Size(KIB), Size(64 * MIB))?;
    within(
        names,
        "request-memory",
        http.request_memory,
        Size(MIB),
        Size(usize::try_from(Size::MAX).unwrap_or(usize::MAX)),
    )?;
    // Which of the origins it was, the reason says.
    Cors::parse(&http.cors_origin).map_err(|reason| format!("{}: {reason}", names.of("cors-origin")))?;

    // Twice, so that the largest event fits with its frame's own bytes, and beside another one.
    let two_bodies = Size(2 * http.body_max.0);
    let body_max = format!("twice {}", names.with("body-max", http.body_max));
    at_least(names, "slow-lag", streams.slow_lag, two_bodies, &body_max)?;
    at_least(names, "mailbox-bytes", mailbox.mailbox_bytes, two_bodies, &body_max)?;
    at_least(names, "request-memory", http.request_memory, two_bodies, &body_max)?;
    // The memory holds the logs, which hold what subscribers are behind, and the histories.
    for (flag, size) in [("slow-lag", streams.slow_lag), ("history-bytes", history.history_bytes)] {
        at_least(names, "history-memory", history.history_memory, size, &names.with(flag, size))?;
    }
    let retry_min = names.with("retry-min", streams.retry_min);
    at_least(names, "retry-max", streams.retry_max, streams.retry_min, &retry_min)
}

/// A head holds the id of a stream over all partitions.
fn check_head(flags: &Flags, names: &Names) -> Result<(), String> {
    let partitions = flags.topics.partitions;
    let (head_max, least) = (flags.http.head_max, Size(Config::head_bytes_min(partitions)));
    if !flags.topics.namespaces || head_max >= least {
        return Ok(());
    }
    Err(format!(
        "{}: less than ids of streams over {partitions} partitions take with {}; raise {} to {least}",
        names.with("head-max", head_max),
        names.of("namespaces"),
        names.of("head-max"),
    ))
}

/// Where it listens: one port for the public, and none of its places for control.
fn check_listeners(flags: &Flags, names: &Names) -> Result<(), String> {
    let (listening, control) = (&flags.listening, &flags.control);
    let (bind, port) = (names.with("bind", listening.bind), names.with("port", listening.port));
    if names.is_given("port") && listening.bind.port.is_some_and(|other| other != listening.port) {
        return Err(format!("{bind} and {port} say two ports; give one of them"));
    }
    let Some(address) = control.bind_control else {
        let alone = ["control-token-file", "control-host", "public-publish"];
        return match alone.into_iter().find(|flag| names.is_given(flag)) {
            Some(flag) => Err(format!(
                "{}: there is no control port; open one with --bind-control 127.0.0.1:8001, or leave this out",
                names.of(flag)
            )),
            None => Ok(()),
        };
    };
    let (name, control_port) = (names.with("bind-control", address), Control::new(address));
    let public_port = listening.bind.port.unwrap_or(listening.port);
    if control_port.overlaps(listening.bind.ip, public_port) {
        let public = if listening.bind.port.is_some() { bind } else { format!("{bind} {port}") };
        return Err(format!("{name}: the public port is there, by {public}; give them different ports"));
    }
    if control_port.is_exposed() && control.control_token_file.is_none() {
        let file = names.of("control-token-file");
        return Err(format!(
            "{name}: other machines may reach it, so it needs a token; \
             name its file with {file}, or bind it to 127.0.0.1 or ::1"
        ));
    }
    Ok(())
}

fn within(names: &Names, flag: &str, size: Size, min: Size, max: Size) -> Result<(), String> {
    if (min..=max).contains(&size) {
        return Ok(());
    }
    Err(format!("{}: out of range; write {min} to {max}", names.with(flag, size)))
}

/// `least` is what `other`, a flag with its value, asks of this one.
fn at_least<T>(names: &Names, flag: &str, value: T, least: T, other: &str) -> Result<(), String>
where
    T: PartialOrd + Display,
{
    if value >= least {
        return Ok(());
    }
    let (this, name) = (names.with(flag, value), names.of(flag));
    Err(format!("{this}: less than {other}; raise {name} to {least}, or lower the other"))
}

#[cfg(test)]
mod tests;
