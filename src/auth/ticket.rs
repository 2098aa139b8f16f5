//! Tickets: a subscriber's rights for a URL, which admit once and soon.
//!
//! An EventSource can send its token only in the URL, which proxies log. A ticket is worth nothing in a log: it admits one
//! stream, within [`ADMIT_S`] seconds of being made. An EventSource comes back with the same URL, so a ticket admits again
//! whoever shows an id of a stream that it opened: these end with a code that only the server can make.
//!
//! A ticket is a JSON Web Token with the claims of the token that it was made of, signed with a key of its own.

use std::collections::HashSet;
use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode};
use serde_json::json;
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

use super::{AuthError, Grant, Keys, Secret, SecretPair, Signers};
use crate::core::event_id::{CODE_SEPARATOR, TOPIC_SEPARATOR, has_our_form};
use crate::core::random::random_key;

/// The time after its creation in which a ticket opens a stream, in seconds.
pub(crate) const ADMIT_S: u64 = 30;
/// The most tickets that are remembered as used, for a minute or two: some 50 MB.
const USED_MAX: usize = 1_000_000;
/// The characters of an id's code: 66 bits.
const CODE_CHARS: usize = 11;

/// The keys that a server signs and verifies tickets with.
#[derive(Debug)]
pub(super) struct TicketKeys {
    /// Derived from the subscribers' secrets, so that all nodes which have those take each other's tickets. The current one
    /// signs.
    pair: SecretPair,
    keys: Keys,
}

/// A ticket that was verified, and is still to be admitted. `Debug` does not show its code.
#[derive(Eq, PartialEq)]
pub(crate) struct StreamTicket {
    pub(crate) grant: Grant,
    /// The code behind the ids of its streams, and that of the secret before, which is taken as well.
    codes: SmallVec<[Box<str>; 2]>,
    id: u128,
    /// Until when it admits a new stream, in Unix seconds.
    admits_until_s: u64,
}

impl StreamTicket {
    /// Returns the code behind the ids of its streams.
    pub(crate) fn code(&self) -> &str {
        self.codes.first().map_or("", |code| code)
    }
}

impl fmt::Debug for StreamTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamTicket").field("grant", &self.grant).finish_non_exhaustive()
    }
}

impl TicketKeys {
    /// Returns the keys that belong to the subscribers' secrets, or to `own`, which nobody else has.
    pub(super) fn new(subscriber: &Signers, own: &Secret) -> Option<Self> {
        let derived = |secret: &Secret| Secret::new(mac(secret, "esper ticket"));
        let pair = match &subscriber.secret {
            Some(SecretPair { current, previous }) => {
                SecretPair { current: derived(current)?, previous: previous.as_ref().and_then(derived) }
            }
            None => SecretPair { current: derived(own)?, previous: None },
        };
        let keys = Keys::new(&Signers { secret: Some(pair.clone()), ..Signers::default() }, 0)?;
        Some(TicketKeys { pair, keys })
    }

    /// Returns a ticket for what a token grants.
    pub(super) fn sign(&self, grant: &Grant, now_s: u64) -> Option<String> {
        let (sub, topics) = grant.subs.split_at(usize::from(grant.has_sub));
        let id = format!("{:032x}", u128::from_ne_bytes(random_key()));
        let mut claims = json!({
            "topics": topics, "exp": grant.expires_s, "jti": id, "admit": now_s.saturating_add(ADMIT_S),
        });
        if let [sub] = sub {
            claims["sub"] = json!(sub);
        }
        encode(&Header::default(), &claims, &EncodingKey::from_secret(self.pair.current.expose())).ok()
    }

    /// Verifies a ticket at `now_s`, in Unix seconds; whether it admits is still to be asked.
    ///
    /// # Errors
    /// As [`Keys::verify`].
    pub(super) fn verify(&self, ticket: &str, now_s: u64) -> Result<StreamTicket, AuthError> {
        let (grant, id, admits_until_s) = self.keys.verify_ticket(ticket, now_s)?;
        let secrets = [&self.pair.current].into_iter().chain(&self.pair.previous);
        let codes =
            secrets.map(|secret| mac(secret, &format!("id {id:032x}")).get(..CODE_CHARS).map(Box::from));
        let codes = codes.collect::<Option<_>>().ok_or(AuthError::Malformed)?;
        Ok(StreamTicket { grant, codes, id, admits_until_s })
    }
}

/// Returns the code of a text under a secret, in base64url.
fn mac(secret: &Secret, text: &str) -> String {
    // HS256 takes any secret and any text.
    crypto::sign(text.as_bytes(), &EncodingKey::from_secret(secret.expose()), Algorithm::HS256)
        .unwrap_or_default()
}

/// The tickets that were used lately; all shards share them.
#[derive(Debug)]
pub(crate) struct UsedTickets(Mutex<Generations>);

/// The ids of used tickets, those of the time before this one and of this one, each as long as a ticket may admit: so one
/// that is forgotten admits no more.
#[derive(Debug)]
struct Generations {
    before: HashSet<u128>,
    now: HashSet<u128>,
    since: Instant,
}

impl UsedTickets {
    /// Returns a memory of no ticket.
    pub(crate) fn new(now: Instant) -> Self {
        UsedTickets(Mutex::new(Generations { before: HashSet::new(), now: HashSet::new(), since: now }))
    }

    /// Admits a stream by a ticket: once, and after that whoever shows the id `resumed` of a stream that it opened. The
    /// clock of who made it may be `leeway_s` seconds from this one.
    ///
    /// # Errors
    /// [`AuthError::LateTicket`], [`AuthError::UsedTicket`], or [`AuthError::TooManyTickets`] where no more are remembered.
    pub(crate) fn admit(
        &self,
        ticket: &StreamTicket,
        resumed: Option<&[u8]>,
        (now, now_s, leeway_s): (Instant, u64, u64),
    ) -> Result<(), AuthError> {
        let is_shown =
            |shown: &[u8]| ticket.codes.iter().any(|code| bool::from(shown.ct_eq(code.as_bytes())));
        if resumed.and_then(code_in).is_some_and(is_shown) {
            return Ok(());
        }
        let (least, most) = (now_s.saturating_sub(leeway_s), now_s.saturating_add(ADMIT_S + leeway_s));
        if !(least..=most).contains(&ticket.admits_until_s) {
            return Err(AuthError::LateTicket);
        }
        // Nothing here panics; a poisoned set would be as good as before.
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = Duration::from_secs(ADMIT_S + 2 * leeway_s + 1);
        if now.duration_since(used.since) > generation {
            // Both are over when nobody came for so long.
            let is_over = now.duration_since(used.since) > 2 * generation;
            let latest = mem::take(&mut used.now);
            used.before = if is_over { HashSet::new() } else { latest };
            used.since = now;
        }
        if used.before.contains(&ticket.id) || used.now.contains(&ticket.id) {
            return Err(AuthError::UsedTicket);
        }
        if used.before.len() + used.now.len() >= USED_MAX {
            return Err(AuthError::TooManyTickets);
        }
        used.now.insert(ticket.id);
        Ok(())
    }
}

/// Returns the code behind an id of ours, if it has one.
fn code_in(id: &[u8]) -> Option<&[u8]> {
    let id = str::from_utf8(id).ok().filter(|id| has_our_form(id))?;
    let id = id.as_bytes().split(|byte| *byte == TOPIC_SEPARATOR).next()?;
    let start = id.iter().position(|byte| *byte == CODE_SEPARATOR)?;
    Some(&id[start + 1..])
}

#[cfg(test)]
mod tests {
    use super::super::mint::{self, Parties};
    use super::*;

    const NOW_S: u64 = 1_700_000_000;
    const PLACE: &str = "12345678901234567890-0.5";

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn keys(subscriber: Option<(&str, Option<&str>)>, own: &str) -> TicketKeys {
        let pair = subscriber.map(|(current, previous)| SecretPair {
            current: secret(current),
            previous: previous.map(secret),
        });
        let signers = Signers { secret: pair, ..Signers::default() };
        TicketKeys::new(&signers, &secret(own)).unwrap()
    }

    fn grant() -> Grant {
        let subs = ["ann", "pets/dogs"].map(str::to_owned).into_iter().collect();
        Grant { subs, has_sub: true, expires_s: NOW_S + 600 }
    }

    fn ticket() -> StreamTicket {
        let keys = keys(None, "own");
        keys.verify(&keys.sign(&grant(), NOW_S).unwrap(), NOW_S).unwrap()
    }

    #[test]
    fn a_ticket_grants_what_its_token_did_to_whoever_has_the_same_secret() {
        let signed = keys(Some(("secret", None)), "own").sign(&grant(), NOW_S).unwrap();
        for taken in [keys(Some(("secret", None)), "other"), keys(Some(("new", Some("secret"))), "other")] {
            let ticket = taken.verify(&signed, NOW_S + 599).unwrap();
            assert_eq!((ticket.grant, ticket.admits_until_s), (grant(), NOW_S + ADMIT_S));
            assert_eq!(taken.verify(&signed, NOW_S + 600), Err(AuthError::Expired));
        }
        for refused in [keys(Some(("new", None)), "own"), keys(None, "own")] {
            assert_eq!(refused.verify(&signed, NOW_S), Err(AuthError::Signature));
        }
        let own = keys(None, "own").sign(&grant(), NOW_S).unwrap();
        assert!(keys(None, "own").verify(&own, NOW_S).is_ok());
        assert_eq!(keys(None, "other").verify(&own, NOW_S), Err(AuthError::Signature));
    }

    #[test]
    fn a_token_is_no_ticket_and_a_ticket_no_token() {
        let pair = SecretPair { current: secret("secret"), previous: None };
        let tokens = Keys::new(&Signers { secret: Some(pair), ..Signers::default() }, 0).unwrap();
        let tickets = keys(Some(("secret", None)), "own");
        let token = mint::topics_token(&secret("secret"), &["*".to_owned()], NOW_S + 60, &Parties::default())
            .unwrap();
        assert_eq!(tickets.verify(&token, NOW_S), Err(AuthError::Signature));
        let ticket = tickets.sign(&grant(), NOW_S).unwrap();
        assert_eq!(tokens.verify(&ticket, NOW_S), Err(AuthError::Signature));
        // The right key alone makes no ticket either.
        let claims = json!({ "sub": "*", "exp": NOW_S + 60 });
        let key = EncodingKey::from_secret(tickets.pair.current.expose());
        let bare = encode(&Header::default(), &claims, &key).unwrap();
        assert_eq!(tickets.verify(&bare, NOW_S), Err(AuthError::Malformed));
    }

    #[test]
    fn a_ticket_admits_once_and_then_whoever_shows_its_code() {
        let start = Instant::now();
        let used = UsedTickets::new(start);
        let (one, other) = (ticket(), ticket());
        let at = (start, NOW_S, 0);
        let id = |code: &str| format!("{PLACE}~{code}@pets/dogs").into_bytes();
        assert_eq!(used.admit(&one, None, at), Ok(()));
        assert_eq!(used.admit(&one, None, at), Err(AuthError::UsedTicket));
        let code = one.code();
        assert_eq!(code.len(), CODE_CHARS);
        for wrong in [
            &id(other.code()),
            &id(""),
            &id(&code[1..]),
            &PLACE.as_bytes().to_vec(),
            &format!("own~{code}").into_bytes(),
        ] {
            assert_eq!(used.admit(&one, Some(wrong), at), Err(AuthError::UsedTicket));
        }
        let late = (start, NOW_S + 599, 0);
        for right in [id(code), format!("{PLACE}~{code}").into_bytes()] {
            assert_eq!(used.admit(&one, Some(&right), late), Ok(()));
        }
        // Someone else's ticket is not used up by that.
        assert_eq!(used.admit(&other, Some(&id(code)), at), Ok(()));
        assert_eq!(used.admit(&other, Some(&id(code)), at), Err(AuthError::UsedTicket));
    }

    #[test]
    fn a_code_is_taken_while_the_secret_is_being_changed() {
        let before = keys(Some(("old", None)), "own");
        let signed = before.sign(&grant(), NOW_S).unwrap();
        let code = before.verify(&signed, NOW_S).unwrap().code().to_owned();
        let ticket = keys(Some(("new", Some("old"))), "own").verify(&signed, NOW_S).unwrap();
        assert_ne!(ticket.code(), code);
        let start = Instant::now();
        for code in [&*code, ticket.code()] {
            let id = format!("{PLACE}~{code}").into_bytes();
            let late = (start, NOW_S + 300, 0);
            assert_eq!(UsedTickets::new(start).admit(&ticket, Some(&id), late), Ok(()));
        }
    }

    #[test]
    fn a_ticket_admits_for_thirty_seconds_give_or_take_the_leeway() {
        let start = Instant::now();
        for (leeway_s, now_s, admits) in [
            (0, NOW_S, true),
            (0, NOW_S + 30, true),
            (0, NOW_S + 31, false),
            (0, NOW_S - 1, false),
            (5, NOW_S + 35, true),
            (5, NOW_S + 36, false),
            (5, NOW_S - 5, true),
            (5, NOW_S - 6, false),
        ] {
            let admitted = UsedTickets::new(start).admit(&ticket(), None, (start, now_s, leeway_s));
            assert_eq!(admitted, if admits { Ok(()) } else { Err(AuthError::LateTicket) }, "{now_s}");
        }
    }

    #[test]
    fn a_used_ticket_is_remembered_as_long_as_it_may_admit_and_then_forgotten() {
        let start = Instant::now();
        let used = UsedTickets::new(start);
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        // Its clock is ahead by the whole leeway, so it admits for 40 seconds here.
        let ahead = StreamTicket { admits_until_s: NOW_S + ADMIT_S + 5, ..ticket() };
        for (came, again) in [(0, 40), (41, 81), (43, 83), (200, 240)] {
            let ticket = StreamTicket {
                id: u128::from(came) + 1,
                admits_until_s: ahead.admits_until_s + came,
                ..ticket()
            };
            assert_eq!(used.admit(&ticket, None, (after(came), NOW_S + came, 5)), Ok(()), "{came}");
            let admitted = used.admit(&ticket, None, (after(again), NOW_S + again, 5));
            assert_eq!(admitted, Err(AuthError::UsedTicket), "{came}");
        }
        let _ = used.admit(&ticket(), None, (after(1000), NOW_S, 5));
        let _ = used.admit(&ticket(), None, (after(1042), NOW_S, 5));
        let used = used.0.lock().unwrap();
        assert_eq!((used.before.len(), used.now.len()), (1, 1));
    }

    #[test]
    fn of_a_hundred_thousand_that_are_tried_twice_at_once_each_is_admitted_once() {
        let start = Instant::now();
        let (used, one) = (UsedTickets::new(start), ticket());
        let admitted = || {
            let tickets = (0..100_000).map(|id| StreamTicket {
                id,
                grant: one.grant.clone(),
                codes: SmallVec::new(),
                ..one
            });
            tickets
                .filter(|ticket| used.admit(ticket, None, (start, NOW_S, 0)).is_ok())
                .map(|ticket| ticket.id)
                .collect()
        };
        let both: [Vec<u128>; 2] = std::thread::scope(|scope| {
            [scope.spawn(admitted), scope.spawn(admitted)].map(|thread| thread.join().unwrap())
        });
        let mut all = both.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100_000));
    }

    #[test]
    fn no_more_tickets_are_remembered_than_the_limit() {
        let start = Instant::now();
        let used = UsedTickets::new(start);
        used.0.lock().unwrap().now.extend(0..USED_MAX as u128);
        assert_eq!(used.admit(&ticket(), None, (start, NOW_S, 0)), Err(AuthError::TooManyTickets));
    }
}
