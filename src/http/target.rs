//! Splits request targets: first at separators, then decoded, so that an encoded slash is never a separator.

use std::borrow::Cow;

use super::{Refusal, Status};

/// Returns the segments of a raw path, still encoded, without its leading slash: `/a/b` gives `a`, `b`; `/a/` gives `a`
/// and an empty one.
pub(crate) fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.strip_prefix(b"/").unwrap_or(path).split(|&byte| byte == b'/')
}

/// Decodes percent-encoding (RFC 3986 section 2.1). 400 when a `%` is not followed by two hexadecimal digits.
pub(crate) fn decode(text: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    for at in memchr::memchr_iter(b'%', text) {
        let digits = text.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Refusal::new(
                Status::BadRequest,
                "bad percent-encoding: write '%' and two hexadecimal digits, and '%' itself as '%25'",
            ));
        }
    }
    Ok(percent_encoding::percent_decode(text).into())
}

/// Returns the value of the first pair of this name, decoded as in forms (`+` is a space); empty when it has no `=`.
/// 400 for bad percent-encoding in the value or in a name before it, and for a value that is not UTF-8.
pub(crate) fn query_value<'a>(query: &'a [u8], name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    query_values(query, name).next().transpose()
}

/// Returns the values of all pairs of this name, in order, each like [`query_value`]. A name that cannot be decoded is
/// a 400 in its place.
pub(crate) fn query_values<'a>(
    query: &'a [u8],
    name: &str,
) -> impl Iterator<Item = Result<Cow<'a, str>, Refusal>> {
    pairs(query).filter_map(move |(raw_name, raw_value)| match form_decode(raw_name) {
        Ok(decoded) if *decoded == *name.as_bytes() => Some(form_decode(raw_value).and_then(into_utf8)),
        Ok(_) => None,
        Err(refusal) => Some(Err(refusal)),
    })
}

/// Returns the value of the first pair of this name, decoded as in forms, or raw where that fails.
pub(crate) fn query_bytes<'a>(query: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    let is_name = |raw| form_decode(raw).is_ok_and(|decoded| *decoded == *name.as_bytes());
    let (_, raw) = pairs(query).find(|(raw, _)| is_name(raw))?;
    Some(form_decode(raw).unwrap_or(Cow::Borrowed(raw)))
}

/// Returns whether the query has a pair of this name, with or without a value. A name that cannot be decoded does not
/// match.
pub(crate) fn query_has(query: &[u8], name: &str) -> bool {
    query_bytes(query, name).is_some()
}

/// Returns names and values of a form's body, decoded. 400 for bad percent-encoding.
pub(crate) fn form_pairs(body: &[u8]) -> impl Iterator<Item = Result<FormPair<'_>, Refusal>> {
    pairs(body).map(|(name, value)| Ok((form_decode(name)?, form_decode(value)?)))
}

/// A name and its value, both as bytes.
pub(crate) type FormPair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// Returns raw names and values. An empty query has one empty pair, which no name matches.
fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|&byte| byte == b'&').map(|pair| {
        let (name, value) = pair.split_at(memchr::memchr(b'=', pair).unwrap_or(pair.len()));
        (name, value.strip_prefix(b"=").unwrap_or_default())
    })
}

/// Decodes `application/x-www-form-urlencoded` (the URL standard, section 5.1): a plus is a space, an encoded plus is a
/// plus.
fn form_decode(text: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if memchr::memchr(b'+', text).is_none() {
        return decode(text);
    }
    let spaced: Vec<u8> = text.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Ok(Cow::Owned(decode(&spaced)?.into_owned()))
}

fn into_utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Refusal> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
    .ok_or_else(|| {
        Refusal::new(Status::BadRequest, "the query is not UTF-8: encode it as UTF-8, then as %XX")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> Vec<&str> {
        segments(path.as_bytes()).map(|segment| std::str::from_utf8(segment).unwrap()).collect()
    }

    fn value(query: &str, name: &str) -> Result<Option<String>, Status> {
        query_value(query.as_bytes(), name)
            .map(|found| found.map(Cow::into_owned))
            .map_err(|refusal| refusal.status)
    }

    #[test]
    fn a_path_is_split_before_it_is_decoded() {
        assert_eq!(split("/publish/a%2Fb"), ["publish", "a%2Fb"]);
        assert_eq!(split("/"), [""]);
        assert_eq!(split("/a/"), ["a", ""]);
        assert_eq!(split("//a"), ["", "a"]);
        assert_eq!(split("*"), ["*"]);
    }

    #[test]
    fn percent_encoding_is_undone_once_and_plain_text_is_not_copied() {
        assert_eq!(*decode(b"a%2fb%25%32%35").unwrap(), *b"a/b%25");
        assert_eq!(*decode(b"%00%ff+").unwrap(), *b"\0\xff+");
        assert!(matches!(decode(b"plain"), Ok(Cow::Borrowed(b"plain"))));
    }

    #[test]
    fn bad_percent_encoding_is_refused() {
        for bad in ["%", "a%", "%4", "%zz", "%4z", "%+1", "%%41", "%41%"] {
            let refusal = decode(bad.as_bytes()).unwrap_err();
            assert_eq!(refusal.status, Status::BadRequest, "{bad}");
            assert!(refusal.reason.starts_with("bad percent-encoding"), "{bad}");
        }
    }

    #[test]
    fn a_query_value_is_found_by_name_and_decoded_and_the_first_wins() {
        let query = "x=1&token=a%2Bb+c&token=second&empty=&bare&e%76ent=m%C3%BCsli&a=b=c";
        assert_eq!(value(query, "token"), Ok(Some("a+b c".into())));
        assert_eq!(value(query, "empty"), Ok(Some(String::new())));
        assert_eq!(value(query, "bare"), Ok(Some(String::new())));
        assert_eq!(value(query, "event"), Ok(Some("müsli".into())));
        assert_eq!(value(query, "a"), Ok(Some("b=c".into())));
        assert_eq!(value(query, "tok"), Ok(None));
        assert_eq!(value("", "token"), Ok(None));
    }

    #[test]
    fn a_name_that_is_there_several_times_has_all_its_values_in_order() {
        let values = |query: &str| {
            query_values(query.as_bytes(), "topic")
                .map(|value| value.map(Cow::into_owned).map_err(|refusal| refusal.status))
                .collect::<Result<Vec<_>, _>>()
        };
        let all = ["a", "b/c", "", "a"].map(str::to_owned).to_vec();
        assert_eq!(values("topic=a&x=1&topic=b%2Fc&t%6fpic&topic=a"), Ok(all));
        assert_eq!(values("topics=a&x=topic"), Ok(Vec::new()));
        for bad in ["topic=a&topic=%zz", "topic=%ff", "topic=a&%zz=1"] {
            assert_eq!(values(bad), Err(Status::BadRequest), "{bad}");
        }
    }

    #[test]
    fn a_query_value_must_decode_to_utf8() {
        assert_eq!(value("id=%ff", "id"), Err(Status::BadRequest));
        assert_eq!(value("id=%zz", "id"), Err(Status::BadRequest));
        assert_eq!(value("id=%zz&token=t", "token"), Ok(Some("t".into())));
    }

    #[test]
    fn a_name_alone_is_there() {
        assert!(
            query_has(b"wrap", "wrap") && query_has(b"a=1&wrap=0", "wrap") && query_has(b"%77rap", "wrap")
        );
        assert!(!query_has(b"", "wrap") && !query_has(b"wrapped&a=wrap&%zz", "wrap"));
    }
}
