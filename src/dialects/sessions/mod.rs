//! The sessions interface: a user's stream on a channel, and the control port's commands.

mod command;
mod fields;

use std::borrow::Cow;

use smallvec::smallvec;

pub(crate) use command::{Command, CommandEffect};

use self::command::Task;
use super::admin::Question;
use super::call::{Call, READ, WRITE};
use super::form::Form;
use super::native::{IdempotencyKey, SubscribeOptions};
use super::{Access, Action, Port, bad_request};
use crate::auth::SessionGrant;
use crate::core::fanout::StreamExtras;
use crate::core::session::{ALL, Session};
use crate::http::{Refusal, Status, target};

/// Paths that only the control port serves.
const CONTROL_PATHS: [&str; 4] =
    ["POST /token/", "POST /emit/", "GET /sessions/?channel={channel}", "POST /disconnect/"];
/// The reason of a 404 when sessions are off.
const OFF: &str = "there are no sessions; start the server with ESPER_SESSION_SECRET, --session-secret-file, \
                   --session-public-key or --session-jwks";

/// Returns the action for `/events/` and for the control port's paths.
pub(super) fn route(call: &Call<'_>) -> Option<Result<Action, Refusal>> {
    let ([] | [b""]) = call.rest else { return None };
    if call.first == b"events" {
        return Some(call.events());
    }
    if call.port != Port::Control {
        return None;
    }
    let task = match call.first {
        b"token" => Some(Task::token(call.head)),
        b"emit" => Some(Task::Emit),
        b"disconnect" => Some(Task::Disconnect),
        b"sessions" => None,
        _ => return None,
    };
    Some(call.control(task))
}

pub(super) fn paths(call: &Call<'_>, paths: &mut Vec<Cow<'static, str>>) {
    if call.keyring.session.is_some() {
        paths.push("GET /events/".into());
    }
    if call.port == Port::Control {
        paths.extend(CONTROL_PATHS.map(Cow::Borrowed));
    }
}

impl Call<'_> {
    /// Returns the stream of the user that the token names: events for this user, and for all on the channel.
    fn events(&self) -> Result<Action, Refusal> {
        let Some(keys) = &self.keyring.session else { return Err(sessions_off()) };
        self.allow(&READ, || {
            let cookie_name = Some(self.access.cookie_name.as_str());
            let grant = self.with_token(cookie_name, |token| keys.verify_session(token, (self.now_s)()));
            let SessionGrant { session, expires_s } = match grant {
                Ok(grant) => grant,
                Err(refusal) => return self.refuse_stream(refusal),
            };
            let hasher = self.access.names.hasher();
            let (all, own) = (session.topic_of_all(hasher), session.topic(hasher));
            let topics = if own == all { smallvec![all] } else { smallvec![all, own] };
            let options = SubscribeOptions::of(self.head)?;
            if options.names_topics || options.handle.is_some() {
                return Err(bad_request("a session's stream takes no with and no handle: leave them out"));
            }
            Ok(Action::Subscribe(options.subscribe(topics, expires_s, StreamExtras::default())))
        })
    }

    /// Returns a command of the control port; without a task, the question who is connected.
    fn control(&self, task: Option<Task>) -> Result<Action, Refusal> {
        if self.keyring.session.is_none() {
            return Err(sessions_off());
        }
        let Some(task) = task else {
            return self.allow(&READ, || {
                let mut channels = target::query_values(&self.head.query, "channel");
                let channel = channels.next().transpose()?.unwrap_or_default();
                if channels.next().is_some() {
                    return Err(bad_request("channel is there twice: send it once"));
                }
                let session = Session::new(ALL, &channel).map_err(|error| bad_request(error.to_string()))?;
                Ok(Action::Ask(Question::Sessions { channel: session.topic(self.access.names.hasher()) }))
            });
        };
        self.allow(&WRITE, || {
            self.check_encoding()?;
            Ok(Action::Command(Command::new(task, self.head)?))
        })
    }
}

/// Returns 404 with the remedy.
fn sessions_off() -> Refusal {
    Refusal::new(Status::NotFound, OFF)
}
