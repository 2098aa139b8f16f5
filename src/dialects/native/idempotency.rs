//! Idempotency keys of publishes: their syntax, their scope, and the digest that repeats are compared by.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::BodyForm;
use crate::core::message::PublishKey;
use crate::core::topic::Topic;
use crate::dialects::bad_request;
use crate::http::{Head, Refusal, target};

/// The longest key, in bytes. A UUID has 36, a digest in hexadecimal 64.
const KEY_BYTES_MAX: usize = 128;
/// The longest subject that is kept as it is, in bytes; of a longer one its digest is kept. A token, and nearly all of
/// it a `sub`, may be 8 KiB: 65,536 of those would take 0.5 GiB in each partition.
const SUBJECT_BYTES_MAX: usize = 128;
/// Written in place of a subject's length when its digest follows.
const SUBJECT_DIGEST: u16 = u16::MAX;

/// The key of a publish, scoped to its topic and the token's subject.
#[derive(Debug)]
pub(crate) struct IdempotencyKey {
    name: Arc<[u8]>,
}

impl IdempotencyKey {
    /// Returns the key of a publish to `topic` by `subject`; `None` if it has none.
    ///
    /// # Errors
    /// 400 for a key that is empty, too long or has bytes other than visible ASCII, for two keys in the query, and when
    /// header field and query differ.
    pub(super) fn of(head: &Head, topic: &Topic, subject: &str) -> Result<Option<Self>, Refusal> {
        let in_field = head.idempotency_key.as_deref().map(parse).transpose()?;
        let in_query = match is_in_query(head) {
            true => key_in_query(&head.query)?,
            false => None,
        };
        let key = match (in_field, in_query) {
            (Some(field), Some(query)) if field != query => {
                return Err(bad_request("the Idempotency-Key field and ?key= differ: send one of them"));
            }
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => return Ok(None),
        };
        Ok(Some(IdempotencyKey { name: name(topic, subject, &key).into() }))
    }

    /// Returns whether a request has a key, well-formed or not.
    pub(crate) fn is_in(head: &Head) -> bool {
        head.idempotency_key.is_some() || is_in_query(head)
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.name.len()
    }

    /// Returns the key that the home compares: the name, and a digest of the body as it was sent.
    pub(crate) fn with_body(self, form: &BodyForm, body: &[u8]) -> PublishKey {
        PublishKey { name: self.name, digest: digest(form, body) }
    }
}

/// Returns whether the query has a key. Most publishes have no query, and this costs them nothing.
fn is_in_query(head: &Head) -> bool {
    !head.query.is_empty() && target::query_has(&head.query, "key")
}

fn key_in_query(query: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let mut values = target::query_values(query, "key");
    let key = values.next().transpose()?.map(|value| parse(value.as_bytes())).transpose()?;
    match values.next().transpose()? {
        Some(_) => Err(bad_request("key is in the query twice: send it once")),
        None => Ok(key),
    }
}

/// Parses a key: a string of structured fields (RFC 9651, section 3.3.3), or the same without quotes, as most clients
/// send it. Quotes are not part of the key.
fn parse(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    let key = match value {
        [b'"', quoted @ ..] => unquote(quoted),
        bare => Some(bare.to_vec()),
    };
    let is_good =
        |key: &Vec<u8>| (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    key.filter(is_good).ok_or_else(|| {
        bad_request(format!(
            "bad idempotency key: send 1 to {KEY_BYTES_MAX} characters of visible ASCII, without spaces, as they \
             are or in double quotes"
        ))
    })
}

/// Returns the text before the closing quote with its escapes undone; `None` when that quote is missing or not last.
fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let inner = quoted.strip_suffix(b"\"")?;
    let mut key = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        key.push(match byte {
            b'"' => return None,
            b'\\' => *bytes.next().filter(|escaped| matches!(escaped, b'"' | b'\\'))?,
            byte => byte,
        });
    }
    Some(key)
}

/// Returns the name of a key: topic and subject with their lengths before them, then the key, so that different triples
/// have different names. A journal stores names, so the layout must not change.
fn name(topic: &Topic, subject: &str, key: &[u8]) -> Vec<u8> {
    let (topic, subject) = (topic.name().as_bytes(), subject.as_bytes());
    let digest;
    let (subject_length, subject) = match subject.len() <= SUBJECT_BYTES_MAX {
        true => (subject.len() as u16, subject),
        false => {
            digest = Sha256::digest(subject);
            (SUBJECT_DIGEST, &digest[..])
        }
    };
    // A path is 519 bytes at most.
    let topic_length = topic.len() as u16;
    [&topic_length.to_be_bytes()[..], topic, &subject_length.to_be_bytes(), subject, key].concat()
}

/// Returns the digest of a body and its form, each part with its length before it. A journal stores it, so its input
/// must not change.
fn digest(form: &BodyForm, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    match form {
        BodyForm::EventStream => hash.update([0]),
        BodyForm::Data { event, id, is_json } => {
            hash.update([1 + u8::from(*is_json)]);
            for text in [event, id] {
                // 0 means none; the empty text has length 1.
                let length = text.as_ref().map_or(0, |text| text.len() as u64 + 1);
                hash.update(length.to_be_bytes());
                hash.update(text.as_deref().unwrap_or_default());
            }
        }
    }
    hash.update(body);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::core::topic::TopicHasher;
    use crate::dialects::tests::head;
    use crate::http::{Method, Status};

    fn topic(path: &str) -> Topic {
        let segments: Vec<_> = path.split('/').map(|segment| Cow::Borrowed(segment.as_bytes())).collect();
        Topic::parse_path(&segments, &TopicHasher::of(16)).unwrap()
    }

    /// Returns the name of a key that is sent in the header field and in the query.
    fn sent(field: Option<&str>, query: &str) -> Result<Option<Arc<[u8]>>, Refusal> {
        let mut head = head(Method::Post, &format!("/publish/pets{query}"));
        head.idempotency_key = field.map(|field| field.as_bytes().to_vec().into());
        assert_eq!(IdempotencyKey::is_in(&head), field.is_some() || query.contains("key"));
        Ok(IdempotencyKey::of(&head, &topic("pets"), "alex")?.map(|key| key.name))
    }

    fn named(key: &str) -> Option<Arc<[u8]>> {
        Some(name(&topic("pets"), "alex", key.as_bytes()).into())
    }

    #[track_caller]
    fn refused(field: Option<&str>, query: &str, about: &str) {
        let refusal = sent(field, query).unwrap_err();
        assert_eq!(refusal.status, Status::BadRequest, "{refusal}");
        assert!(refusal.reason.contains(about) && !refusal.close, "{refusal}");
    }

    #[test]
    fn a_key_comes_in_the_field_or_the_query_with_quotes_or_without() {
        let longest = "x".repeat(KEY_BYTES_MAX);
        for (field, query, key) in [
            (Some("8e03978e-40d5"), "", "8e03978e-40d5"),
            (Some("\"8e03978e-40d5\""), "", "8e03978e-40d5"),
            (Some(r#""a\"b\\c""#), "", r#"a"b\c"#),
            (Some(r#"a"b\c"#), "", r#"a"b\c"#),
            (Some("a,b;c=d"), "", "a,b;c=d"),
            (Some(&longest), "", &longest),
            (Some(&format!("\"{longest}\"")), "", &longest),
            (None, "?key=a%2Bb", "a+b"),
            (None, "?wrap&key=%22a%22", "a"),
            (Some("\"a\""), "?key=a", "a"),
        ] {
            assert_eq!(sent(field, query), Ok(named(key)), "{field:?} {query}");
        }
        assert_eq!(sent(None, ""), Ok(None));
        assert_eq!(
            sent(None, "?wrap&%zz"),
            Ok(None),
            "what has no key is taken as it was before there were any"
        );
    }

    #[test]
    fn a_bad_key_is_refused_in_one_line_that_says_what_is_right() {
        let too_long = "x".repeat(KEY_BYTES_MAX + 1);
        for bad in [
            "", "\"\"", "\"", "a b", "\"a b\"", "a\tb", "\u{e9}", "\"a", "\"a\"b\"", r#""a\""#, r#""a\b""#,
            &too_long,
        ] {
            refused(Some(bad), "", "1 to 128 characters of visible ASCII");
        }
        for query in ["?key", "?key=", "?key=a+b", "?key=%C3%A9", "?key=%00", &format!("?key={too_long}")] {
            refused(None, query, "1 to 128 characters of visible ASCII");
        }
        refused(None, "?key=%ff", "UTF-8");
        refused(None, "?key=%zz", "percent-encoding");
        refused(None, "?key=a&key=a", "twice");
        refused(Some("a"), "?key=b", "differ");
        refused(Some("a"), "?key=", "1 to 128");
    }

    #[test]
    fn no_two_topics_subjects_and_keys_have_one_name() {
        let (long, other) = ("s".repeat(SUBJECT_BYTES_MAX + 1), "s".repeat(SUBJECT_BYTES_MAX + 2));
        // The digest that stands for the long subject, sent as a subject.
        let digest: String = Sha256::digest(&long).iter().map(|&byte| char::from(byte % 0x80)).collect();
        let all = [
            ("a", "b", "cc"),
            ("a", "bc", "c"),
            ("a", "", "bcc"),
            ("ab", "", "cc"),
            ("ab", "c", "c"),
            ("a/b", "", "cc"),
            ("a", &long, "c"),
            ("a", &other, "c"),
            ("a", &digest, "c"),
        ];
        let names = all.map(|(path, subject, key)| name(&topic(path), subject, key.as_bytes()));
        for (n, one) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|name| name == one), Some(n), "{:?}", all[n]);
            assert!(one.len() < 1 + 2 + 2 + SUBJECT_BYTES_MAX + 8);
        }
        assert_eq!(names[0], b"\0\x01a\0\x01bcc", "as a journal may have it");
    }

    #[test]
    fn bodies_that_are_read_differently_are_different() {
        let data = |event: Option<&str>, id: Option<&str>, is_json| BodyForm::Data {
            event: event.map(str::to_owned),
            id: id.map(str::to_owned),
            is_json,
        };
        let all = [
            (BodyForm::EventStream, "data:x"),
            (BodyForm::EventStream, "data:x\n"),
            (data(None, None, false), "data:x"),
            (data(None, None, true), "data:x"),
            (data(Some(""), None, false), "data:x"),
            (data(None, Some(""), false), "data:x"),
            (data(Some("a"), None, false), "data:x"),
            (data(None, Some("a"), false), "data:x"),
            (data(Some("a"), Some("b"), false), "data:x"),
            (data(Some("ab"), Some(""), false), "data:x"),
        ];
        let digests = all.each_ref().map(|(form, body)| digest(form, body.as_bytes()));
        for (n, one) in digests.iter().enumerate() {
            assert_eq!(digests.iter().position(|digest| digest == one), Some(n), "{:?}", all[n]);
            assert_eq!(digest(&all[n].0, all[n].1.as_bytes()), *one);
        }
    }
}
