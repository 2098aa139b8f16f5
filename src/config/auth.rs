//! Settings of authentication, and the flags that name secrets and keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::values::{cookie_name, time, token_time};
use super::{Secret, Signers};

/// Who may subscribe and publish, and whose session tokens are good.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Authentication")]
pub struct Auth {
    /// Let everybody subscribe and publish, whatever secrets and keys are set; sessions need their tokens all the same.
    ///
    /// That is `false`.
    #[arg(long = "no-auth", action = ArgAction::SetFalse)]
    pub enabled: bool,
    /// The signers of subscribers' tokens; when there are none, anybody may subscribe.
    #[arg(skip)]
    pub subscriber: Signers,
    /// The signers of publishers' tokens; when there are none, anybody may publish.
    #[arg(skip)]
    pub publisher: Signers,
    /// The signers of session tokens, which say who a user is and on which channel; when there are none, sessions are
    /// off.
    #[arg(skip)]
    pub session: Signers,
    /// Cookie in which a subscriber may send its token.
    ///
    /// A token of RFC 9110, 5.6.2.
    #[arg(long, value_name = "NAME", value_parser = cookie_name, default_value = "esper_token")]
    pub cookie_name: String,
    /// Leeway for the clocks of those who sign: a token is accepted this long before its nbf and after its exp.
    ///
    /// 0 s to 10 minutes.
    #[arg(long, value_name = "TIME", value_parser = leeway, default_value = "5s")]
    pub leeway: Duration,
    /// How long a session token made by /token/ may be good for, at most.
    ///
    /// 1 s to 365 days.
    #[arg(long, value_name = "TIME", value_parser = token_time, default_value = "30d", help_heading = "Sessions")]
    pub session_time_max: Duration,
}

/// Where the secrets of subscribers and publishers are.
#[derive(Args, Debug)]
pub(super) struct SideSecretFlags {
    /// File with the secret that signs subscribers' tokens, in place of ESPER_SUBSCRIBER_SECRET
    #[arg(long, value_name = "FILE")]
    pub(super) subscriber_secret_file: Option<PathBuf>,
    /// File with the secret that signs publishers' tokens, in place of ESPER_PUBLISHER_SECRET
    #[arg(long, value_name = "FILE")]
    pub(super) publisher_secret_file: Option<PathBuf>,
}

/// Where the secret of sessions is. Of all secrets it alone has a flag, which users of Simple SSE Server know: a
/// command line is seen by everybody on the machine.
#[derive(Args, Debug)]
pub(super) struct SessionSecretFlags {
    /// Secret that signs session tokens; on the command line everybody on this machine can see it (ps): better its
    /// variable, or --session-secret-file
    #[arg(long, visible_alias = "secret", value_name = "TEXT", value_parser = secret)]
    pub(super) session_secret: Option<Secret>,
    /// File with the secret that signs session tokens
    #[arg(long, visible_alias = "secret-file", value_name = "FILE")]
    pub(super) session_secret_file: Option<PathBuf>,
}

/// Where public keys are.
#[derive(Args, Debug)]
#[command(next_help_heading = "Authentication")]
pub(super) struct KeyFlags {
    /// PEM file of public keys, whose private keys sign subscribers' tokens: RS256, ES256 or EdDSA, by the key's type
    #[arg(long, value_name = "FILE")]
    pub(super) subscriber_public_key: Option<PathBuf>,
    /// PEM file of public keys, whose private keys sign publishers' tokens
    #[arg(long, value_name = "FILE")]
    pub(super) publisher_public_key: Option<PathBuf>,
    /// PEM file of public keys, whose private keys sign session tokens
    #[arg(long, value_name = "FILE", help_heading = "Sessions")]
    pub(super) session_public_key: Option<PathBuf>,
}

/// Parses the difference of two clocks. With more than a few minutes a token's times would mean nothing.
fn leeway(text: &str) -> Result<Duration, String> {
    match time(text)? {
        leeway if leeway <= Duration::from_secs(600) => Ok(leeway),
        _ => Err("too long; write at most 10m".to_owned()),
    }
}

/// Reads a secret. The refusal never shows the text.
fn secret(text: &str) -> Result<Secret, &'static str> {
    Secret::new(text).ok_or("empty; write a secret, or leave it out to have none")
}
