//! The web origins that may read the answers (the Fetch standard, section 3.3).

use std::net::Ipv6Addr;

/// The allowed origins, each with its header lines made once; the connections' service owns it.
#[derive(Clone, Debug)]
pub(crate) enum Cors {
    /// `*`: any origin, without credentials.
    Any,
    /// These by name, with credentials. They are few, so a list is searched faster than a table.
    Listed(Vec<Origin>),
}

/// The origin that a request comes from; by default none of those that are allowed. A number for one that is allowed by
/// its name, because a request that kept its `Origin` would keep the whole buffer that its head came in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Asking {
    Listed(Option<usize>),
    /// Header lines for one that is allowed by the domain it is below.
    Below(Box<[u8]>),
}

impl Default for Asking {
    fn default() -> Self {
        Asking::Listed(None)
    }
}

/// An allowed origin, or all below one domain.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Named {
        name: Box<[u8]>,
        lines: Box<[u8]>,
    },
    /// `https://*.example.org:8443`: what stands before the `*` and behind it.
    Below {
        scheme: Box<str>,
        rest: Box<str>,
    },
}

/// An origin without an address: pages from files and of sandboxed frames send it.
const NULL: &str = "null";

impl Cors {
    /// Checks a list of origins: `*` alone, or names such as `https://example.org`, all below a domain as
    /// `https://*.example.org`, and `null`. The error says what to write.
    pub(crate) fn parse(origins: &[String]) -> Result<Self, String> {
        if origins.iter().any(|origin| origin == "*") {
            if origins.iter().all(|origin| origin == "*") {
                return Ok(Self::Any);
            }
            return Err("'*' allows every origin: give it alone, or give names alone".to_owned());
        }
        origins.iter().map(|origin| Origin::parse(origin)).collect::<Result<_, _>>().map(Self::Listed)
    }

    /// Returns which of the allowed origins this `Origin` is.
    pub(crate) fn find(&self, origin: Option<&[u8]>) -> Asking {
        let (Self::Listed(origins), Some(origin)) = (self, origin) else { return Asking::default() };
        let is_named = |listed: &Origin| matches!(listed, Origin::Named { name, .. } if **name == *origin);
        if let Some(index) = origins.iter().position(is_named) {
            return Asking::Listed(Some(index));
        }
        match str::from_utf8(origin) {
            Ok(origin) if origins.iter().any(|listed| listed.is_above(origin)) => {
                Asking::Below(lines_with_credentials(origin))
            }
            _ => Asking::default(),
        }
    }

    /// Returns the header lines, each ended by CRLF, for an answer to a request from this origin.
    pub(crate) fn lines<'a>(&'a self, asking: &'a Asking) -> &'a [u8] {
        match (self, asking) {
            (Self::Any, _) => b"Access-Control-Allow-Origin: *\r\n",
            (Self::Listed(_), Asking::Below(lines)) => lines,
            (Self::Listed(origins), Asking::Listed(index)) => {
                match index.and_then(|index| origins.get(index)) {
                    Some(Origin::Named { lines, .. }) => lines,
                    _ => b"Vary: Origin\r\n",
                }
            }
        }
    }
}

fn lines_with_credentials(origin: &str) -> Box<[u8]> {
    let lines = format!(
        "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n"
    );
    lines.into_bytes().into()
}

impl Origin {
    /// Returns whether it allows this origin for the domain that it is below: by one label or more, which are a host's.
    fn is_above(&self, origin: &str) -> bool {
        let Self::Below { scheme, rest } = self else { return false };
        let labels = origin.strip_prefix(&**scheme).and_then(|host| host.strip_suffix(&**rest));
        labels.is_some_and(|labels| labels.split('.').all(is_label))
    }

    fn parse(text: &str) -> Result<Self, String> {
        // Shown to a terminal, which would obey control characters.
        let refuse = |why: &str| Err(format!("'{}' {why}", text.escape_debug()));
        if text.eq_ignore_ascii_case(NULL) {
            // Without credentials: any page can be in a sandboxed frame, and so could use its visitors' cookies.
            let lines = format!("Access-Control-Allow-Origin: {NULL}\r\nVary: Origin\r\n");
            return Ok(Self::Named { name: NULL.as_bytes().into(), lines: lines.into_bytes().into() });
        }
        // Browsers send an origin in lower case (the URL standard's host and scheme parsers).
        let name = text.to_ascii_lowercase();
        let Some((scheme, authority)) = name.split_once("://") else {
            return refuse("has no scheme: write it like https://example.org, or '*' for every origin");
        };
        if !is_scheme(scheme) {
            return refuse("has a malformed scheme: write it like https://example.org");
        }
        if let Some(at) = authority.find(['/', '?', '#']) {
            let (bare, _) = text.split_at(scheme.len() + "://".len() + at);
            return refuse(&format!(
                "has a path: an origin ends after its host and port, write '{}'",
                bare.escape_debug()
            ));
        }
        let (host, port) = split_port(authority);
        let domain = host.strip_prefix("*.");
        if domain.unwrap_or(host).contains('*') {
            return refuse(
                "has a * elsewhere than for all labels before a domain: write one like https://*.example.org, or '*' for \
                 every origin",
            );
        }
        if !is_host(domain.unwrap_or(host)) {
            return refuse(
                "has a malformed host: write one like https://example.org (beyond ASCII: its xn-- form)",
            );
        }
        if domain.is_some_and(|domain| !is_domain(domain)) {
            return refuse("has a * before what is no domain: write one like https://*.example.org");
        }
        match port {
            Some(port) if port.parse::<u16>().is_err() || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
                refuse("has a malformed port: write it like https://example.org:8443")
            }
            // Browsers leave out a scheme's own port, so this entry would never match.
            Some(port) if matches!((scheme, port), ("http", "80") | ("https", "443")) => {
                refuse(&format!("names its scheme's own port: write '{scheme}://{host}'"))
            }
            _ => Ok(match name.split_once('*') {
                Some((scheme, rest)) => Self::Below { scheme: scheme.into(), rest: rest.into() },
                None => Self::Named { lines: lines_with_credentials(&name), name: name.into_bytes().into() },
            }),
        }
    }
}

/// Returns whether it is a domain's name, and neither an address nor a part of one: that ends with a number (the URL
/// standard's host parser).
fn is_domain(host: &str) -> bool {
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    !host.starts_with('[') && host.split('.').all(is_label) && !host.rsplit('.').next().is_none_or(is_number)
}

fn is_label(label: &str) -> bool {
    let is_of_labels = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    !label.is_empty() && label.bytes().all(is_of_labels)
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // A colon before the bracket belongs to the address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(origins: &[&str]) -> Result<Cors, String> {
        Cors::parse(&origins.iter().map(|origin| (*origin).to_owned()).collect::<Vec<_>>())
    }

    fn lines(cors: &Cors, origin: Option<&str>) -> String {
        String::from_utf8(cors.lines(&cors.find(origin.map(str::as_bytes))).to_vec()).unwrap()
    }

    #[test]
    fn a_star_allows_everyone_without_credentials() {
        let cors = parse(&["*"]).unwrap();
        for origin in [None, Some("https://a.example"), Some("null")] {
            assert_eq!(lines(&cors, origin), "Access-Control-Allow-Origin: *\r\n");
        }
    }

    #[test]
    fn a_listed_origin_is_named_with_credentials_and_others_are_not() {
        let cors =
            parse(&["https://A.example", "http://b.example:8080", "http://[::1]:3000", "http://[::1]"])
                .unwrap();
        for origin in ["https://a.example", "http://b.example:8080", "http://[::1]:3000", "http://[::1]"] {
            assert_eq!(
                lines(&cors, Some(origin)),
                format!(
                    "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n\
                     Vary: Origin\r\n"
                )
            );
        }
        let near = ["http://a.example", "https://a.example.evil", "https://a.exampl", "null", ""];
        for origin in near.into_iter().map(Some).chain([None]) {
            assert_eq!(lines(&cors, origin), "Vary: Origin\r\n");
        }
    }

    #[test]
    fn a_pattern_allows_what_is_below_its_domain_and_nothing_else() {
        let cors = parse(&[
            "https://*.Example.org",
            "http://*.dev.example:8080",
            "https://example.net",
            "https://*.example.net",
        ])
        .unwrap();
        for origin in [
            "https://a.example.org",
            "https://a.b.example.org",
            "https://xn--4ca.x_y.0.example.org",
            "http://a.dev.example:8080",
            "https://example.net",
            "https://www.example.net",
        ] {
            assert_eq!(lines(&cors, Some(origin)).into_bytes(), *lines_with_credentials(origin), "{origin}");
        }
        for origin in [
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "https://a.example.org.",
            "https://a.example.org:8443",
            "https://a.example.org:443",
            "http://a.example.org",
            "https://aexample.org",
            "https://a-example.org",
            "https://a.example.org.evil.example",
            "https://evil.example/.example.org",
            "https://evil.example#.example.org",
            "https://evil.example?.example.org",
            "https://evil.example\\.example.org",
            "https://evil.example:1.example.org",
            "https://user@a.example.org",
            "https://*.example.org",
            "https://A.example.org",
            "https://\u{e4}.example.org",
            "https://a b.example.org",
            "https://a\r\nx.example.org",
            "http://a.dev.example",
            "http://a.dev.example:80801",
            "null",
            "",
        ]
        .into_iter()
        .map(Some)
        .chain([None])
        {
            assert_eq!(lines(&cors, origin), "Vary: Origin\r\n", "{origin:?}");
        }
        assert_eq!(cors.find(Some(b"https://\xff.example.org")), Asking::default());
    }

    #[test]
    fn null_is_allowed_without_credentials_and_only_when_it_is_given() {
        let cors = parse(&["null", "https://*.example.org"]).unwrap();
        assert_eq!(lines(&cors, Some("null")), "Access-Control-Allow-Origin: null\r\nVary: Origin\r\n");
        assert!(lines(&cors, Some("https://a.example.org")).contains("Credentials"));
        for origin in [None, Some(""), Some("NULL"), Some("https://null"), Some("null.example.org")] {
            assert_eq!(lines(&cors, origin), "Vary: Origin\r\n", "{origin:?}");
        }
    }

    #[test]
    fn an_entry_which_no_browser_would_ever_send_is_refused_with_what_is_right() {
        for (entries, expected) in [
            (
                &["https://a.example/"][..],
                "has a path: an origin ends after its host and port, write 'https://a.example'",
            ),
            (&["https://a.example:1/x"], "write 'https://a.example:1'"),
            (&["https://a.example?x"], "write 'https://a.example'"),
            (&["a.example"], "has no scheme"),
            (&[""], "has no scheme"),
            (&["1http://a.example"], "malformed scheme"),
            (&["://a.example"], "malformed scheme"),
            (&["https://"], "malformed host"),
            (&["https://*"], "write one like https://*.example.org, or '*' for every origin"),
            (&["https://*."], "malformed host"),
            (&["https://*:8443"], "write one like https://*.example.org"),
            (&["https://a.*.example"], "write one like https://*.example.org"),
            (&["https://*.*.example"], "write one like https://*.example.org"),
            (&["https://*a.example"], "write one like https://*.example.org"),
            (&["https://a*.example"], "write one like https://*.example.org"),
            (&["https://a.example:*"], "malformed port"),
            (&["*://a.example"], "malformed scheme"),
            (&["https://*.example/"], "write 'https://*.example'"),
            (&["https://*.example:443"], "write 'https://*.example'"),
            (&["https://*..example"], "no domain"),
            (&["https://*.0.0.1"], "no domain"),
            (&["https://*.[::1]"], "no domain"),
            (&["nulls"], "has no scheme"),
            (&["https://user@a.example"], "malformed host"),
            (&["https://a.example,https:"], "malformed host"),
            (&["https://é.example"], "malformed host"),
            (&["https://[::g]"], "malformed host"),
            (&["https://a.example\r\nX: y"], "'https://a.example\\r\\nX: y' has a malformed host"),
            (&["https://\u{9b}/"], "write 'https://\\u{9b}'"),
            (&["https://a.example:"], "malformed port"),
            (&["https://a.example:+1"], "malformed port"),
            (&["https://a.example:65536"], "malformed port"),
            (&["https://a.example:443"], "write 'https://a.example'"),
            (&["http://a.example:80"], "write 'http://a.example'"),
            (&["*", "https://a.example"], "give it alone"),
        ] {
            let error = parse(entries).unwrap_err();
            assert!(error.contains(expected), "{entries:?}: {error}");
        }
    }
}
