//! The encodings in which a body names fields.

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

/// Returns the refusal of a body that is not the JSON it should be. serde's own message would show what was sent, which may
/// be a secret, and long.
pub(super) fn bad_json(error: &serde_json::Error) -> Refusal {
    bad_request(format!(
        "bad JSON at line {} column {}: send an object with the fields",
        error.line(),
        error.column()
    ))
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
