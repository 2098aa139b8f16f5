//! The command `esper token`: makes a token to try authentication with, so that nobody needs another tool for it.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{ConfigError, TokenClaims, TokenOrder};
use crate::mint;

/// Prints the token that the process's arguments, behind `token`, ask for, or what is wrong with them.
pub fn run() -> ExitCode {
    // clap wants a program's name first: `token` is it.
    let args = std::env::args_os().skip(1).collect();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token = match token(args, &|name| std::env::var_os(name), now_s) {
        Ok(token) => token,
        Err(error) => return error.report(),
    };
    let mut stdout = io::stdout();
    match writeln!(stdout, "{token}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            ConfigError::Host(format!("cannot print the token: {error}; look where it is written to"))
                .report()
        }
        _ => ExitCode::SUCCESS,
    }
}

fn token(
    args: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    now_s: u64,
) -> Result<String, ConfigError> {
    let TokenOrder { secret, claims, time } = TokenOrder::parse(args, env)?;
    let expires_s = now_s.saturating_add(time.as_secs());
    let token = match claims {
        TokenClaims::Topics(topics) => mint::topics_token(&secret, &topics, expires_s),
        TokenClaims::Session(session) => mint::session_token(&secret, &session, expires_s),
    };
    token.map_err(|error| ConfigError::Host(format!("cannot sign: {error}")))
}
