//! In place of the URL of an identity provider's keys in builds without the client that fetches them.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// The URL of a JWK Set: there is none without the feature `jwks-url`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwksUrl(Infallible);

impl FromStr for JwksUrl {
    /// The remedy, in one line.
    type Err = String;

    fn from_str(_: &str) -> Result<Self, String> {
        Err("this esper was built without the feature jwks-url, which fetches keys; give a FILE with the JWK Set"
            .to_owned())
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}
