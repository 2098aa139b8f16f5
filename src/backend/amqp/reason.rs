//! The texts of brokers' errors, in one line without credentials.

use lapin::ErrorKind;

use crate::backend::BrokerUrl;

/// Adds a hint to the reason of a failed attempt to connect, where the URL is at fault.
pub(super) fn with_hint(said: String) -> String {
    let hints = [
        ("ACCESS_REFUSED", "the user or the password in its URL is wrong"),
        ("failed to parse", "this is not AMQP; write amqps:// if it speaks TLS"),
        ("InvalidContentType", "this is not TLS; write amqp:// if it speaks none"),
        ("invalid peer certificate", "name the file of who signs it in SSL_CERT_FILE"),
    ];
    match hints.iter().find(|(part, _)| said.contains(part)) {
        Some((_, hint)) => format!("{hint} ({said})"),
        None => said,
    }
}

/// The credentials to hide in brokers' answers.
pub(super) struct CredentialMask {
    /// In quotes, as RabbitMQ writes it.
    user: String,
    password: String,
}

impl CredentialMask {
    /// Returns the mask of a URL's credentials.
    pub(super) fn of(url: &BrokerUrl) -> Self {
        let user = &url.uri().authority.userinfo;
        Self { user: format!("'{}'", user.username), password: user.password.clone() }
    }

    /// Returns the text of a broker's or lapin's error: one line of visible ASCII, without credentials.
    pub(super) fn reason(&self, error: &lapin::Error) -> String {
        let said = match error.kind() {
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            ErrorKind::IOError(error) => error.to_string(),
            _ => error.to_string(),
        };
        self.masked(&said)
    }

    fn masked(&self, said: &str) -> String {
        const CHARACTERS_MAX: usize = 200;
        let mut said = said.replace(&self.user, "'***'");
        // A shorter password would match within words, and hiding it would reveal it.
        if self.password.len() >= 4 {
            said = said.replace(&self.password, "***");
        }
        said.chars()
            .take(CHARACTERS_MAX)
            .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_words_are_one_line_without_credentials() {
        let url: BrokerUrl = "amqp://rabbit:hunter2@localhost/".parse().unwrap();
        let mask = CredentialMask::of(&url);
        assert_eq!(
            mask.masked(
                "ACCESS_REFUSED - access to queue 'rabbit ears' refused for user 'rabbit'\r\nhunter2 \u{e9}"
            ),
            "ACCESS_REFUSED - access to queue 'rabbit ears' refused for user '***'??*** ?"
        );
        assert_eq!(mask.masked(&"x".repeat(5000)).len(), 200);
    }

    #[test]
    fn an_attempt_that_cannot_succeed_says_what_of_the_url_to_change() {
        for (said, part) in [
            (
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
                "user or the password",
            ),
            ("failed to parse: Parsing Error", "write amqps://"),
            ("received corrupt message of type InvalidContentType", "write amqp://"),
            ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ] {
            let told = with_hint(said.to_owned());
            assert!(told.contains(part) && told.contains(said), "{told}");
        }
        assert_eq!(with_hint("Connection refused".to_owned()), "Connection refused");
    }
}
