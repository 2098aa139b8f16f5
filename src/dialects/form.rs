//! The encodings in which a body names fields.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer as _, Error as _, MapAccess, Visitor};

use super::bad_request;
use crate::http::Refusal;

/// The encoding of the fields.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// `application/x-www-form-urlencoded`, as curl and pages send them.
    UrlEncoded,
    /// An object of `application/json`.
    Json,
}

impl Form {
    /// Returns the encoding that a `Content-Type` names; a body without one is a form.
    ///
    /// # Errors
    /// 400 for another type.
    pub(super) fn of(content_type: Option<&[u8]>) -> Result<Self, Refusal> {
        let essence = content_type.unwrap_or_default().split(|byte| *byte == b';').next().unwrap_or_default();
        let is = |name: &str| essence.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        if is("") || is("application/x-www-form-urlencoded") {
            Ok(Form::UrlEncoded)
        } else if content_type.is_some_and(is_json) {
            Ok(Form::Json)
        } else {
            Err(bad_request(
                "bad Content-Type: send the fields as application/x-www-form-urlencoded or application/json, and not as \
                 multipart/form-data (curl: -d, not -F)",
            ))
        }
    }
}

/// Returns whether a `Content-Type` is JSON, by one of its names or a suffix (RFC 6839, section 3.1), whatever its
/// parameters.
pub(super) fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let Ok(essence) = str::from_utf8(essence) else { return false };
    let essence = essence.to_ascii_lowercase();
    let is_suffixed = essence.strip_prefix("application/").is_some_and(|name| name.ends_with("+json"));
    ["application/json", "text/json"].contains(&&*essence) || is_suffixed
}

/// Returns the members of a JSON object, in their order: a map would hide one that is there twice.
///
/// # Errors
/// 400 for anything else, and for more than `max` members.
pub(super) fn members<'b, V: Deserialize<'b>>(
    body: &'b [u8],
    max: usize,
) -> Result<Vec<(String, V)>, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let members = json.deserialize_map(MembersVisitor { max, value: PhantomData });
    let members = members.and_then(|members| json.end().map(|()| members));
    // serde's own message would show what was sent, which may be a secret, and long.
    members.map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        bad_request(format!("bad JSON at {place}: send an object with the fields"))
    })
}

struct MembersVisitor<V> {
    max: usize,
    value: PhantomData<V>,
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for MembersVisitor<V> {
    type Value = Vec<(String, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key()? {
            if members.len() == self.max {
                return Err(A::Error::custom("too many members"));
            }
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}

/// Returns a number of seconds from 1 to `max`, written in digits.
///
/// # Errors
/// 400 that names the field `name`, for anything else.
pub(super) fn seconds(name: &str, text: &[u8], max: u64) -> Result<u64, Refusal> {
    // `parse` by itself would take `+5` too.
    let digits = str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = digits.and_then(|digits| digits.parse().ok());
    seconds.filter(|seconds| (1..=max).contains(seconds)).ok_or_else(|| {
        bad_request(format!("bad {name}: write the seconds from now, a whole number from 1 to {max}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_several_names() {
        for json in [
            "application/json",
            "Application/JSON ; charset=utf-8",
            "text/json",
            "application/vnd.api+json",
            "application/cloudevents+json;x=y",
        ] {
            assert!(is_json(json.as_bytes()), "{json}");
        }
        for other in
            ["", "json", "application/jsonp", "text/event-stream+json", "image/json", "application/x+jsons"]
        {
            assert!(!is_json(other.as_bytes()), "{other}");
        }
        assert!(!is_json(b"application/\xff+json"));
    }

    #[test]
    fn the_type_of_a_body_is_a_form_or_json() {
        for form in [None, Some("application/x-www-form-urlencoded; charset=UTF-8")] {
            assert_eq!(Form::of(form.map(str::as_bytes)), Ok(Form::UrlEncoded));
        }
        assert_eq!(Form::of(Some(b"Application/JSON ; charset=utf-8")), Ok(Form::Json));
        for other in ["multipart/form-data; boundary=x", "text/plain"] {
            let refusal = Form::of(Some(other.as_bytes())).unwrap_err();
            assert!(refusal.reason.starts_with("bad Content-Type"), "{refusal}");
        }
    }
}
