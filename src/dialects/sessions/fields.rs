//! The named fields of a command's body, from a form or from JSON.

use std::borrow::Cow;

use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::dialects::bad_request;
use crate::dialects::form::{Form, members, seconds};
use crate::http::{Refusal, target};

/// The known fields; others are dropped, however many there are.
const NAMES: [&str; 7] = ["userId", "channel", "exp", "payload", "event", "id", "data"];

/// The most fields that are read, known or not: a body of 1 MiB may hold a million, all with the same name.
const FIELDS_MAX: usize = 64;

/// The known fields of a body, in their order.
#[derive(Debug)]
pub(super) struct FormFields<'b>(SmallVec<[(&'static str, Field<'b>); 4]>);

#[derive(Debug)]
enum Field<'b> {
    Text(Cow<'b, [u8]>),
    /// The value as it was written.
    Json(&'b RawValue),
}

impl<'b> FormFields<'b> {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 when the body has another encoding or too many fields.
    pub(super) fn read(form: Form, body: &'b [u8]) -> Result<Self, Refusal> {
        match form {
            Form::UrlEncoded => {
                let mut fields = FormFields(SmallVec::new());
                for (index, pair) in target::form_pairs(body).enumerate() {
                    if index == FIELDS_MAX {
                        return Err(bad_request(format!("more than {FIELDS_MAX} fields: send fewer")));
                    }
                    let (name, value) = pair?;
                    if let Some(name) = known(&name) {
                        fields.0.push((name, Field::Text(value)));
                    }
                }
                Ok(fields)
            }
            Form::Json => {
                let members = members::<&RawValue>(body, FIELDS_MAX)?.into_iter();
                let known =
                    members.filter_map(|(name, value)| Some((known(name.as_bytes())?, Field::Json(value))));
                Ok(FormFields(known.collect()))
            }
        }
    }

    /// Returns whether there is a field of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| *own == name)
    }

    /// Returns a field's text; `None` when the field is missing.
    ///
    /// # Errors
    /// 400 when the field is there twice, is not UTF-8, or is JSON but no string.
    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
        match self.one(name)? {
            None => Ok(None),
            Some(Field::Text(text)) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Some(text.into())),
                Err(_) => Err(bad_request(format!("{name} is not UTF-8: encode it as UTF-8, then as %XX"))),
            },
            Some(Field::Json(value)) => match serde_json::from_str::<String>(value.get()) {
                Ok(text) => Ok(Some(text.into())),
                Err(_) => Err(bad_request(format!("{name} is not a string: write it in quotes"))),
            },
        }
    }

    /// Returns a number of seconds from 1 to `max`, written as digits or as a number of JSON; `None` when the field is
    /// missing.
    ///
    /// # Errors
    /// 400 when the field is there twice or is anything else.
    pub(super) fn seconds(&self, name: &str, max: u64) -> Result<Option<u64>, Refusal> {
        let text = match self.one(name)? {
            None => return Ok(None),
            Some(Field::Text(text)) => text,
            // Accepted with quotes and without.
            Some(Field::Json(value)) => {
                let text = value.get();
                text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).as_bytes()
            }
        };
        seconds(name, text, max).map(Some)
    }

    fn one(&self, name: &str) -> Result<Option<&Field<'b>>, Refusal> {
        let mut named = self.0.iter().filter(|(own, _)| *own == name).map(|(_, field)| field);
        let first = named.next();
        match named.next() {
            None => Ok(first),
            Some(_) => Err(bad_request(format!("{name} is there twice: send it once"))),
        }
    }
}

fn known(name: &[u8]) -> Option<&'static str> {
    NAMES.into_iter().find(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    fn refused<T: fmt::Debug>(result: Result<T, Refusal>, about: &str) {
        let refusal = result.unwrap_err();
        assert!(refusal.status.code() == 400 && refusal.reason.starts_with(about), "{refusal}");
        assert!(!refusal.reason.contains('\n'), "{refusal}");
    }

    #[test]
    fn a_form_and_json_say_the_same() {
        let form = FormFields::read(Form::UrlEncoded, b"userId=a%2Fb+c&exp=60&other=1").unwrap();
        let json = FormFields::read(Form::Json, br#"{"userId":"a/b c","exp":60,"other":[1]}"#).unwrap();
        for fields in [form, json] {
            assert_eq!(fields.text("userId").unwrap().as_deref(), Some("a/b c"));
            assert_eq!(fields.seconds("exp", 60).unwrap(), Some(60));
            assert_eq!(fields.text("channel").unwrap(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let form = |body: &'static str| FormFields::read(Form::UrlEncoded, body.as_bytes()).unwrap();
        let json = |body: &'static str| FormFields::read(Form::Json, body.as_bytes()).unwrap();
        refused(form("data=1&data=2").text("data"), "data is there twice");
        refused(json(r#"{"data":"1","data":"2"}"#).text("data"), "data is there twice");
        refused(form("data=%ff").text("data"), "data is not UTF-8");
        refused(json(r#"{"data":1}"#).text("data"), "data is not a string");
        for exp in ["", "0", "-1", "+5", "1.5", "61", "99999999999999999999", "ten", " 5"] {
            refused(
                FormFields::read(Form::UrlEncoded, format!("exp={exp}").as_bytes())
                    .unwrap()
                    .seconds("exp", 60),
                "bad exp",
            );
        }
        for exp in ["0", "-1", "1.5", "61", "null", "true", "[]", "\"\"", "\"1.0\""] {
            refused(
                FormFields::read(Form::Json, format!("{{\"exp\":{exp}}}").as_bytes())
                    .unwrap()
                    .seconds("exp", 60),
                "bad exp",
            );
        }
        refused(FormFields::read(Form::UrlEncoded, b"a=%zz"), "bad percent-encoding");
        for name in ["", "id", "other"] {
            let form = |fields: usize| vec![format!("{name}=1"); fields].join("&");
            assert!(FormFields::read(Form::UrlEncoded, form(FIELDS_MAX).as_bytes()).is_ok());
            refused(
                FormFields::read(Form::UrlEncoded, form(FIELDS_MAX + 1).as_bytes()),
                "more than 64 fields",
            );
            let json = |fields: usize| format!("{{{}}}", vec![format!("\"{name}\":1"); fields].join(","));
            assert!(FormFields::read(Form::Json, json(FIELDS_MAX).as_bytes()).is_ok());
            refused(FormFields::read(Form::Json, json(FIELDS_MAX + 1).as_bytes()), "bad JSON");
        }
        for body in ["", "[]", "1", "{", "{\"a\":1}x", "\"a\""] {
            refused(FormFields::read(Form::Json, body.as_bytes()), "bad JSON");
        }
    }
}
