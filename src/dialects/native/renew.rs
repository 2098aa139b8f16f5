//! Renewal: a newer token moves the end of an open stream, which need not be opened anew.

use std::sync::Arc;

use super::check_covered;
use super::subscribe::AskedTopics;
use crate::auth::Grant;
use crate::core::renewal::{RenewableStream, Rights};
use crate::dialects::call::Call;
use crate::dialects::{Access, Action, bad_request};
use crate::http::{Refusal, Response, Status, target};

/// Returns the entry of a stream that its client gave a handle.
pub(super) fn renewable(
    access: &Access,
    handle: &str,
    grant: &Grant,
    topics: &AskedTopics,
) -> Arc<RenewableStream> {
    access.renewable.add(handle, rights(access, grant), topics.clone(), grant.expires_s)
}

fn rights(access: &Access, grant: &Grant) -> Rights {
    let digest = |text: &str| access.names.hasher().hash(text);
    Rights { subject: digest(grant.subject()), topics: grant.names().map(digest).collect() }
}

impl Call<'_> {
    /// Moves the end of the stream with this handle to that of the token, and returns the answer with its end.
    ///
    /// # Errors
    /// 400 without a handle; 401 for a bad token; 403 for one for more topics; 404 when its subject has no such stream open
    /// here.
    pub(super) fn renew(&self) -> Result<Action, Refusal> {
        let Some(keys) = &self.keyring.subscriber else {
            let reason = "streams need no token here, and none expires; there is nothing to renew";
            return Err(Refusal::new(Status::NotFound, reason));
        };
        let grant = self.verify(keys, None)?;
        let handle = target::query_value(&self.head.query, "handle")?;
        let Some(handle) = handle else {
            return Err(bad_request("no handle: name the stream as /renew?handle=..., as it was opened"));
        };
        let gone = || {
            let reason = "no stream of this subject with this handle is open here: it has ended, or another node has it";
            Refusal::new(Status::NotFound, reason)
        };
        let now = rights(self.access, &grant);
        let stream = self.access.renewable.find(now.subject, &handle).ok_or_else(gone)?;
        let before = &stream.rights;
        let all = self.access.names.hasher().hash("*");
        if !before.topics.contains(&all) && !now.topics.iter().all(|topic| before.topics.contains(topic)) {
            let reason = "this token names topics that the stream's did not: open a new stream with it";
            return Err(Refusal::new(Status::Forbidden, reason));
        }
        check_covered(&grant, &stream.topics)?;
        let expires_s = stream.renew(grant.expires_s).ok_or_else(gone)?;
        let json = serde_json::json!({ "expires_at": expires_s });
        Ok(Action::Answer(Response::json(json.to_string().into_bytes())))
    }
}
