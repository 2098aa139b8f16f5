//! URLs of message brokers, and the rules by which messages of their exchanges are published to topics.

use std::fmt;
#[cfg(feature = "amqp")]
use std::net::Ipv6Addr;
use std::str::FromStr;

#[cfg(feature = "amqp")]
use amq_protocol_uri::AMQPUri;

/// A broker node's URL, `amqp://user:password@host:port/vhost` or `amqps://...`. Printing one, by `{}` or
/// `{:?}`, shows `***` for the credentials.
///
/// As in RabbitMQ's URI specification, with one difference: a path of `/` alone is the virtual host `/`, as is no path,
/// because people write it so.
#[derive(Clone, Eq, PartialEq)]
pub struct BrokerUrl {
    text: String,
    shown: String,
    /// Its `Debug` shows the password.
    #[cfg(feature = "amqp")]
    uri: AMQPUri,
}

impl BrokerUrl {
    /// Returns the URL as it was written, with its credentials, to connect with. Nothing else needs it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Returns whether it has a user or a password, so that showing it masks something.
    pub fn has_credentials(&self) -> bool {
        self.shown != self.text
    }

    /// Returns its parts, decoded, with the credentials.
    #[cfg(feature = "amqp")]
    pub(crate) fn uri(&self) -> &AMQPUri {
        &self.uri
    }
}

impl FromStr for BrokerUrl {
    type Err = &'static str;

    /// Parses a URL, without the white space around it.
    ///
    /// # Errors
    /// The reason and the remedy, without any part of the text, which may be the password.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        checked_host(text)?;
        Ok(Self {
            text: text.to_owned(),
            shown: masked(text),
            #[cfg(feature = "amqp")]
            uri: uri(text)?,
        })
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A rule that publishes messages of an exchange to topics, on every node alike.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SubscribeRule {
    /// The exchange's name; never empty. It is not declared here, because somebody else owns it.
    pub exchange: String,
    /// The binding pattern; for a topic exchange `*` is one word and `#` any number of them.
    pub routing_key: String,
    /// The topic, in which `${routing_key}` stands for the message's routing key.
    pub topic: String,
}

const SCHEME: &str = "not a broker's URL; write amqp://user:password@host:5672/ or amqps://...";
const PARAMETERS: [&str; 5] =
    ["heartbeat", "channel_max", "frame_max", "connection_timeout", "auth_mechanism"];

/// Checks that a URL has the parts a broker's needs and none that would be read as something else. Returns its host, with
/// the port if it has one.
fn checked_host(text: &str) -> Result<&str, &'static str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Err(SCHEME) };
    if !matches!(scheme, "amqp" | "amqps") || text.contains(|c: char| c.is_control() || c == ' ') {
        return Err(SCHEME);
    }
    let (authority, tail) = parts(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || host.starts_with(':') {
        return Err("a broker's URL without a host; write amqp://user:password@host:5672/");
    }
    if tail.contains('#') {
        return Err("a broker's URL with a #; write %23 if it is part of the password or the virtual host");
    }
    // Otherwise text after a / in a password would be read as the virtual host, and shown.
    if tail.contains('@') {
        return Err(
            "a broker's URL with an @ after its path began; write %2F, %3F or %40 for a /, ? or @ in the \
                    password",
        );
    }
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    let known = |pair: &str| PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
    if !query.split('&').all(|pair| pair.is_empty() || known(pair)) {
        return Err(
            "a broker's URL with an unknown parameter; there are heartbeat, channel_max, frame_max, \
                    connection_timeout and auth_mechanism",
        );
    }
    Ok(host)
}

/// Parses a URL.
#[cfg(feature = "amqp")]
fn uri(text: &str) -> Result<AMQPUri, &'static str> {
    let host = checked_host(text)?;
    // The parser's reason may quote the password.
    let mut uri: AMQPUri = text.parse().map_err(|_| {
        "not a broker's URL; write amqp://user:password@host:5672/, and what is not a letter or digit of \
             the password as %XX"
    })?;
    // The parser reads the default host for one in brackets.
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        let address: Ipv6Addr = address.0.parse().map_err(|_| SCHEME)?;
        uri.authority.host = address.to_string();
    }
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    Ok(uri)
}

/// Splits the rest of a URL behind `//` into the authority and what follows it.
fn parts(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return "***".to_owned() };
    let (authority, tail) = parts(rest);
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => authority.to_owned(),
    };
    format!("{scheme}://{host}{tail}")
}

#[cfg(test)]
#[cfg(feature = "amqp")]
mod tests {
    use amq_protocol_uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUserInfo, SASLMechanism};

    use super::*;

    #[test]
    fn credentials_are_never_printed() {
        for (text, shown) in [
            ("amqp://guest:hunter2@10.0.0.11:5672/", "amqp://***@10.0.0.11:5672/"),
            ("amqps://guest:hunter2@[::1]:5671/v?heartbeat=5", "amqps://***@[::1]:5671/v?heartbeat=5"),
            ("amqp://hunter2@localhost", "amqp://***@localhost"),
            ("amqp://a:hunter2%40@localhost/v%2fw", "amqp://***@localhost/v%2fw"),
            ("amqp://a:b@hunter2@localhost/", "amqp://***@localhost/"),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(format!("{url}"), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.expose(), text);
            assert!(url.has_credentials());
        }
        assert!(!"amqp://localhost/".parse::<BrokerUrl>().unwrap().has_credentials());
    }

    #[test]
    fn an_address_means_what_it_says() {
        for (text, host, port, vhost) in [
            ("amqp://guest:guest@10.0.0.11:5672/", "10.0.0.11", 5672, "/"),
            ("amqp://localhost", "localhost", 5672, "/"),
            ("amqp://localhost/%2f", "localhost", 5672, "/"),
            ("amqps://rabbit.example.org/shop", "rabbit.example.org", 5671, "shop"),
            ("amqp://[::1]:5673/", "::1", 5673, "/"),
        ] {
            let url = text.parse::<BrokerUrl>().unwrap();
            let AMQPUri { authority, vhost: found_vhost, .. } = url.uri();
            assert_eq!((&*authority.host, authority.port, &**found_vhost), (host, port, vhost), "{text}");
        }
    }

    #[test]
    fn credentials_and_parameters_are_read_and_the_silent_ones_are_the_guests() {
        let url: BrokerUrl = "amqps://a%40b:p%2F%3F@h/?heartbeat=5&channel_max=7&frame_max=131072\
             &connection_timeout=9&auth_mechanism=External&heartbeat=6"
            .parse()
            .unwrap();
        let AMQPUri { scheme, authority: AMQPAuthority { userinfo, .. }, query, .. } = url.uri();
        let AMQPUserInfo { username, password } = userinfo;
        assert_eq!((scheme, &**username, &**password), (&AMQPScheme::AMQPS, "a@b", "p/?"));
        let read = AMQPQueryString {
            heartbeat: Some(5),
            channel_max: Some(7),
            frame_max: Some(131_072),
            connection_timeout: Some(9),
            auth_mechanism: Some(SASLMechanism::External),
        };
        assert_eq!(*query, read);
        let url: BrokerUrl = "amqp://h".parse().unwrap();
        let AMQPUri { scheme, authority: AMQPAuthority { userinfo, .. }, query, .. } = url.uri();
        let AMQPUserInfo { username, password } = userinfo;
        assert_eq!((scheme, &**username, &**password), (&AMQPScheme::AMQP, "guest", "guest"));
        assert_eq!(*query, AMQPQueryString::default());
        for text in ["?heartbeat=65536", "?channel_max=-1", "?heartbeat=", "?auth_mechanism=none"] {
            assert!(format!("amqp://h/{text}").parse::<BrokerUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_broker_url_is_refused_without_being_quoted() {
        for text in [
            "",
            "hunter2",
            "http://guest:hunter2@localhost/",
            "amqp:hunter2",
            "amqp://",
            "amqp://guest:hunter2@/",
            "amqp://guest:hunter2@:5672/",
            "amqp://guest:hunter2@localhost:port/",
            "amqp://guest:hunter2@localhost:99999/",
            "amqp://guest:hunter2@[::x]/",
            "amqp://guest:1/hunter2@localhost/",
            "amqp://guest:1?hunter2@localhost/",
            "amqp://guest:hun#ter2@localhost/",
            "amqp://guest:hunter2@localhost/?cacertfile=hunter2",
            "amqp://guest:hunter2@localhost/?heartbeat=hunter2",
            "amqp://guest:hunter2@local host/",
        ] {
            let reason = text.parse::<BrokerUrl>().unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }
}
