//! Parses a command that signs with one of the server's secrets.

use std::ffi::OsString;

use clap::{Args, CommandFactory, FromArgMatches};

use super::auth::{SessionSecretFlags, SideSecretFlags};
use super::keys::Sources;
use super::layer::{Layer, variable};
use super::layers::{Parsed, Typed};
use super::{ConfigError, Secret};

/// The flags that say where the server's secrets are.
#[derive(Args, Debug)]
pub(crate) struct SecretFlags {
    #[command(flatten)]
    sides: SideSecretFlags,
    #[command(flatten)]
    session: SessionSecretFlags,
}

/// A parsed command line over the variables of its secrets.
pub(crate) struct SigningCommand<F> {
    pub(crate) flags: F,
    names: Layer,
}

impl<F: CommandFactory + FromArgMatches> SigningCommand<F> {
    /// Parses these arguments, of which the first is the program's name, and these variables.
    ///
    /// # Errors
    /// The reason and the remedy, or the help that was asked for.
    pub(crate) fn parse(
        args: Vec<OsString>,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        // Only the server's own variables, and none as common as `ESPER_USER`.
        let typed = Typed::parse::<F>(args, |flag| flag.contains("secret"))?;
        let Parsed { flags, names, .. } = typed.over::<F>(env, Layer::default())?;
        Ok(Self { flags, names })
    }

    /// Returns the secret that signs for a side: `subscriber`, `publisher` or `session`.
    ///
    /// # Errors
    /// There is none, or it cannot be read; with the remedy.
    pub(crate) fn secret(
        &self,
        side: &str,
        SecretFlags { sides, session }: &SecretFlags,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Secret, ConfigError> {
        let (secret, file) = match side {
            "session" => (session.session_secret.as_ref(), &session.session_secret_file),
            "publisher" => (None, &sides.publisher_secret_file),
            _ => (None, &sides.subscriber_secret_file),
        };
        let pair = Sources::new(&self.names, env).secret(side, secret, file).map_err(ConfigError::Usage)?;
        pair.map(|pair| pair.current).ok_or_else(|| {
            let variable = variable(&format!("{side}-secret"));
            ConfigError::Usage(format!(
                "no {side} secret to sign with; set {variable}, or name its file with --{side}-secret-file"
            ))
        })
    }
}
