//! Parses and checks one request head (RFC 9112 sections 3 to 6, RFC 9110 sections 7 and 10.1.1).

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;

use bytes::Bytes;

use super::fields::Fields;
use super::{HttpLimits, Refusal, Status};

/// The methods that the server knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// QUERY (RFC 10008)
    Query,
    /// OPTIONS
    Options,
    /// Any other token.
    Other,
}

impl Method {
    /// Returns its name; `OTHER` for one that is not known.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Query => "QUERY",
            Method::Options => "OPTIONS",
            Method::Other => "OTHER",
        }
    }
}

/// The HTTP versions that the server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The rule by which the end of a request's body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BodyLength {
    /// No body.
    None,
    /// Content-Length, in bytes: more than 0, and within the limit.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// A request's head. Its bytes are shared slices of the head as received.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Head {
    /// The method.
    pub(crate) method: Method,
    /// The version.
    pub(crate) version: Version,
    /// The path, still percent-encoded, without scheme and authority: it begins with `/`, or is `*` (OPTIONS
    /// alone).
    pub(crate) path: Bytes,
    /// The query, still percent-encoded, without its `?`; empty when there is none.
    pub(crate) query: Bytes,
    /// Whether the client lets the connection stay open (RFC 9112 section 9.3).
    pub(crate) keep_alive: bool,
    /// Whether the client waits for 100 Continue before it sends its body; false without a body.
    pub(crate) expect_continue: bool,
    /// How long the body is.
    pub(crate) body: BodyLength,
    /// `Origin`
    pub(crate) origin: Option<Bytes>,
    /// `Accept`, the first where it was sent several times
    pub(crate) accept: Option<Bytes>,
    /// `Content-Type`
    pub(crate) content_type: Option<Bytes>,
    /// `Content-Encoding`
    pub(crate) content_encoding: Option<Bytes>,
    /// `Authorization`
    pub(crate) authorization: Option<Bytes>,
    /// `Cookie`, joined by semicolons where it was sent several times
    pub(crate) cookie: Option<Bytes>,
    /// `Last-Event-ID`
    pub(crate) last_event_id: Option<Bytes>,
    /// `Idempotency-Key`
    pub(crate) idempotency_key: Option<Bytes>,
    /// `User-Agent`, the first where it was sent several times
    pub(crate) user_agent: Option<Bytes>,
    /// `Host`, or the authority of a target in absolute-form
    pub(crate) host: Option<Bytes>,
    /// `X-Forwarded-For`, joined by commas where it was sent several times
    pub(crate) forwarded_for: Option<Bytes>,
}

/// The most header fields, whatever the limit in use: room on the stack, 8 KiB, never initialised.
pub(crate) const HEADERS_CAPACITY: usize = 256;

/// The longest request target accepted where tokens have no more than their usual length; RFC 9112 section 3 asks for 8000
/// bytes of request line at least.
pub(crate) const TARGET_BYTES_MAX: usize = 8 * 1024;

impl Head {
    /// Returns whether a body follows.
    pub(crate) fn has_body(&self) -> bool {
        self.body != BodyLength::None
    }

    /// Returns where the head at the front of `buf` ends, its blank line included; `None` when more bytes are needed.
    pub(super) fn end(
        buf: &[u8],
        scanned: &mut usize,
        limits: &HttpLimits,
    ) -> Result<Option<usize>, Refusal> {
        let window = buf.get(..limits.head_bytes_max).unwrap_or(buf);
        // The last two bytes searched may be the line end whose blank line arrived only now.
        let from = scanned.saturating_sub(2);
        for at in memchr::memchr_iter(b'\n', window.get(from..).unwrap_or_default()) {
            let next = from + at + 1;
            match window.get(next..) {
                Some([b'\n', ..]) => return Ok(Some(next + 1)),
                Some([b'\r', b'\n', ..]) => return Ok(Some(next + 2)),
                _ => {}
            }
        }
        *scanned = window.len();
        if buf.len() < limits.head_bytes_max {
            return Ok(None);
        }
        let bytes_max = limits.head_bytes_max;
        Err(if memchr::memchr(b'\n', window).is_none() {
            let reason = format!("the request line is too long: send at most {bytes_max} bytes");
            Refusal::closing(Status::UriTooLong, reason)
        } else {
            let reason = format!("the head is too large: send at most {bytes_max} bytes");
            Refusal::closing(Status::HeaderFieldsTooLarge, reason)
        })
    }

    /// Parses exactly one head, from its request line to its blank line. Every refusal closes the connection.
    pub(super) fn parse(bytes: &Bytes, limits: &HttpLimits) -> Result<Self, Refusal> {
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_CAPACITY];
        let room = room.get_mut(..limits.headers_max.min(HEADERS_CAPACITY)).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, room) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            // The search for the blank line and httparse disagree on where the head ends, so it is refused.
            Ok(_) => {
                return Err(malformed("malformed head: send one header field a line, then a blank line"));
            }
            Err(error) => {
                let known = if error == httparse::Error::Version { with_known_minor(bytes) } else { None };
                return match known {
                    Some(head) => Self::parse(&head, limits),
                    None => Err(refuse_syntax(error, bytes)),
                };
            }
        }
        let method = match request.method.unwrap_or_default() {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "QUERY" => Method::Query,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
        let fields = Fields::gather(request.headers)?;
        fields.check_host(version)?;
        let body = fields.body_length(version, limits)?;
        let expect_continue = fields.expect_continue(version)? && body != BodyLength::None;
        // Its target is another server's authority (RFC 9110 section 9.3.6).
        if request.method == Some("CONNECT") {
            let reason = "CONNECT is for proxies, and this is no proxy: send GET, HEAD, POST or OPTIONS";
            return Err(Refusal::closing(Status::NotImplemented, reason));
        }
        let (authority, path, query) =
            split_target(request.path.unwrap_or_default(), method, bytes, limits.target_bytes_max)?;
        let share = |value: Option<&[u8]>| value.map(|value| bytes.slice_ref(value));
        let join = |values: &[&[u8]], separator: &[u8]| match values {
            [] => None,
            [one] => share(Some(one)),
            several => Some(several.join(separator).into()),
        };
        Ok(Self {
            method,
            version,
            path,
            query,
            keep_alive: fields.keeps_alive(version),
            expect_continue,
            body,
            origin: share(fields.origin),
            accept: share(fields.accept),
            content_type: share(fields.content_type),
            content_encoding: share(fields.content_encoding),
            authorization: share(fields.authorization),
            cookie: join(&fields.cookie, b"; "),
            last_event_id: share(fields.last_event_id),
            idempotency_key: share(fields.idempotency_key),
            user_agent: share(fields.user_agent),
            // RFC 9112, section 3.2.2: the authority of an absolute-form overrides `Host`.
            host: authority.or_else(|| share(fields.host)),
            forwarded_for: join(&fields.forwarded_for, b","),
        })
    }

    /// Returns the `Origin` of a head that was refused, if its syntax is sound.
    pub(super) fn origin(bytes: &Bytes, limits: &HttpLimits) -> Option<Bytes> {
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_CAPACITY];
        let room = room.get_mut(..limits.headers_max.min(HEADERS_CAPACITY)).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        request.parse_with_uninit_headers(bytes, room).ok()?;
        let origin = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("origin"))?;
        Some(bytes.slice_ref(origin.value))
    }
}

// Written by hand, because query, authorization and cookie carry secrets that no log may show.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("version", &self.version)
            .field("path", &self.path)
            .field("keep_alive", &self.keep_alive)
            .field("expect_continue", &self.expect_continue)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// Returns the refusal of a body longer than the limit, in bytes.
pub(super) fn body_too_large(bytes_max: usize) -> Refusal {
    Refusal::closing(
        Status::ContentTooLarge,
        format!("the body is too large: send at most {bytes_max} bytes"),
    )
}

/// Returns a 400 that closes the connection.
pub(super) fn malformed(reason: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::closing(Status::BadRequest, reason)
}

/// Returns authority, raw path and query of a target in origin-form, absolute-form or asterisk-form (RFC 9112 section
/// 3.2).
fn split_target(
    target: &str,
    method: Method,
    head: &Bytes,
    bytes_max: usize,
) -> Result<(Option<Bytes>, Bytes, Bytes), Refusal> {
    if target.len() > bytes_max {
        let reason = format!("the request target is too long: send at most {bytes_max} bytes");
        return Err(Refusal::closing(Status::UriTooLong, reason));
    }
    if target.contains('#') {
        return Err(malformed("the request target has a fragment: leave out '#' and what follows"));
    }
    let share = |part: &str| head.slice_ref(part.as_bytes());
    if target == "*" && method == Method::Options {
        return Ok((None, share(target), Bytes::new()));
    }
    let (authority, local) = match target.starts_with('/') {
        true => (None, target),
        false => cut_authority(target).map(|(authority, local)| (Some(share(authority)), local))?,
    };
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    // An absolute-form's path may be empty, which means `/` (RFC 9110 section 4.2.3).
    let path = if path.is_empty() { Bytes::from_static(b"/") } else { share(path) };
    Ok((authority, path, share(query)))
}

/// Splits an absolute-form target into its authority and the rest.
fn cut_authority(target: &str) -> Result<(&str, &str), Refusal> {
    let refuse = || malformed("malformed request target: send a path which begins with '/'");
    let (scheme, rest) = target.split_once("://").ok_or_else(refuse)?;
    let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    // An authority that is empty or has user information is not valid in http (RFC 9110 sections 4.2.1 and 4.2.4).
    if known && !authority.is_empty() && is_authority(authority.as_bytes()) {
        Ok((authority, local))
    } else {
        Err(refuse())
    }
}

/// Returns whether all characters may be in `uri-host [ ":" port ]` (RFC 3986 section 3.2): no space, list or path.
pub(super) fn is_authority(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_~%!$&'()*+;=".contains(byte))
}

fn refuse_syntax(error: httparse::Error, head: &[u8]) -> Refusal {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => {
            Refusal::closing(Status::HeaderFieldsTooLarge, "too many header fields: send fewer")
        }
        Error::Version if names_another_version(head) => Refusal::closing(
            Status::VersionNotSupported,
            "this HTTP version is not spoken here: send HTTP/1.1 or HTTP/1.0",
        ),
        Error::HeaderName => malformed(
            "malformed header field: send 'name: value', without a space before the colon or a folded line",
        ),
        Error::HeaderValue => malformed("malformed header value: send no control characters"),
        Error::Token | Error::Version | Error::NewLine | Error::Status => {
            malformed("malformed request line: send 'METHOD /path HTTP/1.1', one space apart")
        }
    }
}

/// Returns the head as one of HTTP/1.1 if it is of a later minor version, which is served as that (RFC 9110 section 2.5);
/// `None` for any other.
fn with_known_minor(head: &[u8]) -> Option<Bytes> {
    let line = head.split(|&byte| byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (before, minor) = line.split_at_checked(line.len().checked_sub(1)?)?;
    let is_later = before.ends_with(b" HTTP/1.") && matches!(minor, [b'2'..=b'9']);
    is_later.then(|| [before, b"1", &head[line.len()..]].concat().into())
}

/// Returns whether the request line is sound except for its version (RFC 9112 section 2.3).
fn names_another_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut parts = line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
pub(super) mod tests;
