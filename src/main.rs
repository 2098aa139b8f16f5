//! The `esper` binary: flags become a configuration, the configuration a server, and signals end it.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esper::Server;
use esper::config::{Config, LogFormat, SecretPair};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How soon a signal is acted on.
const SIGNAL_LATENCY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let config = match Config::from_env_and_args() {
        Ok(config) => config,
        Err(error) => return error.report(),
    };
    start_log(&config);
    end_on_panic();
    warn(&config);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let [subscribing, publishing] = [&config.auth.subscriber, &config.auth.publisher].map(|signers| {
        match config.auth.enabled && !signers.is_empty() {
            true => "with a token",
            false => "by anybody",
        }
    });
    let server = Server::start(config)?;
    tracing::info!(address = %server.address(), subscribing, publishing, "listening on http://{}", server.address());
    while !stop.load(Ordering::Relaxed) {
        server.watch(SIGNAL_LATENCY)?;
    }
    tracing::info!("stopping; a second signal ends at once");
    server.stop();
    tracing::info!("stopped");
    Ok(())
}

/// A flag that the first SIGTERM or SIGINT sets; the second ends the process.
fn stop_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag still down.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn start_log(config: &Config) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(tracing::Level::from(config.log_level));
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// A panic is a bug, and what it leaves behind on its shard cannot be trusted: it ends the server, which is
/// started again, instead of one task that nobody misses.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("bug: {panic}");
        std::process::exit(1);
    }));
}

/// Warns of what is dangerous or looks like a mistake.
fn warn(config: &Config) {
    for name in Config::unknown_variables() {
        tracing::warn!("{name} is no variable of esper's and does nothing; --help names those there are");
    }
    let auth = &config.auth;
    for (role, secret) in [("SUBSCRIBER", &auth.subscriber), ("PUBLISHER", &auth.publisher)] {
        if secret.secret.as_ref().is_some_and(SecretPair::is_short) {
            tracing::warn!(
                "ESPER_{role}_SECRET is shorter than 32 bytes and may be guessed; make one with: openssl rand -hex 32"
            );
        }
    }
    if auth.enabled && auth.publisher.is_empty() && !config.bind.is_loopback() {
        tracing::warn!("****************************************************************");
        tracing::warn!("ANYBODY WHO REACHES {} CAN PUBLISH TO EVERY TOPIC", config.bind);
        tracing::warn!("set ESPER_PUBLISHER_SECRET, or say that it is meant with --no-auth");
        tracing::warn!("****************************************************************");
    }
}
