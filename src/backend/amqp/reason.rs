//! What a broker's errors say, in one line that shows no credentials.

use lapin::ErrorKind;

use crate::config::BrokerTarget;

/// Adds to why an attempt to connect failed what to change in the URL, where it is the URL's fault.
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

/// What must not be shown of a broker's answers.
pub(super) struct CredentialMask {
    /// As RabbitMQ quotes it.
    user: String,
    password: String,
}

impl CredentialMask {
    /// Returns that of a URL's credentials.
    pub(super) fn of(target: &BrokerTarget) -> Self {
        Self { user: format!("'{}'", target.user), password: target.password.clone() }
    }

    /// Returns what a broker's or lapin's error says: one line of visible ASCII, without credentials.
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
        // A shorter one would be found in words as well, and tell more than it hides.
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
    use crate::config::BrokerUrl;

    #[test]
    fn a_brokers_words_are_one_line_without_credentials() {
        let url: BrokerUrl = "amqp://rabbit:hunter2@localhost/".parse().unwrap();
        let mask = CredentialMask::of(url.target());
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
