//! PROVISIONAL, only so that this compiles: the bridge's own file takes its place.

use std::fmt;
use std::str::FromStr;

/// A broker's URL. `Display` and `Debug` mask its credentials.
#[derive(Clone, Eq, PartialEq)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// The URL with its credentials, to connect with.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for BrokerUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if !(text.starts_with("amqp://") || text.starts_with("amqps://")) {
            return Err("not a broker's URL; write amqp://user:password@host:5672/vhost".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        match rest.rsplit_once('@') {
            Some((_, host)) => write!(f, "{scheme}://***@{host}"),
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is published to an exchange with a routing key goes to a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SubscribeRule {
    /// The exchange's name.
    pub exchange: String,
    /// The binding's pattern.
    pub routing_key: String,
    /// The topic; `${routing_key}` is replaced.
    pub topic: String,
}
