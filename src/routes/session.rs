//! A session's stream: what is emitted to one user, and to all on a channel.

use smallvec::smallvec;

use super::public::last_event_id;
use super::{Action, Call, READ, Subscribe};
use crate::auth::SessionGrant;
use crate::http::{Refusal, Status};

/// What is said where there are none.
const OFF: &str = "there are no sessions; start the server with ESPER_SESSION_SECRET, --session-secret-file or \
                   --session-public-key";

impl Call<'_> {
    /// `GET /events/`.
    pub(super) fn events(&self) -> Result<Action, Refusal> {
        let Some(keys) = &self.keyring.session else { return Err(sessions_off()) };
        self.allow(&READ, || {
            let cookie_name = Some(self.access.cookie_name.as_str());
            let SessionGrant { session, expires_s } =
                self.with_token(cookie_name, |token| keys.verify_session(token, self.now_s))?;
            let hasher = &self.access.hasher;
            let (all, own) = (session.topic_of_all(hasher), session.topic(hasher));
            let topics = if own == all { smallvec![all] } else { smallvec![all, own] };
            Ok(Action::Subscribe(Subscribe { topics, last_event_id: last_event_id(self.head), expires_s }))
        })
    }
}

/// 404, with the mend.
pub(super) fn sessions_off() -> Refusal {
    Refusal::new(Status::NotFound, OFF)
}
