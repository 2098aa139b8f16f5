//! Settings of authentication, and the flags that name secrets and keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::layer::Layer;
use super::values::{cookie_name, size, time, token_time};
use super::{JwksUrl, KIB, Secret, Signers};
use crate::auth::TOKEN_BYTES_MOST;

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
    /// Bytes of a token; more than 12KiB take a larger --head-max, too.
    ///
    /// 1 to 32 KiB.
    #[arg(id = "token-max", long, value_name = "SIZE", value_parser = token_size)]
    #[arg(default_value = "8KiB")]
    pub token_bytes_max: usize,
    /// How long a session token made by /token/ may be good for, at most.
    ///
    /// 1 s to 365 days.
    #[arg(long, value_name = "TIME", value_parser = token_time, default_value = "30d", help_heading = "Sessions")]
    pub session_time_max: Duration,
}

impl Auth {
    /// Returns the signers of each side, with the prefix of its flags.
    fn sides(&self) -> [(&'static str, &Signers); 3] {
        [("subscriber", &self.subscriber), ("publisher", &self.publisher), ("session", &self.session)]
    }

    /// Checks that what tokens must say is asked of somebody: without a key nobody needs a token.
    pub(super) fn check(&self, names: &Layer) -> Result<(), String> {
        for (side, signers) in self.sides().into_iter().filter(|(_, signers)| signers.is_empty()) {
            let asked = [("audience", &signers.audiences), ("issuer", &signers.issuers)];
            if let Some((claim, _)) = asked.iter().find(|(_, values)| !values.is_empty()) {
                return Err(format!(
                    "{}: no key verifies {side} tokens, so none would be asked for; give --{side}-jwks, \
                     --{side}-public-key or a secret, or leave this out",
                    names.of(&format!("{side}-{claim}"))
                ));
            }
        }
        Ok(())
    }

    /// Returns a warning for each side that takes the keys of a provider by URL, and does not ask which application a token
    /// is for.
    pub(super) fn warnings(&self, names: &Layer) -> Vec<String> {
        self.sides()
            .into_iter()
            .filter(|(_, signers)| signers.jwks_url.is_some() && signers.audiences.is_empty())
            .map(|(side, _)| {
                format!(
                    "{}: tokens that this provider signs for its other applications are accepted, too; name the audience \
                     of this server's tokens with --{side}-audience",
                    names.of(&format!("{side}-jwks"))
                )
            })
            .collect()
    }
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
    /// PEM file of public keys, whose private keys sign subscribers' tokens; a key's type says by which algorithms
    #[arg(long, value_name = "FILE")]
    pub(super) subscriber_public_key: Option<PathBuf>,
    /// PEM file of public keys, whose private keys sign publishers' tokens
    #[arg(long, value_name = "FILE")]
    pub(super) publisher_public_key: Option<PathBuf>,
    /// PEM file of public keys, whose private keys sign session tokens
    #[arg(long, value_name = "FILE", help_heading = "Sessions")]
    pub(super) session_public_key: Option<PathBuf>,
    /// JWK Set with the keys of an identity provider that signs subscribers' tokens: a file, or the https:// URL at
    /// which it publishes them, to be fetched again every quarter of an hour or as it says
    #[arg(long, value_name = "FILE|URL", value_parser = jwks)]
    pub(super) subscriber_jwks: Option<JwksSource>,
    /// JWK Set with the keys of an identity provider that signs publishers' tokens
    #[arg(long, value_name = "FILE|URL", value_parser = jwks)]
    pub(super) publisher_jwks: Option<JwksSource>,
    /// JWK Set with the keys of an identity provider that signs session tokens
    #[arg(long, value_name = "FILE|URL", value_parser = jwks, help_heading = "Sessions")]
    pub(super) session_jwks: Option<JwksSource>,
}

/// The parties that tokens must be from and for.
#[derive(Args, Debug)]
#[command(next_help_heading = "Authentication")]
pub(super) struct PartyFlags {
    /// Audience that a subscriber's token must be for, its claim aud; repeat it, or separate by commas: any of them
    #[arg(long, value_name = "TEXT", value_delimiter = ',', value_parser = claim)]
    pub(super) subscriber_audience: Vec<String>,
    /// Audience that a publisher's token must be for
    #[arg(long, value_name = "TEXT", value_delimiter = ',', value_parser = claim)]
    pub(super) publisher_audience: Vec<String>,
    /// Audience that a session token must be for
    #[arg(long, value_name = "TEXT", value_delimiter = ',', value_parser = claim, help_heading = "Sessions")]
    pub(super) session_audience: Vec<String>,
    /// Issuer that a subscriber's token must be from, its claim iss, in every letter; repeat it, or separate by commas
    #[arg(long, value_name = "TEXT", value_delimiter = ',', value_parser = claim)]
    pub(super) subscriber_issuer: Vec<String>,
    /// Issuer that a publisher's token must be from
    #[arg(long, value_name = "TEXT", value_delimiter = ',', value_parser = claim)]
    pub(super) publisher_issuer: Vec<String>,
    /// Issuer that a session token must be from
    #[arg(long, value_name = "TEXT", value_delimiter = ',', value_parser = claim, help_heading = "Sessions")]
    pub(super) session_issuer: Vec<String>,
}

/// The place of a JWK Set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum JwksSource {
    File(PathBuf),
    Url(JwksUrl),
}

/// Parses the place of a JWK Set.
fn jwks(text: &str) -> Result<JwksSource, String> {
    match text.contains("://") {
        true => text.parse().map(JwksSource::Url),
        false if text.is_empty() => Err("empty; write a FILE or an https:// URL".to_owned()),
        false => Ok(JwksSource::File(text.into())),
    }
}

/// Parses a value of a token's claim. An empty one is in tokens that say nothing.
fn claim(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("empty; write what tokens have there, or leave it out"),
        text => Ok(text.to_owned()),
    }
}

/// Parses the most bytes of a token.
pub(crate) fn token_size(text: &str) -> Result<usize, String> {
    size(KIB..=TOKEN_BYTES_MOST)(text)
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
