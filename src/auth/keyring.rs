//! The keys and secrets in force, which can be reloaded without a restart.

use subtle::ConstantTimeEq;

use super::ticket::TicketKeys;
use super::{AuthError, Grant, Keys, Secret, Signers, StreamTicket};

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
    /// Keys of tickets; `None` when anybody may subscribe.
    tickets: Option<TicketKeys>,
    control_token: Option<Secret>,
}

impl Keyring {
    /// Returns the keyring of these signers, whose tokens' times have this leeway, and of the control port's token. When not
    /// `enabled`, anybody may subscribe and publish; sessions need their tokens all the same, which say who a user is.
    /// `own_secret` is for tickets where subscribers have public keys alone.
    pub(crate) fn new(
        enabled: bool,
        subscriber: &Signers,
        publisher: &Signers,
        session: &Signers,
        leeway_s: u64,
        own_secret: &Secret,
        control_token: Option<&Secret>,
    ) -> Self {
        let keys = |signers: &Signers| Keys::new(signers, leeway_s).filter(|_| enabled);
        let subscriber_keys = keys(subscriber);
        let is_needed = subscriber_keys.is_some();
        Keyring {
            tickets: is_needed.then(|| TicketKeys::new(subscriber, own_secret)).flatten(),
            subscriber: subscriber_keys,
            publisher: keys(publisher),
            session: Keys::new(session, leeway_s),
            session_secret: session.secret.as_ref().map(|pair| pair.current.clone()),
            has_public_keys: [subscriber, publisher, session]
                .iter()
                .any(|signers| !signers.public_keys.is_empty()),
            control_token: control_token.cloned(),
        }
    }

    /// Returns a ticket for what a subscriber's token grants; `None` where subscribers need none.
    pub(crate) fn sign_ticket(&self, grant: &Grant, now_s: u64) -> Option<String> {
        self.tickets.as_ref()?.sign(grant, now_s)
    }

    /// Verifies a ticket at `now_s`, in Unix seconds.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    pub(crate) fn verify_ticket(&self, ticket: &str, now_s: u64) -> Result<StreamTicket, AuthError> {
        self.tickets.as_ref().ok_or(AuthError::Missing)?.verify(ticket, now_s)
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
