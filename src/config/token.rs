//! The flags of `esper token`, which become one checked order.

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;

use super::auth::{SessionSecretFlags, SideSecretFlags};
use super::keys::Sources;
use super::layer::{Layer, variable};
use super::layers::{Parsed, Typed};
use super::values::token_time;
use super::{ConfigError, KIB, Secret};
use crate::core::session::{NAME_BYTES_MAX, NameError, Session};
use crate::core::topic::TOPICS_PER_STREAM_MAX;

/// The most bytes of topics: the server reads no token past 8 KiB, and a token is a third longer than its contents.
const TOPICS_BYTES_MAX: usize = 4 * KIB;

const AFTER_HELP: &str = "\
TIME is a number and its unit: 30s, 10m, 2h, 7d.
Secrets are those of the server: the same variables, and files whose first line signs. There, too:
  ESPER_SUBSCRIBER_SECRET   Signs the tokens of --sub
  ESPER_PUBLISHER_SECRET    Signs the tokens of --sub with --publish

To subscribe to pets, and to everything; to publish; to be alex in the channel chat:
  esper token --sub pets
  esper token --sub '*' --exp 1h
  esper token --sub pets --publish
  esper token --user alex --channel chat";

/// An order for a token: its claims, and the secret to sign it with.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct TokenOrder {
    /// The secret of the side that the token is for.
    pub(crate) secret: Secret,
    /// Whom the token is for.
    pub(crate) claims: TokenClaims,
    /// Its lifetime: 1 s to 365 days.
    pub(crate) time: Duration,
}

/// Whom a token is for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum TokenClaims {
    /// A subscriber or publisher of these topics: 1 to 64, none of them empty.
    Topics(Vec<String>),
    /// A user on a channel.
    Session(Session),
}

// A doc comment here is the flag's help.
/// Makes a token and prints it.
#[derive(Debug, Parser)]
#[command(name = "esper token", bin_name = "esper token", after_help = AFTER_HELP, max_term_width = 120)]
struct TokenFlags {
    /// Topic it is good for, with what is below it; '*' for all; repeat it
    #[arg(long = "sub", value_name = "TOPIC", help_heading = "For topics")]
    topics: Vec<String>,

    /// Topics are published to with it, not subscribed to
    #[arg(long, help_heading = "For topics")]
    publish: bool,

    /// User's name: any text of 1 to 128 bytes; '*' receives what is for everybody
    #[arg(long, value_name = "NAME", help_heading = "For a session")]
    user: Option<String>,

    /// Channel's name: any text of 1 to 128 bytes
    #[arg(long, value_name = "NAME", help_heading = "For a session")]
    channel: Option<String>,

    /// How long it is good for: 1s to 365d
    #[arg(long, value_name = "TIME", value_parser = token_time, default_value = "1d")]
    exp: Duration,

    #[command(flatten, next_help_heading = "Secrets")]
    sides: SideSecretFlags,
    #[command(flatten)]
    session: SessionSecretFlags,
}

impl TokenOrder {
    /// Returns the order of these arguments, of which the first is the program's name, and these variables.
    ///
    /// # Errors
    /// The reason and the remedy, or the help that was asked for.
    pub(crate) fn parse(
        args: Vec<OsString>,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        // Only the server's own variables, and none as common as `ESPER_USER`.
        let typed = Typed::parse::<TokenFlags>(args, |flag| flag.contains("secret"))?;
        let Parsed { flags, names, .. } = typed.over::<TokenFlags>(env, Layer::default())?;
        let claims = flags.claims().map_err(ConfigError::Usage)?;
        let TokenFlags { sides, session, .. } = &flags;
        let (side, secret, file) = match (&claims, flags.publish) {
            (TokenClaims::Session(_), _) => {
                ("session", session.session_secret.as_ref(), &session.session_secret_file)
            }
            (TokenClaims::Topics(_), true) => ("publisher", None, &sides.publisher_secret_file),
            (TokenClaims::Topics(_), false) => ("subscriber", None, &sides.subscriber_secret_file),
        };
        let secret = Sources::new(&names, env).secret(side, secret, file)?.ok_or_else(|| {
            let variable = variable(&format!("{side}-secret"));
            ConfigError::Usage(format!(
                "no {side} secret to sign with; set {variable}, or name its file with --{side}-secret-file"
            ))
        })?;
        Ok(Self { secret: secret.current, claims, time: flags.exp })
    }
}

impl TokenFlags {
    fn claims(&self) -> Result<TokenClaims, String> {
        match (&self.user, &self.channel) {
            (Some(_), _) | (_, Some(_)) if !self.topics.is_empty() || self.publish => {
                Err("a token is for topics (--sub, --publish) or for a session (--user, --channel); \
                     make two for both"
                    .to_owned())
            }
            (Some(user), Some(channel)) => session(user, channel).map(TokenClaims::Session),
            (Some(_), None) => Err("--user without --channel; write both".to_owned()),
            (None, Some(_)) => Err("--channel without --user; write both".to_owned()),
            (None, None) => self.topics(),
        }
    }

    fn topics(&self) -> Result<TokenClaims, String> {
        let topics = &self.topics;
        if topics.is_empty() && self.publish {
            return Err("--publish without --sub; write --sub TOPIC too, or --sub '*' for all".to_owned());
        }
        if topics.is_empty() {
            return Err(
                "no token is asked for; write --sub TOPIC, or --user NAME and --channel NAME".to_owned()
            );
        }
        if topics.iter().any(String::is_empty) {
            return Err("--sub '': empty; write a topic, or '*' for all".to_owned());
        }
        if topics.len() > TOPICS_PER_STREAM_MAX {
            let count = topics.len();
            return Err(format!("--sub {count} times: too many; write at most {TOPICS_PER_STREAM_MAX}"));
        }
        let bytes: usize = topics.iter().map(String::len).sum();
        if bytes > TOPICS_BYTES_MAX {
            return Err(format!(
                "--sub of {bytes} bytes in all: no server would read the token; write at most {TOPICS_BYTES_MAX}"
            ));
        }
        Ok(TokenClaims::Topics(topics.clone()))
    }
}

fn session(user: &str, channel: &str) -> Result<Session, String> {
    Session::new(user, channel).map_err(|NameError { field, bytes }| {
        let flag = if field == "userId" { "--user" } else { "--channel" };
        match bytes {
            0 => format!("{flag} '': empty; write 1 to {NAME_BYTES_MAX} bytes"),
            _ => format!("{flag} of {bytes} bytes: too long; write 1 to {NAME_BYTES_MAX} bytes"),
        }
    })
}
