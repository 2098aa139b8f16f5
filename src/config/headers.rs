//! Headers that an operator adds to answers; those that would break an answer are refused.

use super::layer::{Layer, on_one_line};
use super::values::in_token;

/// A header of a queue's answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct HeaderSetting {
    pub(super) name: String,
    /// `None` when a file removes it.
    pub(super) value: Option<String>,
    /// Where a file sets it.
    written: Option<String>,
    /// The prefix of its name in a refusal when no file sets it: `header.sse.`.
    section: String,
}

impl HeaderSetting {
    /// Returns where it was set, for a refusal; `name` is its name in some case.
    fn place(&self, name: &str) -> String {
        self.written.clone().unwrap_or_else(|| format!("{}{}", self.section, on_one_line(name)))
    }
}

/// Headers that only the server may write, and why.
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

/// Default headers of all answers: `header.cors`.
const CORS: [(&str, &str); 3] = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, OPTIONS"),
    ("Access-Control-Allow-Headers", "Content-Type, Accept, Cache-Control"),
];
/// Default headers of streams: `header.sse`.
const SSE: [(&str, &str); 3] = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
];

/// Returns the headers of all answers and those of streams: the files' over the defaults.
pub(super) fn of_files(files: &Layer) -> (Vec<HeaderSetting>, Vec<HeaderSetting>) {
    (over("header.cors.", CORS, files), over("header.sse.", SSE, files))
}

fn over(section: &str, defaults: [(&str, &str); 3], files: &Layer) -> Vec<HeaderSetting> {
    let mut headers: Vec<HeaderSetting> = Vec::new();
    let mut set = |name: &str, value: Option<&str>, written| {
        let (name, value) = (name.to_owned(), value.map(str::to_owned));
        let header = HeaderSetting { name, value, written, section: format!("the default {section}") };
        match headers.iter_mut().find(|other| other.name.eq_ignore_ascii_case(&header.name)) {
            Some(known) => *known = header,
            None => headers.push(header),
        }
    };
    for (name, value) in defaults {
        set(name, Some(value), None);
    }
    for (key, setting) in &files.0 {
        if let Some(name) = key.strip_prefix(section) {
            set(name, setting.text(), Some(files.of(key)));
        }
    }
    headers
}

/// Returns the headers that a program set; `kind` is `cors` or `sse`.
pub(super) fn of_fields(kind: &str, headers: &[(String, String)]) -> Vec<HeaderSetting> {
    let setting = |(name, value): &(String, String)| {
        let (name, value, section) = (name.clone(), Some(value.clone()), format!("header.{kind}."));
        HeaderSetting { name, value, written: None, section }
    };
    headers.iter().map(setting).collect()
}

/// Returns the headers that were not removed.
pub(super) fn in_force(headers: Vec<HeaderSetting>) -> Vec<(String, String)> {
    headers.into_iter().filter_map(|header| Some((header.name, header.value?))).collect()
}

/// Checks one header, of streams alone or of all answers: its name is a token, its value visible ASCII with spaces and
/// tabs (RFC 9110, sections 5.5 and 5.6.2).
///
/// # Errors
/// The reason and the remedy.
pub(super) fn check(of_streams: bool, name: &str, value: Option<&str>) -> Result<(), String> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if name.is_empty() || !name.bytes().all(in_token) {
        return Err(
            "not a header's name; write letters, digits and '-', such as X-Accel-Buffering".to_owned()
        );
    }
    if let Some((_, reason)) = OWN.iter().find(|(own, _)| is(own)) {
        return Err(format!("{reason}; leave it out"));
    }
    if !of_streams && (is("Content-Type") || is("Transfer-Encoding")) {
        return Err("this is for answers of every kind; write it below header.sse".to_owned());
    }
    let Some(value) = value else {
        return match is("Content-Type") {
            true => Err("browsers take no stream without it; write text/event-stream".to_owned()),
            false => Ok(()),
        };
    };
    if !value.bytes().all(|byte| matches!(byte, b' ' | b'\t') || byte.is_ascii_graphic()) {
        return Err("a value with other than visible ASCII and spaces; write one without".to_owned());
    }
    let media_type = value.split(';').next().unwrap_or_default();
    if is("Content-Type") && !media_type.trim().eq_ignore_ascii_case("text/event-stream") {
        return Err(format!("{value}: browsers take no such stream; write text/event-stream; charset=utf-8"));
    }
    let codings = ["identity", "chunked"];
    if is("Transfer-Encoding") && !codings.iter().any(|known| value.trim().eq_ignore_ascii_case(known)) {
        return Err(format!(
            "{value}: not done here; write chunked, or identity for a stream without chunks, to the close"
        ));
    }
    Ok(())
}

/// Checks the headers of all answers together with those of streams, because a stream's answer has both.
///
/// # Errors
/// The places, the reason and the remedy.
pub(super) fn check_all(cors: &[HeaderSetting], sse: &[HeaderSetting]) -> Result<(), String> {
    for (of_streams, headers) in [(false, cors), (true, sse)] {
        for (index, header) in headers.iter().enumerate() {
            let (name, place) = (&header.name, header.place(&header.name));
            check(of_streams, name, header.value.as_deref())
                .map_err(|reason| format!("{place}: {reason}"))?;
            if find(&headers[..index], name).is_some() {
                return Err(format!("{place}: there twice; keep one of them"));
            }
        }
    }
    if find(sse, "Content-Type").is_none() {
        return Err("header.sse has no Content-Type, without which browsers take no stream; \
                    add Content-Type: text/event-stream"
            .to_owned());
    }
    let twice = |header: &HeaderSetting| {
        let other = header.value.as_ref().and_then(|_| find(sse, &header.name))?;
        Some((header.place(&header.name), other.place(&header.name)))
    };
    match cors.iter().find_map(twice) {
        None => Ok(()),
        Some((cors, sse)) => Err(format!(
            "{cors}: a stream would have it twice, by {sse}, too; keep one of them, null takes the other away"
        )),
    }
}

/// Returns the header of this name, in any case, unless it was removed.
fn find<'h>(headers: &'h [HeaderSetting], name: &str) -> Option<&'h HeaderSetting> {
    headers.iter().find(|header| header.value.is_some() && header.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
