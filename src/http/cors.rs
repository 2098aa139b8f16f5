//! The web origins that may read the answers (the Fetch standard, section 3.3).

/// The allowed origins, each with its header lines made once; the connections' service owns it.
#[derive(Clone, Debug)]
pub(crate) enum Cors {
    /// `*`: any origin, without credentials.
    Any,
    /// These by name, with credentials. They are few, so a list is searched faster than a table.
    Listed(Vec<Origin>),
}

/// The origin that a request comes from, of those allowed by name; none by default. A number, because a request that
/// kept its `Origin` would keep the whole buffer that its head came in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Asking(Option<usize>);

/// One origin allowed by name.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    name: Box<[u8]>,
    lines: Box<[u8]>,
}

impl Cors {
    /// Checks a list of origins: `*` alone, or names such as `https://example.org`. The error says what to write.
    pub(crate) fn parse(origins: &[String]) -> Result<Self, String> {
        if origins.iter().any(|origin| origin == "*") {
            if origins.iter().all(|origin| origin == "*") {
                return Ok(Self::Any);
            }
            return Err("'*' allows every origin: give it alone, or give names alone".to_owned());
        }
        origins.iter().map(|origin| Origin::parse(origin)).collect::<Result<_, _>>().map(Self::Listed)
    }

    /// Returns which of the origins allowed by name this `Origin` is.
    pub(crate) fn find(&self, origin: Option<&[u8]>) -> Asking {
        match self {
            Self::Any => Asking(None),
            Self::Listed(origins) => Asking(origins.iter().position(|listed| origin == Some(&listed.name))),
        }
    }

    /// Returns the header lines, each ended by CRLF, for an answer to a request from this origin.
    pub(crate) fn lines(&self, asking: Asking) -> &[u8] {
        match self {
            Self::Any => b"Access-Control-Allow-Origin: *\r\n",
            Self::Listed(origins) => {
                let listed = asking.0.and_then(|number| origins.get(number));
                listed.map_or(b"Vary: Origin\r\n", |listed| &listed.lines)
            }
        }
    }
}

impl Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("'{text}' {why}"));
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
            return refuse(&format!("has a path: an origin ends after its host and port, write '{bare}'"));
        }
        let (host, port) = split_port(authority);
        if !is_host(host) {
            return refuse(
                "has a malformed host: write one like https://example.org (beyond ASCII: its xn-- form)",
            );
        }
        match port {
            Some(port) if port.parse::<u16>().is_err() || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
                refuse("has a malformed port: write it like https://example.org:8443")
            }
            // Browsers leave out a scheme's own port, so this entry would never match.
            Some(port) if matches!((scheme, port), ("http", "80") | ("https", "443")) => {
                refuse(&format!("names its scheme's own port: write '{scheme}://{host}'"))
            }
            _ => Ok(Self {
                lines: format!(
                    "Access-Control-Allow-Origin: {name}\r\nAccess-Control-Allow-Credentials: true\r\n\
                     Vary: Origin\r\n"
                )
                .into_bytes()
                .into(),
                name: name.into_bytes().into(),
            }),
        }
    }
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
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
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
        String::from_utf8(cors.lines(cors.find(origin.map(str::as_bytes))).to_vec()).unwrap()
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
    fn an_entry_which_no_browser_would_ever_send_is_refused_with_what_is_right() {
        for (entries, expected) in [
            (
                &["https://a.example/"][..],
                "has a path: an origin ends after its host and port, write 'https://a.example'",
            ),
            (&["https://a.example:1/x"], "write 'https://a.example:1'"),
            (&["https://a.example?x"], "write 'https://a.example'"),
            (&["a.example"], "has no scheme"),
            (&["null"], "has no scheme"),
            (&[""], "has no scheme"),
            (&["1http://a.example"], "malformed scheme"),
            (&["://a.example"], "malformed scheme"),
            (&["https://"], "malformed host"),
            (&["https://*.example"], "malformed host"),
            (&["https://user@a.example"], "malformed host"),
            (&["https://a.example,https:"], "malformed host"),
            (&["https://é.example"], "malformed host"),
            (&["https://[::g]"], "malformed host"),
            (&["https://a.example\r\nX: y"], "malformed host"),
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
