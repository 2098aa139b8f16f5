//! `esper token`: makes a token to try authentication with, without another tool.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::auth::TOKEN_BYTES_MOST;
use crate::auth::mint::{self, Parties};
use crate::config::{self, ConfigError, SecretFlags, SigningCommand, token_size, token_time};
use crate::core::session::{NAME_BYTES_MAX, NameError, Session};
use crate::core::topic::TOPICS_PER_STREAM_MAX;

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

/// Prints the token that the arguments ask for, or what is wrong with them.
pub(super) fn run(args: Vec<OsString>) -> ExitCode {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token = token(args, &|name| std::env::var_os(name), now_s);
    super::print("the token", token.map(|token| token + "\n"))
}

fn token(
    args: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    now_s: u64,
) -> Result<String, ConfigError> {
    let command = SigningCommand::<TokenFlags>::parse(args, env)?;
    let flags = &command.flags;
    let claims = flags.claims().map_err(ConfigError::Usage)?;
    let side = match claims {
        TokenClaims::Session(_) => "session",
        TokenClaims::Topics(_) if flags.publish => "publisher",
        TokenClaims::Topics(_) => "subscriber",
    };
    let secret = command.secret(side, &flags.secrets, env)?;
    let expires_s = now_s.saturating_add(flags.exp.as_secs());
    let parties = Parties { issuer: flags.issuer.clone(), audience: flags.audience.clone() };
    let token = match claims {
        TokenClaims::Topics(topics) => mint::topics_token(&secret, topics, expires_s, &parties),
        TokenClaims::Session(session) => mint::session_token(&secret, &session, expires_s, &parties),
    };
    let token = token.map_err(|error| ConfigError::Host(format!("cannot sign: {error}")))?;
    check_length(token.len(), flags.token_bytes_max).map_err(ConfigError::Usage)?;
    Ok(token)
}

/// Checks that the server reads a token of so many bytes.
fn check_length(bytes: usize, bytes_max: usize) -> Result<(), String> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(match bytes <= TOKEN_BYTES_MOST {
        true => format!(
            "a token of {bytes} bytes: the server reads at most {bytes_max}; write fewer or shorter topics, or \
             --token-max 32KiB if the server has that"
        ),
        false => format!(
            "a token of {bytes} bytes: no server reads more than {TOKEN_BYTES_MOST}; write fewer or shorter topics"
        ),
    })
}

// A doc comment here is the flag's help.
/// The flags of `esper token`.
#[derive(Debug, Parser)]
#[command(name = "esper token", bin_name = "esper token", about = config::about("token"), after_help = AFTER_HELP, max_term_width = 120)]
pub(super) struct TokenFlags {
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

    /// Issuer that it is from, its claim iss, for a server with --subscriber-issuer or another side's
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,

    /// Audience that it is for, its claim aud, for a server with --subscriber-audience or another side's
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,

    /// Bytes that the server takes, if its --token-max is another
    #[arg(id = "token-max", long, value_name = "SIZE", value_parser = token_size, default_value = "8KiB")]
    token_bytes_max: usize,

    #[command(flatten, next_help_heading = "Secrets")]
    secrets: SecretFlags,
}

/// Whom a token is for.
enum TokenClaims<'a> {
    /// A subscriber or publisher of these topics: 1 to 64, none of them empty.
    Topics(&'a [String]),
    /// A user on a channel.
    Session(Session),
}

impl TokenFlags {
    fn claims(&self) -> Result<TokenClaims<'_>, String> {
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

    fn topics(&self) -> Result<TokenClaims<'_>, String> {
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
        Ok(TokenClaims::Topics(topics))
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

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use serde_json::{Value, json};

    use super::*;

    const SECRETS: &[(&str, &str)] = &[
        ("ESPER_SUBSCRIBER_SECRET", "subscribers"),
        ("ESPER_PUBLISHER_SECRET", "publishers"),
        ("ESPER_SESSION_SECRET", "sessions"),
    ];

    fn made(args: &[&str], variables: &[(&str, &str)], now_s: u64) -> Result<String, ConfigError> {
        let args = ["token"].iter().chain(args).map(OsString::from).collect();
        let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
        token(args, &env, now_s)
    }

    /// Returns the claims of a token that is signed by HS256 with this secret.
    fn claims(token: &str, secret: &str) -> Value {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        decode::<Value>(token, &DecodingKey::from_secret(secret.as_bytes()), &validation).unwrap().claims
    }

    #[test]
    fn a_token_is_signed_by_the_side_it_is_for_and_holds_what_was_asked() {
        let many: Vec<&str> = ["--sub", "t"].into_iter().cycle().take(128).collect();
        let emoji = "🐕".repeat(32);
        for (args, secret, expected) in [
            (&["--sub", "pets"][..], "subscribers", json!({ "sub": "pets", "exp": 1000 + 86_400 })),
            (&["--sub=*", "--exp", "1h"], "subscribers", json!({ "sub": "*", "exp": 4600 })),
            (
                &["--publish", "--sub", "a", "--sub", "b/c"],
                "publishers",
                json!({ "topics": ["a", "b/c"], "exp": 87_400 }),
            ),
            (&many, "subscribers", json!({ "topics": vec!["t"; 64], "exp": 87_400 })),
            (
                &["--user", "alex", "--channel", "chat", "--exp", "365d"],
                "sessions",
                json!({ "userId": "alex", "channel": "chat", "exp": 1000 + 365 * 86_400 }),
            ),
            (
                &["--user=*", "--channel", &emoji, "--exp", "1999ms"],
                "sessions",
                json!({ "userId": "*", "channel": emoji, "exp": 1001 }),
            ),
            (
                &["--sub", "t", "--audience", "esper", "--issuer", "me", "--token-max", "9KiB"],
                "subscribers",
                json!({ "sub": "t", "exp": 87_400, "aud": "esper", "iss": "me" }),
            ),
            (
                &["-secret", "typed", "--user= a/b ", "--channel=-c"],
                "typed",
                json!({ "userId": " a/b ", "channel": "-c", "exp": 87_400 }),
            ),
        ] {
            let token = made(args, SECRETS, 1000).unwrap();
            assert_eq!(claims(&token, secret), expected, "{args:?}");
        }
    }

    #[test]
    fn what_cannot_be_signed_is_refused_in_one_line_with_the_mend() {
        let many: Vec<&str> = ["--sub", "t"].into_iter().cycle().take(130).collect();
        let (long, longer, longest) = ("x".repeat(129), "x".repeat(7000), "x".repeat(25_000));
        for (args, refused) in [
            (&[][..], "no token is asked for; write --sub TOPIC, or --user NAME and --channel NAME"),
            (&["--publish"], "--publish without --sub; write --sub TOPIC too, or --sub '*' for all"),
            (&["--sub", ""], "--sub '': empty; write a topic, or '*' for all"),
            (&many, "--sub 65 times: too many; write at most 64"),
            (
                &["--sub", &longer],
                "a token of 9444 bytes: the server reads at most 8192; write fewer or shorter topics, or --token-max 32KiB \
                 if the server has that",
            ),
            (
                &["--sub", &longest, "--token-max", "32KiB"],
                "a token of 33444 bytes: no server reads more than 32768; write fewer or shorter topics",
            ),
            (&["--user", "alex"], "--user without --channel; write both"),
            (&["--channel", "chat"], "--channel without --user; write both"),
            (&["--user", "", "--channel", "c"], "--user '': empty; write 1 to 128 bytes"),
            (&["--user", "u", "--channel", &long], "--channel of 129 bytes: too long; write 1 to 128 bytes"),
            (
                &["--user", "u", "--channel", "c", "--sub", "t"],
                "a token is for topics (--sub, --publish) or for a session (--user, --channel); make two for both",
            ),
            (
                &["--channel", "c", "--publish"],
                "a token is for topics (--sub, --publish) or for a session (--user, --channel); make two for both",
            ),
            (&["--sub", "t", "--exp", "15"], "--exp 15: no unit; write 15s or 15ms"),
            (&["--sub", "t", "--exp", "0s"], "--exp 0s: too short; write at least 1s"),
            (&["--sub", "t", "--exp", "999ms"], "--exp 999ms: too short; write at least 1s"),
            (&["--sub", "t", "--exp", "366d"], "--exp 366d: too long; write at most 365d"),
            (&["--port", "1"], "unexpected argument '--port' found; --help says what there is"),
        ] {
            assert_eq!(made(args, SECRETS, 1000), Err(ConfigError::Usage(refused.to_owned())), "{args:?}");
        }
    }

    #[test]
    fn a_missing_secret_is_named_by_its_variable_and_its_file() {
        for (args, side) in [
            (&["--sub", "t"][..], "subscriber"),
            (&["--sub", "t", "--publish"], "publisher"),
            (&["--user", "u", "--channel", "c"], "session"),
        ] {
            let variable = format!("ESPER_{}_SECRET", side.to_uppercase());
            let others: Vec<_> = SECRETS.iter().copied().filter(|(name, _)| *name != variable).collect();
            let refused = format!(
                "no {side} secret to sign with; set {variable}, or name its file with --{side}-secret-file"
            );
            assert_eq!(made(args, &others, 1000), Err(ConfigError::Usage(refused)));
        }
    }

    #[test]
    fn a_secret_of_another_side_that_cannot_be_read_is_no_matter() {
        let variables = [("ESPER_SUBSCRIBER_SECRET", "s"), ("ESPER_PUBLISHER_SECRET_FILE", "/nowhere")];
        assert!(made(&["--sub", "t"], &variables, 1000).is_ok());
        assert!(made(&["--sub", "t", "--publish"], &variables, 1000).is_err());
    }

    #[test]
    fn only_secrets_are_variables() {
        let variables =
            [SECRETS, &[("ESPER_USER", "mallory"), ("ESPER_EXP", "1s"), ("ESPER_SUB", "t")]].concat();
        assert!(made(&["--channel", "c"], &variables, 1000).is_err());
        let token = made(&["--sub", "pets"], &variables, 1000).unwrap();
        assert_eq!(claims(&token, "subscribers"), json!({ "sub": "pets", "exp": 87_400 }));
    }
}
