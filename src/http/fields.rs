//! The header fields of a request that the server uses, checked together (RFC 9112 sections 3.2, 6 and 9.3).

use smallvec::SmallVec;

use super::head::{body_too_large, is_authority, malformed};
use super::{BodyLength, HttpLimits, Refusal, Status, Version};

/// The header fields that the server uses. A field that decides about the request is there at most once.
#[derive(Default)]
pub(super) struct Fields<'h> {
    pub(super) host: Option<&'h [u8]>,
    length: Option<&'h [u8]>,
    /// The last one's value, where several make one list.
    coding: Option<&'h [u8]>,
    coding_twice: bool,
    expect: Option<&'h [u8]>,
    close: bool,
    keep_alive: bool,
    pub(super) origin: Option<&'h [u8]>,
    pub(super) accept: Option<&'h [u8]>,
    pub(super) content_type: Option<&'h [u8]>,
    pub(super) content_encoding: Option<&'h [u8]>,
    pub(super) authorization: Option<&'h [u8]>,
    pub(super) last_event_id: Option<&'h [u8]>,
    pub(super) idempotency_key: Option<&'h [u8]>,
    pub(super) user_agent: Option<&'h [u8]>,
    // Proxies split the field when they speak HTTP/2 (RFC 9113 section 8.2.3), and servers put it together again.
    pub(super) cookie: SmallVec<[&'h [u8]; 1]>,
    // Each proxy may add a field or lengthen the last one.
    pub(super) forwarded_for: SmallVec<[&'h [u8]; 1]>,
}

impl<'h> Fields<'h> {
    /// Collects the fields; 400 when one that may occur once is there twice.
    pub(super) fn gather(headers: &[httparse::Header<'h>]) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for header in headers {
            // The comparison looks at the lengths first, so an unused field costs fourteen of those.
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let slot = if is("host") {
                &mut fields.host
            } else if is("content-length") {
                &mut fields.length
            } else if is("content-type") {
                &mut fields.content_type
            } else if is("content-encoding") {
                &mut fields.content_encoding
            } else if is("authorization") {
                &mut fields.authorization
            } else if is("origin") {
                &mut fields.origin
            } else if is("last-event-id") {
                &mut fields.last_event_id
            } else if is("idempotency-key") {
                &mut fields.idempotency_key
            } else if is("expect") {
                &mut fields.expect
            } else if is("transfer-encoding") {
                // A list may lawfully come in two fields, but then it is not `chunked` alone.
                fields.coding_twice |= fields.coding.is_some();
                &mut fields.coding
            } else if is("user-agent") {
                // Only shown, so a second one is no reason to refuse.
                fields.user_agent.get_or_insert(header.value);
                continue;
            } else if is("accept") {
                // Used only to see whether JSON is asked for.
                fields.accept.get_or_insert(header.value);
                continue;
            } else if is("cookie") {
                fields.cookie.push(header.value);
                continue;
            } else if is("x-forwarded-for") {
                fields.forwarded_for.push(header.value);
                continue;
            } else if is("connection") {
                fields.read_connection(header.value);
                continue;
            } else {
                continue;
            };
            if slot.replace(header.value).is_some() && !is("transfer-encoding") {
                return Err(malformed(format!("{} was sent twice: send it once", header.name)));
            }
        }
        Ok(fields)
    }

    /// Returns whether the connection may stay open: in HTTP/1.0 only if asked for, and never after `close`.
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Checks `Host`: present in HTTP/1.1, and well-formed (RFC 9112 section 3.2). Its name does not matter to a
    /// broker.
    pub(super) fn check_host(&self, version: Version) -> Result<(), Refusal> {
        match self.host {
            None if version == Version::Http11 => Err(malformed("the Host header field is missing: send it")),
            Some(host) if !is_authority(host) => {
                Err(malformed("malformed Host: send a host name and, where it matters, ':' and a port"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the body's length (RFC 9112 section 6.3), and refuses whatever other servers might read in another way.
    pub(super) fn body_length(&self, version: Version, limits: &HttpLimits) -> Result<BodyLength, Refusal> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => {
                Err(malformed("both Content-Length and Transfer-Encoding were sent: send one of them"))
            }
            (Some(_), None) if version == Version::Http10 => {
                Err(malformed("HTTP/1.0 has no Transfer-Encoding: send a Content-Length"))
            }
            (Some(coding), None) => self.chunked(coding),
            (None, Some(length)) => match decimal(length) {
                None => Err(malformed("malformed Content-Length: send one decimal number of bytes")),
                Some(0) => Ok(BodyLength::None),
                Some(length) if length > limits.body_bytes_max as u64 => {
                    Err(body_too_large(limits.body_bytes_max))
                }
                Some(length) => Ok(BodyLength::Length(length)),
            },
            (None, None) => Ok(BodyLength::None),
        }
    }

    /// Returns that the body is chunked and nothing else. 400 if nothing says where it ends, 501 if it is compressed too.
    fn chunked(&self, coding: &[u8]) -> Result<BodyLength, Refusal> {
        let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
        let codings = coding.split(|byte| *byte == b',');
        match codings.clone().next_back() {
            Some(last) if !is_chunked(last) => {
                Err(malformed("the last Transfer-Encoding is not chunked: send 'chunked' alone"))
            }
            _ if codings.filter(|coding| is_chunked(coding)).count() > 1 => {
                Err(malformed("Transfer-Encoding is chunked twice: send 'chunked' alone"))
            }
            _ if self.coding_twice || coding.contains(&b',') => Err(Refusal::closing(
                Status::NotImplemented,
                "unknown Transfer-Encoding: send 'chunked' alone, or a Content-Length",
            )),
            _ => Ok(BodyLength::Chunked),
        }
    }

    /// Returns whether the client waits for 100 Continue; 417 for any other expectation.
    pub(super) fn expect_continue(&self, version: Version) -> Result<bool, Refusal> {
        match self.expect {
            // RFC 9110 section 10.1.1: an HTTP/1.0 client's expectation is ignored.
            Some(expect) if version == Version::Http11 => {
                if expect.eq_ignore_ascii_case(b"100-continue") {
                    Ok(true)
                } else {
                    Err(Refusal::closing(
                        Status::ExpectationFailed,
                        "unknown Expect: only 100-continue can be expected here",
                    ))
                }
            }
            _ => Ok(false),
        }
    }

    fn read_connection(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}

/// Parses digits alone: no sign, space or list, which `str::parse` or another server might accept.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::tests::{bad, parse, refused, with};

    #[test]
    fn host_is_sent_once_and_names_one_host() {
        bad(parse("GET / HTTP/1.1\r\n\r\n"), "Host header field is missing");
        bad(with("Host: h\r\n"), "Host was sent twice");
        for host in ["a, b", "a b", "a/b", "u@h", "a,b", "\u{e9}"] {
            bad(parse(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), "malformed Host");
        }
        for host in ["", "h", "h:80", "[::1]:80", "xn--4ca.example", "a_b"] {
            assert!(parse(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_ok(), "{host}");
        }
        assert!(parse("GET / HTTP/1.0\r\n\r\n").is_ok());
        bad(parse("GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n"), "Host was sent twice");
    }

    #[test]
    fn a_content_length_is_one_plain_number() {
        for bad_length in [
            "",
            "+5",
            "-5",
            "5,5",
            "5, 5",
            "5, 6",
            "0x5",
            "5 5",
            "five",
            "5.0",
            "18446744073709551616",
            "99999999999999999999",
        ] {
            bad(with(&format!("Content-Length: {bad_length}\r\n")), "malformed Content-Length");
        }
        bad(with("Content-Length: 5\r\nContent-Length: 5\r\n"), "Content-Length was sent twice");
        bad(with("Content-Length: 5\r\nContent-length: 6\r\n"), "Content-length was sent twice");
        assert_eq!(with("Content-Length: 007\r\n").unwrap().body, BodyLength::Length(7));
        assert_eq!(with("Content-Length: 0\r\n").unwrap().body, BodyLength::None);
        assert_eq!(with("").unwrap().body, BodyLength::None);
    }

    #[test]
    fn a_body_past_the_limit_is_413_before_it_comes() {
        assert_eq!(with("Content-Length: 1000\r\n").unwrap().body, BodyLength::Length(1000));
        refused(with("Content-Length: 1001\r\n"), Status::ContentTooLarge, "1000 bytes");
        refused(with("Content-Length: 18446744073709551615\r\n"), Status::ContentTooLarge, "1000 bytes");
        refused(
            with("Content-Length: 1001\r\nExpect: 100-continue\r\n"),
            Status::ContentTooLarge,
            "1000 bytes",
        );
    }

    #[test]
    fn transfer_encoding_is_chunked_alone() {
        assert_eq!(with("Transfer-Encoding: chunked\r\n").unwrap().body, BodyLength::Chunked);
        assert_eq!(with("transfer-encoding:  CHUNKED \r\n").unwrap().body, BodyLength::Chunked);
        // RFC 9112, section 6.3: without `chunked` at the end nobody knows where the body ends.
        for coding in [
            "gzip",
            "chunked, gzip",
            "chunked, chunked",
            "chunked,",
            "identity",
            "",
            "xchunked",
            "\"chunked\"",
        ] {
            bad(with(&format!("Transfer-Encoding: {coding}\r\n")), "Transfer-Encoding");
        }
        for coding in ["gzip, chunked", "identity,Chunked", ",chunked"] {
            let line = format!("Transfer-Encoding: {coding}\r\n");
            refused(with(&line), Status::NotImplemented, "Transfer-Encoding");
        }
        bad(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n"), "Transfer-Encoding");
        refused(
            with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
            Status::NotImplemented,
            "Transfer-Encoding",
        );
    }

    #[test]
    fn two_ways_to_end_a_body_are_refused() {
        bad(with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "both");
        bad(with("Transfer-Encoding: gzip\r\nContent-Length: 0\r\n"), "both");
        bad(parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "HTTP/1.0");
    }

    #[test]
    fn a_field_that_names_one_thing_is_sent_once() {
        let names = [
            "Origin",
            "Authorization",
            "Content-Type",
            "Content-Encoding",
            "Last-Event-ID",
            "Idempotency-Key",
            "Expect",
        ];
        for name in names {
            bad(with(&format!("{name}: 100-continue\r\n{name}: 100-continue\r\n")), "was sent twice");
        }
    }

    #[test]
    fn every_proxy_may_add_its_own_forwarded_for() {
        let forwarded = |lines: &str| with(lines).unwrap().forwarded_for;
        assert_eq!(forwarded(""), None);
        assert_eq!(forwarded("X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n").unwrap(), "1.1.1.1, 2.2.2.2");
        assert_eq!(
            forwarded("X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX: y\r\nx-forwarded-for: 3.3.3.3\r\n").unwrap(),
            "1.1.1.1, 2.2.2.2,3.3.3.3"
        );
    }

    #[test]
    fn cookies_in_several_fields_are_those_of_one() {
        let cookie = |lines: &str| with(lines).unwrap().cookie;
        assert_eq!(cookie(""), None);
        assert_eq!(cookie("Cookie: a=b\r\nX: y\r\ncookie: c=d; e=f\r\n").unwrap(), "a=b; c=d; e=f");
    }

    #[test]
    fn the_first_of_several_user_agents_is_shown() {
        let head = with("User-Agent: a\r\nUser-Agent: b\r\n").unwrap();
        assert_eq!(head.user_agent.unwrap(), "a");
    }

    #[test]
    fn a_connection_is_kept_as_its_version_and_its_options_say() {
        for (version, options, kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "Connection: te,\tclose ,x\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = parse(&format!("GET / HTTP/{version}\r\nHost: h\r\n{options}\r\n")).unwrap();
            assert_eq!(head.keep_alive, kept, "{version} {options}");
        }
    }

    #[test]
    fn only_100_continue_before_a_body_is_expected() {
        let expect = |lines: &str| with(lines).map(|head| head.expect_continue);
        assert_eq!(expect("Expect: 100-continue\r\nContent-Length: 1\r\n"), Ok(true));
        assert_eq!(expect("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"), Ok(true));
        assert_eq!(expect("Expect: 100-continue\r\n"), Ok(false));
        assert_eq!(expect("Content-Length: 1\r\n"), Ok(false));
        refused(with("Expect: 200-ok\r\nContent-Length: 1\r\n"), Status::ExpectationFailed, "100-continue");
        refused(with("Expect:\r\n"), Status::ExpectationFailed, "100-continue");
        let old = parse("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
        assert!(!old.expect_continue);
    }
}
