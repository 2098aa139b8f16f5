//! Access to the control port.

use super::admin::{is_fixed_name, without_port};
use super::call::Call;
use super::unauthorized;
use crate::auth;
use crate::http::{Head, Method, Refusal, Status, target};

/// Checks that a request may use the control port; returns whether it showed the control port's token.
///
/// A browser on this machine reaches the port, and so does any page open in it. Such a page has another origin, which
/// the browser sends, or its name was pointed at this address (DNS rebinding), and then the request's `Host` is that
/// name.
///
/// # Errors
/// 403 for a page of another origin or an unknown host, 401 without the token where one is required.
pub(super) fn enter(call: &Call<'_>) -> Result<bool, Refusal> {
    let Call { head, access, keyring, .. } = call;
    let forbidden = |reason: &'static str| Err(Refusal::new(Status::Forbidden, reason));
    let hosts = access.control_hosts.as_deref().unwrap_or_default();
    if head.host.as_deref().is_some_and(|host| !is_known(host, hosts)) {
        return forbidden(
            "the control port is not known by this name: ask for it by its address or as localhost, or name it \
             with --control-host",
        );
    }
    if head.origin.as_deref().is_some_and(|origin| !is_same(origin, head.host.as_deref())) {
        return forbidden("the control port is not for pages of other origins: call it from a program");
    }
    if !keyring.has_control_token() {
        return Ok(false);
    }
    let query = target::query_value(&head.query, "token")?;
    let shown =
        [auth::token(None, head.authorization.as_deref(), None).ok(), auth::token(query, None, None).ok()];
    let is_operator = shown.iter().flatten().any(|token| keyring.is_control_token(token.as_bytes()));
    if !is_operator && !is_for_all(head) {
        let reason = "no control token: send the one of --control-token-file as Authorization: Bearer ...";
        return Err(unauthorized(reason.to_owned()));
    }
    Ok(is_operator)
}

/// Returns whether the request needs no token: the admin page holds no data and asks for the token itself, and health
/// is no secret.
fn is_for_all(head: &Head) -> bool {
    matches!(&head.path[..], b"/admin" | b"/admin/" | b"/healthz" | b"/readyz")
        && matches!(head.method, Method::Get | Method::Head)
}

/// Returns whether the `Host` is one that nobody can point elsewhere, or a configured name.
fn is_known(host: &[u8], hosts: &[String]) -> bool {
    is_fixed_name(host) || hosts.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(without_port(host)))
}

/// Returns whether the page that sent the request came from this host.
fn is_same(origin: &[u8], host: Option<&[u8]>) -> bool {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Control, Secret, SecretPair};
    use crate::dialects::tests::{head, names};
    use crate::dialects::{Access, Port, route};

    const NOW_S: u64 = 1_700_000_000;

    /// Returns the access of a server with sessions and a control port that asks for this token.
    fn access(token: Option<&str>) -> Access {
        let mut config = Config {
            control: Some(Control {
                bind: "127.0.0.1:0".parse().unwrap(),
                hosts: vec!["esper.internal".to_owned()],
                token: token.and_then(Secret::new),
                public_publish: false,
            }),
            ..Config::default()
        };
        let pair = |text: &str| Some(SecretPair { current: Secret::new(text).unwrap(), previous: None });
        config.auth.session.secret = pair("a secret for sessions");
        config.auth.publisher.secret = pair("a secret for publishers");
        Access::new(&config, names(&config))
    }

    /// Returns the status of the answer to this head, 200 when it is let in.
    fn status(head: &Head, port: Port, access: &Access) -> u16 {
        route(head, port, access, || NOW_S).map_or_else(|refusal| refusal.status.code(), |_| 200)
    }

    #[test]
    fn a_page_of_another_origin_and_an_unknown_host_are_refused() {
        let access = access(None);
        for (host, origin, expected) in [
            (None, None, 200),
            (Some("127.0.0.1:8001"), None, 200),
            (Some("localhost"), Some("http://localhost"), 200),
            (Some("[::1]:8001"), Some("http://[::1]:8001"), 200),
            (Some("esper.internal"), Some("https://ESPER.internal"), 200),
            (Some("Esper.Internal:8001"), None, 200),
            (Some("esper.internal:80x"), None, 403),
            (Some("other.internal"), None, 403),
            (Some("127.0.0.1.evil.example"), None, 403),
            (Some("evil.example:8001"), Some("http://evil.example:8001"), 403),
            (Some("127.0.0.1:8001"), Some("http://127.0.0.1:3000"), 403),
            (Some("127.0.0.1:8001"), Some("http://evil.example"), 403),
            (Some("127.0.0.1:8001"), Some("null"), 403),
            (Some("127.0.0.1:8001"), Some("127.0.0.1:8001"), 403),
            (None, Some("http://127.0.0.1"), 403),
        ] {
            for method in [Method::Post, Method::Options] {
                let mut head = head(method, "/token/");
                head.host = host.map(|host| host.as_bytes().to_vec().into());
                head.origin = origin.map(|origin| origin.as_bytes().to_vec().into());
                assert_eq!(status(&head, Port::Control, &access), expected, "{method:?} {host:?} {origin:?}");
            }
        }
    }

    #[test]
    fn the_token_is_asked_for_on_all_but_the_page_and_opens_all() {
        let access = access(Some("the operators token"));
        let paths = [
            "/stats",
            "/metrics",
            "/debug/vars",
            "/admin/status.json",
            "/admin/events",
            "/sessions/?channel=c",
            "/subscribe/abcdefgh",
        ];
        for path in paths.into_iter().chain(["/nowhere", "/admin/", "/healthz"]) {
            let open = matches!(path, "/admin/" | "/healthz");
            let right = if path == "/nowhere" { 404 } else { 200 };
            let mut head = head(Method::Get, path);
            assert_eq!(status(&head, Port::Control, &access), if open { 200 } else { 401 }, "{path}");
            head.authorization = Some("Bearer the operators tokem".into());
            assert_eq!(status(&head, Port::Control, &access), if open { 200 } else { 401 }, "{path}");
            head.authorization = Some("Bearer the operators token".into());
            assert_eq!(status(&head, Port::Control, &access), right, "{path}");
            head.authorization = None;
            head.query = [&head.query[..], b"&token=the+operators+token"].concat().into();
            assert_eq!(status(&head, Port::Control, &access), right, "{path}");
        }
    }

    #[test]
    fn the_public_port_has_neither_control_nor_what_is_inside() {
        let access = access(None);
        let unknown = route(&head(Method::Get, "/nowhere"), Port::Public, &access, || NOW_S).unwrap_err();
        for (method, path) in [
            (Method::Post, "/token/"),
            (Method::Options, "/token"),
            (Method::Post, "/emit/"),
            (Method::Post, "/disconnect/"),
            (Method::Get, "/sessions/?channel=c"),
            (Method::Post, "/publish/abcdefgh"),
            (Method::Get, "/stats"),
            (Method::Get, "/metrics"),
            (Method::Get, "/debug/vars"),
            (Method::Get, "/admin/"),
            (Method::Get, "/admin/events"),
        ] {
            assert_eq!(
                route(&head(method, path), Port::Public, &access, || NOW_S).unwrap_err(),
                unknown,
                "{path}"
            );
        }
        for word in ["token", "emit", "publish", "stats", "debug", "admin"] {
            assert!(!unknown.reason.contains(word), "{unknown}");
        }
    }
}
