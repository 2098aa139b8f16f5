//! The `esper` binary: flags become a configuration, the configuration a server, and signals end it.

#![forbid(unsafe_code)]

mod systemd;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esper::config::{BindAddress, Config, ConfigError};
use esper::{Inherited, Server, command, log};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use systemd::Notifier;

/// Returns freed memory to the system within ten seconds.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a signal may wait until it is acted on.
const SIGNAL_LATENCY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    if let Some(code) = command::run() {
        return code;
    }
    // Registered first: until then SIGHUP ends the process.
    let signals = Signals::register();
    // Before there is a second thread.
    let listeners = match systemd::listeners() {
        Ok(listeners) => listeners,
        Err(reason) => return ConfigError::Host(reason).report(),
    };
    let (mut config, notes) = match Config::from_env_and_args() {
        Ok(read) => read,
        Err(error) => return error.report(),
    };
    if let Err(error) = log::start(&config) {
        let reason =
            format!("cannot start the log's thread: {error}; raise the process limit (ulimit -u, TasksMax=)");
        return ConfigError::Host(reason).report();
    }
    end_on_panic();
    if !notes.files.is_empty() {
        tracing::info!("configured by {}", notes.files.join(", "));
    }
    if let Err(error) = systemd::adopt(&listeners, &mut config) {
        return ConfigError::Host(error.to_string()).report();
    }
    warn(&config, &notes.warnings);
    let code = match run(config, listeners, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    log::flush();
    code
}

fn run(config: Config, listeners: Inherited, signals: io::Result<Signals>) -> Result<(), Box<dyn Error>> {
    let signals = signals.map_err(|error| format!("cannot listen for signals: {error}"))?;
    let [subscribing, publishing] = [&config.auth.subscriber, &config.auth.publisher].map(|signers| {
        match config.auth.enabled && !signers.is_empty() {
            true => "with a token",
            false => "by anybody",
        }
    });
    let publishing = if is_publishing_public(&config) { publishing } else { "on the control port" };
    let queue_path = config.queues.as_ref().map(|queues| queues.path.clone());
    let is_inherited = !listeners.public.is_empty();
    let mut notifier = Notifier::new();
    notifier.starting();
    let before_serving = || signals.starting.store(false, Ordering::Relaxed);
    let server = Server::start_on(config, listeners, before_serving)?;
    for address in server.control_addresses() {
        tracing::info!(%address, "control on {}", shown(address));
    }
    if let Some(path) = queue_path {
        tracing::info!(path, "queues for whoever can say their names");
    }
    for address in server.addresses() {
        let inherited = if is_inherited { " (inherited)" } else { "" };
        tracing::info!(%address, subscribing, publishing, "listening on {}{inherited}", shown(address));
    }
    while !signals.stop.load(Ordering::Relaxed) {
        server.watch(SIGNAL_LATENCY)?;
        if signals.reread.swap(false, Ordering::Relaxed) {
            notifier.reloading(|| reread(&server));
        }
        notifier.look(&server);
    }
    notifier.stopping();
    tracing::info!("stopping; a second signal ends at once");
    server.finish()?;
    tracing::info!("stopped");
    Ok(())
}

/// Opens the access log anew, and reloads secrets and keys from the files that the flags name.
fn reread(server: &Server) {
    if let Err(error) = server.reopen_access_log() {
        tracing::error!("access log not opened anew, lines still go to the old file: {error}");
    }
    let read = Config::keys_from_env_and_args().map_err(|error| error.to_string());
    let taken = read.and_then(|(config, notes)| {
        server.replace_keys(&config).map_err(|error| error.to_string()).map(|()| notes.warnings)
    });
    match taken {
        Ok(warnings) => {
            tracing::info!("secrets and keys reread; all else needs a restart");
            warnings.iter().for_each(|line| tracing::warn!("{line}"));
        }
        Err(error) => tracing::error!("secrets and keys not reread, the old ones stay: {error}"),
    }
}

/// Flags that signals set.
struct Signals {
    /// Set until the server serves. Its start may wait for others as long as it likes: SIGTERM and SIGINT end the process.
    starting: Arc<AtomicBool>,
    /// Set by the first SIGTERM or SIGINT; the second ends the process.
    stop: Arc<AtomicBool>,
    /// Set by SIGHUP.
    reread: Arc<AtomicBool>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let starting = Arc::new(AtomicBool::new(true));
        let signals = Self { starting, stop: Arc::default(), reread: Arc::default() };
        flag::register(SIGHUP, Arc::clone(&signals.reread))?;
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, 0, Arc::clone(&signals.starting))?;
            // The order matters: at the first signal the flag must not be set yet.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&signals.stop))?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        Ok(signals)
    }
}

/// Makes a panic end the process. It is a bug, and the state it leaves on its shard cannot be trusted: a restart of the
/// server is better than the loss of one task that nobody notices.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("bug: {panic}");
        log::flush();
        std::process::exit(1);
    }));
}

/// Logs warnings of settings that are dangerous or look like a mistake.
fn warn(config: &Config, warnings: &[String]) {
    warnings.iter().for_each(|line| tracing::warn!("{line}"));
    let auth = &config.auth;
    let anybody = auth.enabled && auth.publisher.is_empty() && is_publishing_public(config);
    let exposed = config.bind.iter().filter(|address| address.is_exposed());
    let exposed = exposed.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if anybody && !exposed.is_empty() {
        tracing::warn!("****************************************************************");
        tracing::warn!("ANYBODY WHO REACHES {exposed} CAN PUBLISH TO EVERY TOPIC");
        tracing::warn!(
            "set ESPER_PUBLISHER_SECRET, or let programs alone publish, at a port of their own, by"
        );
        tracing::warn!("--bind-control 127.0.0.1:8001; or say that it is meant with --no-auth");
        tracing::warn!("****************************************************************");
    }
}

/// Returns an address as a client names it.
fn shown(address: &BindAddress) -> String {
    match address.tcp() {
        Some(address) => format!("http://{address}"),
        None => address.to_string(),
    }
}

/// Returns whether the public port serves `/publish`.
fn is_publishing_public(config: &Config) -> bool {
    config.control.as_ref().is_none_or(|control| control.public_publish)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    /// Run by the test below in a process of its own.
    #[test]
    #[ignore = "ends the process"]
    fn one_thread_panics() {
        log::start(&Config::default()).unwrap();
        end_on_panic();
        let _ = thread::spawn(|| panic!("a bug")).join();
        std::process::exit(3);
    }

    #[test]
    fn a_panic_anywhere_ends_the_process_with_1_whether_or_not_it_can_be_logged() {
        let this = std::env::current_exe().unwrap();
        for (stderr, said) in [("2>&1", true), ("2>/dev/full", false), ("2>&-", false)] {
            let mut command = Command::new("sh");
            let test = format!("exec \"$0\" --exact tests::one_thread_panics --ignored --nocapture {stderr}");
            let output = command.args(["-c", &test]).arg(&this).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}: {output:?}");
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                stdout.contains("ERROR bug: panicked at") && stdout.contains("a bug"),
                said,
                "{stdout}"
            );
        }
    }
}
