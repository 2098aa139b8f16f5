//! Headers that an operator adds to answers: none that breaks the answer.

use super::Queues;
use super::entries::Place;
use super::names::on_one_line;

/// Headers by their names, as one mapping of a file says them, over those of the files below it and the
/// defaults.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Headers(Vec<Header>);

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) name: String,
    /// `None` when it was taken away.
    pub(super) value: Option<String>,
    /// `None` when no file says it.
    place: Option<Place>,
}

/// Which answers a header is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// All of them: `header.cors`.
    Cors,
    /// Streams: `header.sse`.
    Sse,
}

/// Headers that the server writes itself, and why nobody else may.
const OWN: [(&str, &str); 8] = [
    ("Content-Length", "a stream has no length, and other answers have their own"),
    ("Connection", "it is between the server and the next hop, whose connections it decides about"),
    ("Keep-Alive", "it is between the server and the next hop, whose connections it decides about"),
    ("Upgrade", "a stream stays HTTP/1.1"),
    ("Trailer", "a stream has none"),
    ("TE", "it belongs in a request"),
    ("Date", "the server writes the time itself"),
    ("X-Status-Reason", "the server says there why it refuses"),
];

impl Headers {
    /// Those an answer has when no file says another.
    pub(super) fn default_of(purpose: Purpose) -> Self {
        let defaults = match purpose {
            Purpose::Cors => Queues::HEADERS_CORS,
            Purpose::Sse => Queues::HEADERS_SSE,
        };
        let header = |(name, value): (&str, &str)| Header {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            place: None,
        };
        Self(defaults.map(header).into())
    }

    /// Sets a header, or with no value takes it away.
    pub(super) fn set(&mut self, name: String, value: Option<String>, place: Option<Place>) {
        let known = self.0.iter_mut().find(|other| other.name.eq_ignore_ascii_case(&name));
        let header = Header { name, value, place };
        match known {
            Some(known) => *known = header,
            None => self.0.push(header),
        }
    }

    /// All of them, also those that were taken away.
    pub(super) fn all(&self) -> &[Header] {
        &self.0
    }

    /// Those an answer has.
    pub(super) fn in_force(&self) -> Vec<(String, String)> {
        self.0.iter().filter_map(|header| Some((header.name.clone(), header.value.clone()?))).collect()
    }

    /// Where a header is from, as a refusal says.
    pub(super) fn place(&self, name: &str) -> Option<&Place> {
        self.0.iter().find(|header| header.name.eq_ignore_ascii_case(name))?.place.as_ref()
    }
}

/// Checks one header: a token, and visible ASCII with spaces and tabs (RFC 9110, 5.5 and 5.6.2).
///
/// # Errors
/// What is wrong and the mend.
pub(super) fn check(purpose: Purpose, name: &str, value: Option<&str>) -> Result<(), String> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(
            "not a header's name; write letters, digits and '-', such as X-Accel-Buffering".to_owned()
        );
    }
    if let Some((_, reason)) = OWN.iter().find(|(own, _)| is(own)) {
        return Err(format!("{reason}; leave it out"));
    }
    let of_stream = is("Content-Type") || is("Transfer-Encoding");
    if purpose == Purpose::Cors && of_stream {
        return Err("this is for answers of every kind; write it below header.sse".to_owned());
    }
    let Some(value) = value else {
        return if is("Content-Type") {
            Err("browsers take no stream without it; write text/event-stream".to_owned())
        } else {
            Ok(())
        };
    };
    if !value.bytes().all(|byte| matches!(byte, b' ' | b'\t') || byte.is_ascii_graphic()) {
        return Err("a value with other than visible ASCII and spaces; write one without".to_owned());
    }
    if is("Content-Type") {
        let media_type = value.split(';').next().unwrap_or_default();
        if !media_type.trim().eq_ignore_ascii_case("text/event-stream") {
            return Err(format!(
                "{value}: browsers take no such stream; write text/event-stream; charset=utf-8"
            ));
        }
    }
    let codings = ["identity", "chunked"];
    if is("Transfer-Encoding") && !codings.iter().any(|known| value.trim().eq_ignore_ascii_case(known)) {
        return Err(format!(
            "{value}: not done here; write chunked, or identity for a stream without chunks, to the close"
        ));
    }
    Ok(())
}

/// Checks the headers of both kinds together, which a stream's answer has; both without those taken away.
///
/// # Errors
/// What is wrong and the mend, by `header.cors` and `header.sse`.
pub(super) fn check_all(cors: &[(String, String)], sse: &[(String, String)]) -> Result<(), String> {
    for (purpose, kind, headers) in [(Purpose::Cors, "cors", cors), (Purpose::Sse, "sse", sse)] {
        for (index, (name, value)) in headers.iter().enumerate() {
            check(purpose, name, Some(value))
                .map_err(|reason| format!("header.{kind}.{}: {reason}", on_one_line(name)))?;
            if headers[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(format!("header.{kind}.{name}: there twice; keep one of them"));
            }
        }
    }
    if !sse.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Type")) {
        return Err("header.sse has no Content-Type, without which browsers take no stream; \
                    add Content-Type: text/event-stream"
            .to_owned());
    }
    match twice(cors, sse) {
        Some(name) => Err(refuse_twice(&format!("header.cors.{name}"), &format!("header.sse.{name}"))),
        None => Ok(()),
    }
}

/// As much of those that files say.
///
/// # Errors
/// What is wrong and the mend, by the places.
pub(super) fn check_files(cors: &Headers, sse: &Headers) -> Result<(), String> {
    let Some(name) = twice(&cors.in_force(), &sse.in_force()).map(str::to_owned) else { return Ok(()) };
    let place = |headers: &Headers, kind: &str| {
        headers.place(&name).map_or_else(|| format!("the default header.{kind}.{name}"), Place::to_string)
    };
    Err(refuse_twice(&place(cors, "cors"), &place(sse, "sse")))
}

/// A name that is among both.
fn twice<'h>(cors: &'h [(String, String)], sse: &[(String, String)]) -> Option<&'h str> {
    let is_in_sse = |name: &str| sse.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    cors.iter().map(|(name, _)| name.as_str()).find(|name| is_in_sse(name))
}

fn refuse_twice(cors: &str, sse: &str) -> String {
    format!(
        "{cors}: a stream would have it twice, by {sse}, too; keep one of them, null takes the other away"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_value_takes_a_headers_place_in_any_case_of_its_name() {
        let mut headers = Headers::default_of(Purpose::Sse);
        headers.set("cache-control".to_owned(), Some("no-store".to_owned()), None);
        headers.set("X-Accel-Buffering".to_owned(), None, None);
        headers.set("X-New".to_owned(), Some(String::new()), None);
        let in_force = headers.in_force();
        let pairs: Vec<(&str, &str)> = in_force.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            pairs,
            [
                ("Content-Type", "text/event-stream; charset=utf-8"),
                ("cache-control", "no-store"),
                ("X-New", "")
            ]
        );
        assert_eq!(headers.all().len(), 4, "what was taken away is remembered");
    }

    #[test]
    fn a_header_that_would_break_the_answer_is_refused_with_the_mend() {
        use Purpose::{Cors, Sse};
        for (purpose, name, value, reason) in [
            (Sse, "", Some(""), "not a header's name; "),
            (Sse, "X Y", Some(""), "not a header's name; "),
            (Sse, "X:", Some(""), "not a header's name; "),
            (Sse, "X\r\nY", Some(""), "not a header's name; "),
            (Sse, "é", Some(""), "not a header's name; "),
            (Sse, "content-length", Some("0"), "a stream has no length"),
            (Cors, "Content-Length", None, "a stream has no length"),
            (Cors, "CONNECTION", Some("close"), "it is between the server and the next hop"),
            (Sse, "Keep-Alive", Some("timeout=5"), "it is between the server and the next hop"),
            (Sse, "Upgrade", Some("websocket"), "a stream stays HTTP/1.1; "),
            (Sse, "Trailer", Some("X"), "a stream has none; "),
            (Sse, "TE", Some("trailers"), "it belongs in a request; "),
            (Sse, "Date", Some("today"), "the server writes the time itself; "),
            (Cors, "X-Status-Reason", Some("x"), "the server says there why it refuses; "),
            (Cors, "Content-Type", Some("text/event-stream"), "this is for answers of every kind; "),
            (Cors, "Transfer-Encoding", Some("chunked"), "this is for answers of every kind; "),
            (Sse, "Content-Type", None, "browsers take no stream without it; "),
            (Sse, "Content-Type", Some("text/html"), "text/html: browsers take no such stream; "),
            (Sse, "Content-Type", Some("text/event-streams"), "text/event-streams: browsers take no such"),
            (Sse, "Transfer-Encoding", Some("gzip"), "gzip: not done here; "),
            (Sse, "Transfer-Encoding", Some("gzip, chunked"), "gzip, chunked: not done here; "),
            (Sse, "X", Some("a\r\nSet-Cookie: b"), "a value with other than visible ASCII"),
            (Sse, "X", Some("a\0"), "a value with other than visible ASCII"),
            (Sse, "X", Some("é"), "a value with other than visible ASCII"),
        ] {
            let refused = check(purpose, name, value).unwrap_err();
            assert!(refused.starts_with(reason) && refused.contains("; "), "{name}: {refused}");
            assert!(!refused.contains(['\r', '\n']), "{refused}");
        }
        for (name, value) in [
            ("Content-Type", Some("Text/Event-Stream ; charset=utf-8")),
            ("transfer-encoding", Some("Identity")),
            ("Transfer-Encoding", Some("chunked")),
            ("Transfer-Encoding", None),
            ("X-Accel-Buffering", Some("no")),
            ("X-Tab", Some("a\tb")),
            ("X-Empty", Some("")),
        ] {
            assert_eq!(check(Sse, name, value), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_stream_has_no_header_twice_and_always_a_content_type() {
        let pairs = |names: &[&str]| -> Vec<(String, String)> {
            let value = |name: &str| if name == "Content-Type" { "text/event-stream" } else { "v" };
            names.iter().map(|name| ((*name).to_owned(), value(name).to_owned())).collect()
        };
        for (cors, sse, reason) in [
            (&["A"][..], &["B"][..], "header.sse has no Content-Type"),
            (&["A", "a"], &["Content-Type"], "header.cors.a: there twice; "),
            (&["A"], &["Content-Type", "a"], "header.cors.A: a stream would have it twice, by header.sse.A"),
            (&["Date"], &["Content-Type"], "header.cors.Date: the server writes the time itself; "),
        ] {
            let refused = check_all(&pairs(cors), &pairs(sse)).unwrap_err();
            assert!(refused.starts_with(reason), "{refused}");
        }
        let [cors, sse] = [Purpose::Cors, Purpose::Sse].map(|of| Headers::default_of(of).in_force());
        assert_eq!(check_all(&cors, &sse), Ok(()));
    }
}
