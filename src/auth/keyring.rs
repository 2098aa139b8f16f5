//! The keys and secrets in force, which can be reloaded without a restart.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::mint::Parties;
use super::ticket::TicketKeys;
use super::{AuthError, Grant, KeyProvider, Keys, PublicKey, Secret, Signers, StreamTicket};

/// All that a keyring is made of.
#[derive(Debug)]
pub(crate) struct KeySources {
    /// Not set if anybody may subscribe and publish; sessions need their tokens all the same, which say who a user is.
    pub(crate) enabled: bool,
    pub(crate) subscriber: Signers,
    pub(crate) publisher: Signers,
    pub(crate) session: Signers,
    /// The leeway for the times of tokens, in seconds.
    pub(crate) leeway_s: u64,
    /// The longest token that is read.
    pub(crate) token_bytes_max: usize,
    /// For tickets where subscribers have public keys alone; no other node has it.
    pub(crate) own_secret: Secret,
    pub(crate) control_token: Option<Secret>,
    /// The providers of all URLs among the signers, each with the keys that were last fetched.
    pub(crate) fetched: Vec<(Arc<KeyProvider>, Vec<PublicKey>)>,
}

impl KeySources {
    /// Returns the keys of these signers; `None` where there are none.
    fn keys(&self, signers: &Signers) -> Option<Keys> {
        let keys = Keys::new(signers, self.leeway_s)?.up_to(self.token_bytes_max);
        let url = signers.jwks_url.as_ref();
        let fetched = self.fetched.iter().find(|(provider, _)| Some(&provider.url) == url);
        Some(match fetched {
            Some((provider, public_keys)) => keys.with_fetched(provider, public_keys),
            None => keys,
        })
    }

    /// Returns the sides whose tokens are asked for, by the prefix of their flags.
    pub(crate) fn sides(&self) -> impl Iterator<Item = (&'static str, &Signers)> {
        let sides = [
            ("subscriber", &self.subscriber, self.enabled),
            ("publisher", &self.publisher, self.enabled),
            ("session", &self.session, true),
        ];
        sides.into_iter().filter(|(.., is_asked)| *is_asked).map(|(side, signers, _)| (side, signers))
    }
}

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
    /// The secret that session tokens are minted with, and whom these name.
    pub(crate) session_mint: Option<(Secret, Parties)>,
    /// Set if verifying a token may take long: up to 0.5 ms for each public key.
    pub(crate) has_public_keys: bool,
    /// Keys of tickets; `None` when anybody may subscribe.
    tickets: Option<TicketKeys>,
    control_token: Option<Secret>,
}

impl Keyring {
    /// Returns the keyring of these sources.
    pub(crate) fn new(sources: &KeySources) -> Self {
        let KeySources { enabled, subscriber, publisher, session, own_secret, control_token, .. } = sources;
        let keys = |signers: &Signers| sources.keys(signers).filter(|_| *enabled);
        let subscriber_keys = keys(subscriber);
        let is_needed = subscriber_keys.is_some();
        let session_secret = session.secret.as_ref().map(|pair| pair.current.clone());
        Keyring {
            tickets: is_needed.then(|| TicketKeys::new(subscriber, own_secret)).flatten(),
            subscriber: subscriber_keys,
            publisher: keys(publisher),
            session: sources.keys(session),
            session_mint: session_secret.map(|secret| (secret, Parties::of(session))),
            has_public_keys: [subscriber, publisher, session]
                .iter()
                .any(|signers| !signers.public_keys.is_empty() || signers.jwks_url.is_some()),
            control_token: control_token.clone(),
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
