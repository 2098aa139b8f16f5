//! Finds the token of a request.

use std::borrow::Cow;

use super::AuthError;

/// Returns the token of a request: of `?token=` first, then of `Authorization: Bearer` (the scheme in any case, RFC
/// 9110, section 11.1), then of the cookie. `cookie` is the value of the `Cookie` header and the cookie's name; `None`
/// where cookies are not accepted.
///
/// The first one found is used, so a wrong token in the query is not replaced by a right cookie. An empty token counts
/// as none, and so does another scheme of `Authorization`, such as a proxy's `Basic`.
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

/// Returns the credentials of the `Bearer` scheme (RFC 6750, section 2.1).
pub(crate) fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let authorization = authorization.trim_ascii();
    let (scheme, credentials) = authorization.split_at_checked("Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !credentials.starts_with(b" ") {
        return None;
    }
    Some(credentials.trim_ascii()).filter(|token| !token.is_empty())
}

/// Returns the first non-empty cookie of this name (RFC 6265, section 4.2.1), without the quotes a value may have.
pub(crate) fn cookie_value<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some(value).filter(|token| !token.is_empty())
    })
}
