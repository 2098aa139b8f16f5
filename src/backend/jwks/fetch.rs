//! Fetches a JWK Set over HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::header::{ACCEPT, CACHE_CONTROL, LOCATION};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Error};

use super::FetchedDocument;
use crate::auth::{JWKS_BYTES_MAX, JwksUrl};

/// The longest that a request may take, with its redirects.
const TIME_MAX: Duration = Duration::from_secs(10);
/// The most redirects that are followed.
const REDIRECTS_MAX: usize = 3;
/// The most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Fetches the document at this URL.
///
/// # Errors
/// The provider gave no document: the reason in one line, with the remedy if there is one.
pub(super) fn document(url: &JwksUrl) -> Result<FetchedDocument, String> {
    let mut url = url.clone();
    let end = Instant::now() + TIME_MAX;
    for _ in 0..=REDIRECTS_MAX {
        let agent = agent(&url, end.saturating_duration_since(Instant::now()))?;
        let request = agent.get(url.as_str()).header(ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.call().map_err(|error| reason(&error))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            200 => {}
            301 | 302 | 303 | 307 | 308 => {
                url = url.redirected(header(LOCATION).unwrap_or_default())?;
                continue;
            }
            status => {
                return Err(format!(
                    "it answered {status}; give the jwks_uri of the provider's /.well-known/openid-configuration"
                ));
            }
        }
        let max_age = header(CACHE_CONTROL).and_then(max_age);
        let body = response.body_mut().with_config().limit(JWKS_BYTES_MAX as u64);
        let bytes = body.read_to_vec().map_err(|error| reason(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| "the document is not UTF-8")?;
        return Ok(FetchedDocument { text, max_age });
    }
    Err(format!("more than {REDIRECTS_MAX} redirects; give the URL that they lead to"))
}

/// Returns a client for one request of this URL, which trusts the authorities that the system has by now.
fn agent(url: &JwksUrl, time_max: Duration) -> Result<Agent, String> {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(time_max))
        .max_response_header_size(HEAD_BYTES_MAX)
        .max_idle_connections(0)
        .user_agent(concat!("esper/", env!("CARGO_PKG_VERSION")));
    if !url.is_https() {
        // To this machine, where no proxy is.
        return Ok(config.proxy(None).build().new_agent());
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "there are no certificates of authorities to verify it with{reason}; install ca-certificates, or name a PEM \
             file of them in SSL_CERT_FILE"
        ));
    }
    let roots = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(config.https_only(true).tls_config(tls).build().new_agent())
}

/// Returns the reason of a failure in one line.
fn reason(error: &Error) -> String {
    // A handshake's error comes within one of the connection.
    let of_connection = match error {
        Error::Io(error) => error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    if let Some(rustls::Error::InvalidCertificate(reason)) = of_connection {
        // webpki's word for what `openssl req -x509` makes.
        if reason.to_string().contains("CaUsedAsEndEntity") {
            return "its certificate is an authority's own (CA:TRUE), perhaps signed by itself; give the server one with \
                    CA:FALSE that this authority signed"
                .to_owned();
        }
        return format!(
            "its certificate is not good ({reason}); if it is of an authority of your own, add that to the system's, or \
             name a PEM file of all authorities in SSL_CERT_FILE"
        );
    }
    match error {
        Error::BodyExceedsLimit(_) => format!("the document is larger than {} KiB", JWKS_BYTES_MAX / 1024),
        Error::LargeResponseHeader(..) => "its answer has too large a head".to_owned(),
        Error::Timeout(_) => format!("no whole answer within {} s", TIME_MAX.as_secs()),
        Error::Io(error) => {
            let error = error.to_string().replace(['\r', '\n'], " ");
            format!("{error}; is the host of this URL right, and may this machine connect to it?")
        }
        error => error.to_string().replace(['\r', '\n'], " "),
    }
}

/// Returns how long a document may be kept (RFC 9111, section 5.2.2); `None` where its server does not say.
fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())?
    });
    let is_kept = !cache_control.split(',').any(|directive| {
        ["no-cache", "no-store"].iter().any(|name| directive.trim().eq_ignore_ascii_case(name))
    });
    seconds.filter(|_| is_kept).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_document_is_read_from_its_cache_control() {
        for (text, seconds) in [
            ("max-age=600", Some(600)),
            ("public, Max-Age=15, stale-while-revalidate=15", Some(15)),
            ("max-age=\"7\"", Some(7)),
            ("no-cache", None),
            ("max-age=600, no-store", None),
            ("s-maxage=5", None),
            ("max-age=-1", None),
            ("max-age", None),
            ("", None),
        ] {
            assert_eq!(max_age(text).map(|age| age.as_secs()), seconds, "{text}");
        }
    }
}
