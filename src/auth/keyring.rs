//! The keys and secrets in force, which can be reloaded without a restart.

use subtle::ConstantTimeEq;

use super::{Keys, Secret, Signers};

/// All keys and secrets of a server, replaced as a whole on reload; [`Access`](crate::dialects::Access) owns it.
/// `Debug` shows none of them.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// Keys for subscribers' tokens; `None` when anybody may subscribe.
    pub(crate) subscriber: Option<Keys>,
    /// Keys for publishing and for the inside views; `None` when anybody may.
    pub(crate) publisher: Option<Keys>,
    /// Keys for session tokens; `None` when there are no sessions.
    pub(crate) session: Option<Keys>,
    /// The secret that session tokens are minted with.
    pub(crate) session_secret: Option<Secret>,
    /// Set if verifying a token may take long: up to 0.5 ms for each public key.
    pub(crate) has_public_keys: bool,
    control_token: Option<Secret>,
}

impl Keyring {
    /// Returns the keyring of these signers, whose tokens' times have this leeway, and of the control port's token. When not `enabled`, anybody may subscribe
    /// and publish; sessions need their tokens all the same, which say who a user is.
    pub(crate) fn new(
        enabled: bool,
        subscriber: &Signers,
        publisher: &Signers,
        session: &Signers,
        leeway_s: u64,
        control_token: Option<&Secret>,
    ) -> Self {
        let keys = |signers: &Signers| Keys::new(signers, leeway_s).filter(|_| enabled);
        Keyring {
            subscriber: keys(subscriber),
            publisher: keys(publisher),
            session: Keys::new(session, leeway_s),
            session_secret: session.secret.as_ref().map(|pair| pair.current.clone()),
            has_public_keys: [subscriber, publisher, session]
                .iter()
                .any(|signers| !signers.public_keys.is_empty()),
            control_token: control_token.cloned(),
        }
    }

    /// Returns whether the control port asks for a token.
    pub(crate) fn has_control_token(&self) -> bool {
        self.control_token.is_some()
    }

    /// Returns whether this is the control port's token. A wrong token of the same length takes as long as the right
    /// one.
    pub(crate) fn is_control_token(&self, token: &[u8]) -> bool {
        self.control_token.as_ref().is_some_and(|secret| bool::from(secret.expose().ct_eq(token)))
    }
}
