//! Where a request carries its token.

use std::borrow::Cow;

use super::AuthError;

/// The token of a request: of `?token=` first, then of `Authorization: Bearer` (the scheme in any case, RFC
/// 9110 11.1), then of the cookie with the name given. The cookie's argument is the `Cookie` header's value
/// and the name; `None` where cookies are not taken.
///
/// The first one found is the token, whatever the others are, so a wrong one in the query is not mended by a
/// right cookie. An empty one counts as none, and another scheme of `Authorization`, such as a proxy's
/// `Basic`, too.
///
/// # Errors
/// [`AuthError::Missing`] without a token, [`AuthError::Malformed`] when the one found is not UTF-8.
pub(crate) fn token<'a>(
    query_token: Option<Cow<'a, str>>,
    authorization: Option<&'a [u8]>,
    cookie: Option<(&'a [u8], &str)>,
) -> Result<Cow<'a, str>, AuthError> {
    if let Some(token) = query_token.filter(|token| !token.is_empty()) {
        return Ok(token);
    }
    authorization
        .and_then(bearer)
        .or_else(|| cookie.and_then(|(header, name)| cookie_value(header, name)))
        .ok_or(AuthError::Missing)
        .and_then(|token| str::from_utf8(token).map_err(|_| AuthError::Malformed))
        .map(Cow::Borrowed)
}

/// The credentials of the `Bearer` scheme (RFC 6750 2.1).
pub(crate) fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let authorization = authorization.trim_ascii();
    let (scheme, credentials) = authorization.split_at_checked("Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !credentials.starts_with(b" ") {
        return None;
    }
    Some(credentials.trim_ascii()).filter(|token| !token.is_empty())
}

/// The first non-empty cookie of this name (RFC 6265 4.2.1), without the quotes a value may have.
pub(crate) fn cookie_value<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some(value).filter(|token| !token.is_empty())
    })
}
