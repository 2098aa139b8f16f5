//! The keys and secrets in force: read anew without a restart.

use subtle::ConstantTimeEq;

use super::Keys;
use crate::config::{Auth, Config, Secret, Signers};

/// Everything that is secret, or says who is let in. `Debug` shows nothing of it.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// What a subscriber's token must be signed with; none when anybody may subscribe.
    pub(crate) subscriber: Option<Keys>,
    /// The same for publishing, and for what shows the broker from inside.
    pub(crate) publisher: Option<Keys>,
    /// The same for sessions; none when there are none.
    pub(crate) session: Option<Keys>,
    /// What session tokens are minted with.
    pub(crate) session_secret: Option<Secret>,
    /// Whether some tokens take long to verify: up to 0.5 ms for each public key.
    pub(crate) has_public_keys: bool,
    control_token: Option<Secret>,
}

impl Keyring {
    pub(crate) fn new(config: &Config) -> Self {
        let Auth { enabled, subscriber, publisher, session, .. } = &config.auth;
        let keys = |signers: &Signers| Keys::new(signers).filter(|_| *enabled);
        Keyring {
            subscriber: keys(subscriber),
            publisher: keys(publisher),
            // A session token says who its user is, so none is ever done without.
            session: Keys::new(session),
            session_secret: session.secret.as_ref().map(|pair| pair.current.clone()),
            has_public_keys: [subscriber, publisher, session]
                .iter()
                .any(|signers| !signers.public_keys.is_empty()),
            control_token: config.control.as_ref().and_then(|control| control.token.clone()),
        }
    }

    /// Whether the control port asks for a token.
    pub(crate) fn has_control_token(&self) -> bool {
        self.control_token.is_some()
    }

    /// Whether this is the control port's token. Takes as long for a wrong one of its length as for the right one.
    pub(crate) fn is_control_token(&self, token: &[u8]) -> bool {
        self.control_token.as_ref().is_some_and(|secret| bool::from(secret.expose().ct_eq(token)))
    }
}
