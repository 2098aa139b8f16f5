//! Properties of the whole reader: however the bytes are split, the same requests come out.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{BodyLength, Head, HttpLimits, Method, Refusal, RequestReader, Version};

const LIMITS: HttpLimits =
    HttpLimits { head_bytes_max: 600, body_bytes_max: 300, headers_max: 13, target_bytes_max: 600 };

/// A request as a client writes it, and what must be read from it.
#[derive(Clone, Debug)]
struct Sent {
    text: Vec<u8>,
    head: Head,
    body: Bytes,
}

/// The end of a read.
#[derive(Debug, PartialEq)]
enum Outcome {
    WantsMore { inside_body: bool, left: BytesMut },
    Refused(Refusal),
}

/// Feeds the pieces as a connection would, and collects all requests until the bytes run out or one is refused. With
/// `skip`, bodies are skipped.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, skip: bool) -> (Vec<(Head, Bytes)>, Outcome) {
    let (mut reader, mut buf) = (RequestReader::new(LIMITS), BytesMut::new());
    let (mut requests, mut open) = (Vec::new(), None);
    let mut step = |buf: &mut BytesMut| -> Result<bool, Refusal> {
        if open.is_none() {
            open = reader.head(buf)?;
        }
        if open.is_none() {
            return Ok(false);
        }
        let body = if skip { reader.skip_body(buf)?.then(Bytes::new) } else { reader.body(buf)? };
        let Some(body) = body else { return Ok(false) };
        requests.extend(open.take().map(|head| (head, body)));
        Ok(true)
    };
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match step(&mut buf) {
                Ok(true) => {}
                Ok(false) => break,
                Err(refusal) => return (requests, Outcome::Refused(refusal)),
            }
        }
    }
    let inside_body = open.is_some();
    (requests, Outcome::WantsMore { inside_body, left: buf })
}

/// Cuts the text at these places.
fn split<'a>(text: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("\r\n"), 1 => Just("\n")]
}

fn white_space() -> impl Strategy<Value = &'static str> {
    select(&["", " ", "  ", "\t", " \t "][..])
}

/// Generates one field line: its name in any case, with lawful white space around its value.
fn field(name: &'static str, value: String) -> impl Strategy<Value = String> {
    (any::<bool>(), white_space(), white_space(), line_end()).prop_map(move |(upper, before, after, end)| {
        let name = if upper { name.to_ascii_uppercase() } else { name.to_ascii_lowercase() };
        format!("{name}:{before}{value}{after}{end}")
    })
}

fn optional(name: &'static str) -> impl Strategy<Value = (Option<Bytes>, String)> {
    proptest::option::of("[!-~]([ -~]{0,20}[!-~])?").prop_flat_map(move |value| {
        let line = match &value {
            Some(value) => field(name, value.clone()).boxed(),
            None => Just(String::new()).boxed(),
        };
        (Just(value.map(Bytes::from)), line)
    })
}

/// Generates a body with its header line and its bytes on the wire.
fn body() -> impl Strategy<Value = (BodyLength, String, Vec<u8>, Bytes)> {
    let plain = vec(any::<u8>(), 1..200).prop_flat_map(|data| {
        let wire =
            (Just(BodyLength::Length(data.len() as u64)), field("Content-Length", data.len().to_string()));
        (wire, Just(data.clone()), Just(Bytes::from(data)))
    });
    let chunked = (
        vec((vec(any::<u8>(), 1..40), any::<bool>()), 0..6),
        "(;[a-z]{1,9}(=\"[ -!#-~]{0,9}\")?)?",
        any::<bool>(),
    )
        .prop_flat_map(|(chunks, extension, trailer)| {
            let mut wire = Vec::new();
            for (chunk, upper) in &chunks {
                let size = if *upper { format!("{:X}", chunk.len()) } else { format!("{:03x}", chunk.len()) };
                wire.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(if trailer { b"0\r\nDigest: x\r\n\r\n" } else { b"0\r\n\r\n" });
            let data = chunks.into_iter().flat_map(|(chunk, _)| chunk).collect::<Vec<u8>>();
            (
                (Just(BodyLength::Chunked), field("Transfer-Encoding", "chunked".into())),
                Just(wire),
                Just(Bytes::from(data)),
            )
        });
    prop_oneof![
        Just((BodyLength::None, String::new(), Vec::new(), Bytes::new())),
        plain.prop_map(|((length, line), wire, data)| (length, line, wire, data)),
        chunked.prop_map(|((length, line), wire, data)| (length, line, wire, data)),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let methods = [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("OPTIONS", Method::Options),
        ("DELETE", Method::Other),
    ];
    let start = (
        select(&["", "", "", "\r\n", "\n"][..]),
        select(methods.to_vec()),
        select(&["", "http://host.example:80"][..]),
        "/[a-z0-9%._~-]{0,20}",
        proptest::option::of("[a-z0-9=&%/?+]{0,20}"),
        line_end(),
    );
    let named = (
        optional("Origin"),
        optional("Content-Type"),
        optional("Authorization"),
        optional("Cookie"),
        optional("Last-Event-ID"),
        optional("Idempotency-Key"),
        optional("User-Agent"),
        optional("X-Forwarded-For"),
    );
    let rest = (field("Host", "h:1".into()), optional("X-Other"), any::<bool>(), any::<bool>(), line_end());
    (start, named, rest, body()).prop_map(|(start, named, rest, (length, length_line, wire, body))| {
        let (empty, (name, method), authority, path, query, line_end) = start;
        let (origin, content_type, authorization, cookie, last_event_id, key, agent, forwarded) = named;
        let (host, other, close, expect, blank) = rest;
        let mark = if query.is_some() { "?" } else { "" };
        let query = query.unwrap_or_default();
        let mut lines = vec![host, origin.1, content_type.1, authorization.1, cookie.1, last_event_id.1];
        lines.extend([key.1, agent.1, forwarded.1, length_line, other.1]);
        lines.push(if close { "Connection: close\r\n".into() } else { String::new() });
        lines.push(if expect { "Expect: 100-continue\r\n".into() } else { String::new() });
        let lines = lines.concat();
        let text = format!("{empty}{name} {authority}{path}{mark}{query} HTTP/1.1{line_end}{lines}{blank}");
        Sent {
            text: [text.into_bytes(), wire].concat(),
            head: Head {
                content_encoding: None,
                method,
                version: Version::Http11,
                path: Bytes::from(path),
                query: Bytes::from(query),
                keep_alive: !close,
                expect_continue: expect && length != BodyLength::None,
                body: length,
                origin: origin.0,
                accept: None,
                content_type: content_type.0,
                authorization: authorization.0,
                cookie: cookie.0,
                last_event_id: last_event_id.0,
                idempotency_key: key.0,
                user_agent: agent.0,
                host: Some(Bytes::from_static(if authority.is_empty() {
                    b"h:1"
                } else {
                    b"host.example:80"
                })),
                forwarded_for: forwarded.0,
            },
            body,
        }
    })
}

fn pipeline() -> impl Strategy<Value = (Vec<u8>, Vec<(Head, Bytes)>)> {
    vec(sent(), 1..5).prop_map(|requests| {
        let text = requests.iter().flat_map(|sent| sent.text.clone()).collect();
        (text, requests.into_iter().map(|sent| (sent.head, sent.body)).collect())
    })
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}

proptest! {
    #[test]
    fn any_split_of_a_valid_pipeline_gives_the_requests_that_were_sent(
        (text, expected) in pipeline(),
        cuts in cuts(),
    ) {
        let end = Outcome::WantsMore { inside_body: false, left: BytesMut::new() };
        prop_assert_eq!(read(split(&text, &cuts).into_iter(), false), (expected, end));
    }

    #[test]
    fn a_pipeline_sent_byte_by_byte_gives_the_requests_that_were_sent((text, expected) in pipeline()) {
        let end = Outcome::WantsMore { inside_body: false, left: BytesMut::new() };
        prop_assert_eq!(read(text.chunks(1), false), (expected, end));
    }

    #[test]
    fn skipping_bodies_consumes_exactly_what_reading_them_does(
        (text, expected) in pipeline(),
        cuts in cuts(),
    ) {
        let heads: Vec<_> = expected.into_iter().map(|(head, _)| (head, Bytes::new())).collect();
        let end = Outcome::WantsMore { inside_body: false, left: BytesMut::new() };
        prop_assert_eq!(read(split(&text, &cuts).into_iter(), true), (heads, end));
    }

    #[test]
    fn a_damaged_pipeline_ends_in_the_same_way_however_it_is_split(
        (mut text, _) in pipeline(),
        damage in vec((any::<Index>(), prop_oneof![any::<u8>(), select(b"\r\n\0 :;,0#".to_vec())]), 1..4),
        cuts in cuts(),
    ) {
        for (at, byte) in damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let whole = read([&text[..]].into_iter(), false);
        if let Outcome::Refused(refusal) = &whole.1 {
            prop_assert!(refusal.close);
        }
        let (heads, _): (Vec<_>, Vec<_>) = whole.0.iter().cloned().unzip();
        let skipped = read(split(&text, &cuts).into_iter(), true).0;
        prop_assert_eq!(heads, skipped.into_iter().map(|(head, _)| head).collect::<Vec<_>>());
        let (requests, end) = read(split(&text, &cuts).into_iter(), false);
        prop_assert_eq!(&requests, &whole.0);
        match (&end, &whole.1) {
            (Outcome::Refused(one), Outcome::Refused(other)) => prop_assert_eq!(one, other),
            (Outcome::WantsMore { inside_body: one, .. }, Outcome::WantsMore { inside_body: other, .. }) => {
                prop_assert_eq!(one, other);
            }
            _ => prop_assert!(false, "{:?} but {:?}", end, whole.1),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_held_without_bound(
        text in vec(prop_oneof![any::<u8>(), select(b"\r\n\r\nGET / HTTP/1.1: 0;".to_vec())], 0..2000),
        cuts in cuts(),
    ) {
        if let Outcome::WantsMore { inside_body: false, left } = read(split(&text, &cuts).into_iter(), false).1 {
            prop_assert!(left.len() < LIMITS.head_bytes_max);
        }
    }
}
