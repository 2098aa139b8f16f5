//! The URL of an identity provider's keys.

// Without the client that fetches keys no URL can be parsed, so there is none.
#[cfg(not(feature = "jwks-url"))]
use std::convert::Infallible as Url;
use std::fmt;
use std::str::FromStr;

#[cfg(feature = "jwks-url")]
use url::{Host, Url};

/// The URL of a JWK Set: `https`, or `http` to this machine. `Display` leaves out its query, in which a provider may have
/// a secret. There is none without the feature `jwks-url`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwksUrl(Url);

#[cfg(feature = "jwks-url")]
impl JwksUrl {
    /// Returns the URL as it is asked for.
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns whether it is asked for with TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns the URL that a redirect names.
    ///
    /// # Errors
    /// It is not `https`, or no URL.
    pub(crate) fn redirected(&self, location: &str) -> Result<Self, String> {
        let url = self.0.join(location).map_err(|_| "redirected to what is no URL".to_owned())?;
        match url.scheme() == "https" && url.has_host() {
            true => Ok(Self(url)),
            false => {
                Err("redirected to a URL that is not https, which is not followed; give the one it leads to"
                    .to_owned())
            }
        }
    }
}

#[cfg(not(feature = "jwks-url"))]
impl FromStr for JwksUrl {
    /// What to write instead.
    type Err = String;

    fn from_str(_: &str) -> Result<Self, String> {
        Err("this esper was built without the feature jwks-url, which fetches keys; give a FILE with the JWK Set"
            .to_owned())
    }
}

#[cfg(feature = "jwks-url")]
impl FromStr for JwksUrl {
    /// The reason and the remedy, in one line.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url =
            Url::parse(text).map_err(|error| format!("not a URL ({error}); write https://host/path"))?;
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user and password in it, which a JWK Set needs none of; leave them out".to_owned());
        }
        match url.scheme() {
            "https" if url.has_host() => Ok(Self(url)),
            "http" if is_loopback => Ok(Self(url)),
            "http" => {
                Err("http, by which anybody on the way could put in keys of their own; write https://, or \
                           http:// to this machine alone (127.0.0.1, [::1], localhost)"
                    .to_owned())
            }
            _ => Err("not a URL of a web server; write https://host/path".to_owned()),
        }
    }
}

impl fmt::Display for JwksUrl {
    #[cfg(not(feature = "jwks-url"))]
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }

    #[cfg(feature = "jwks-url")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        f.write_str(shown.as_str())
    }
}

#[cfg(test)]
#[cfg(feature = "jwks-url")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        text.parse::<JwksUrl>().map(|url| url.to_string())
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for url in [
            "https://idp.example/realms/a/protocol/openid-connect/certs",
            "http://127.0.0.1:8080/jwks",
            "http://127.9.9.9/jwks",
            "http://[::1]/jwks",
            "http://localhost:1/jwks",
        ] {
            assert_eq!(parse(url), Ok(url.to_owned()));
        }
        assert_eq!(
            parse("https://idp.example/keys?key=hunter2#x"),
            Ok("https://idp.example/keys".to_owned())
        );
        for (url, reason) in [
            ("http://idp.example/jwks", "http:// to this machine alone"),
            ("http://localhost.example/jwks", "http:// to this machine alone"),
            ("http://10.0.0.1/jwks", "http:// to this machine alone"),
            ("ftp://idp.example/jwks", "write https://host/path"),
            ("file:///etc/passwd", "write https://host/path"),
            ("https://", "write https://host/path"),
            ("https://user:hunter2@idp.example/", "leave them out"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn a_redirect_leads_to_https_alone() {
        let url: JwksUrl = "https://idp.example/a/b".parse().unwrap();
        let to = |location| url.redirected(location).map(|url| url.to_string());
        assert_eq!(to("/c"), Ok("https://idp.example/c".to_owned()));
        assert_eq!(to("c"), Ok("https://idp.example/a/c".to_owned()));
        assert_eq!(to("//other.example/c"), Ok("https://other.example/c".to_owned()));
        for location in ["http://idp.example/c", "http://127.0.0.1/c", "file:///etc/passwd", "data:,x"] {
            assert!(to(location).unwrap_err().contains("not https"), "{location}");
        }
        let local: JwksUrl = "http://127.0.0.1/".parse().unwrap();
        assert!(local.redirected("/c").unwrap_err().contains("not https"));
    }
}
