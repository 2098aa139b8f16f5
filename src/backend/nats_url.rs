//! URLs of NATS servers.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// The URL of a NATS server, `nats://user:password@host:port`, `nats://token@host:port` or `tls://...`. Printing one, by
/// `{}` or `{:?}`, shows `***` for the credentials.
#[derive(Clone, Eq, PartialEq)]
pub struct NatsUrl {
    /// Without credentials.
    address: String,
    is_tls: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

impl NatsUrl {
    /// Returns `scheme://host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns whether it has a user or a token.
    pub(crate) fn has_credentials(&self) -> bool {
        self.user.is_some()
    }

    /// Returns whether both log in as the same.
    pub(crate) fn logs_in_as(&self, other: &NatsUrl) -> bool {
        (&self.user, &self.password) == (&other.user, &other.password)
    }

    /// Returns whether the connection must be TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }
}

impl FromStr for NatsUrl {
    type Err = &'static str;

    /// Parses a URL, without the white space around it.
    ///
    /// # Errors
    /// The reason and the remedy, without any part of the text, which may be the password.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(WRONG)?;
        let is_tls = scheme == "tls";
        if !is_tls && scheme != "nats" {
            return Err(WRONG);
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (login, server) = match authority.rsplit_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, authority),
        };
        let address = format!("{scheme}://{}", checked_server(server).ok_or(WRONG)?);
        if !matches!(tail, "" | "/") {
            return Err(
                "a NATS server's URL with a path; write %2F, %3F or %23 for a /, ? or # in the password, and nothing \
                 behind the port",
            );
        }
        let decoded =
            |part: &str| percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| WRONG);
        let (user, password) = match login.and_then(|login| login.split_once(':')) {
            Some((user, password)) => (Some(user), Some(password)),
            None => (login, None),
        };
        let user = user.filter(|user| !user.is_empty()).map(decoded).transpose()?;
        let password = password.map(decoded).transpose()?;
        Ok(NatsUrl { address, is_tls, user, password })
    }
}

const WRONG: &str = "not a NATS server's URL; write nats://host:4222 or tls://host:4222, and what is not a letter or digit \
                     of a user, password or token as %XX";

/// Returns `host:port` of a name, an address, or an IPv6 address in brackets, with its port if it has one; `None` for
/// anything else.
fn checked_server(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (address, port) = text.split_once(']')?;
            (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            (!host.is_empty() && host.bytes().all(in_names)).then(|| (host.to_owned(), port))?
        }
    };
    let digits = match port {
        "" => "4222",
        port => port.strip_prefix(':')?,
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = digits.parse().ok().filter(|_| is_number)?;
    Some(format!("{host}:{port}"))
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.user.is_some(), self.address.split_once("://")) {
            (true, Some((scheme, host))) => write!(f, "{scheme}://***@{host}"),
            _ => f.write_str(&self.address),
        }
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_never_shows_its_credentials() {
        for (text, address, user, password, shown) in [
            ("nats://h", "nats://h:4222", None, None, "nats://h:4222"),
            ("tls://h:1/", "tls://h:1", None, None, "tls://h:1"),
            ("nats://a%40b:p%2F@h", "nats://h:4222", Some("a@b"), Some("p/"), "nats://***@h:4222"),
            (" nats://hunter2@[::1]:5 ", "nats://[::1]:5", Some("hunter2"), None, "nats://***@[::1]:5"),
        ] {
            let url: NatsUrl = text.parse().unwrap();
            assert_eq!(
                (url.address(), url.user.as_deref(), url.password.as_deref()),
                (address, user, password)
            );
            assert_eq!((url.to_string().as_str(), format!("{url:?}").as_str()), (shown, shown));
        }
        for text in [
            "",
            "h:4222",
            "http://h",
            "nats://",
            "nats://a:hunter2/x@h",
            "nats://h/x",
            "nats://h?hunter2",
            "ws://h",
            "nats://h:hunter2",
            "nats://h:70000",
            "nats://h:+1",
            "nats://h:",
            "nats://[::x]",
            "nats://[::1]x",
            "nats://::1",
            "nats://a b",
            "nats://%ff:hunter2@h",
        ] {
            let reason = text.parse::<NatsUrl>().unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }
}
