//! Tickets for pages, whose EventSource can send what it may do only in a URL.

use super::subscribe::topics_in_query;
use crate::auth::{ADMIT_S, Grant};
use crate::dialects::call::Call;
use crate::dialects::form::seconds;
use crate::dialects::{Action, Port, bad_request};
use crate::http::{Refusal, Response, Status, target};

/// The longest ticket, in bytes: a request's target has at most 8 KiB.
const TICKET_BYTES_MAX: usize = 7 << 10;

impl Call<'_> {
    /// Returns the answer with a new ticket: for what a subscriber's token grants, or, on the control port, for the topics of
    /// the query.
    ///
    /// # Errors
    /// 400 for bad topics; 401 for a bad token; 404 where subscribers need none.
    pub(super) fn ticket(&self) -> Result<Action, Refusal> {
        let Some(keys) = &self.keyring.subscriber else {
            let reason = "subscribers need no token here, and no ticket; set ESPER_SUBSCRIBER_SECRET, --subscriber-public-key or --subscriber-jwks";
            return Err(Refusal::new(Status::NotFound, reason));
        };
        let grant = match self.port == Port::Control && target::query_has(&self.head.query, "topic") {
            true => self.grant_in_query()?,
            false => self.verify(keys, None)?,
        };
        let now_s = (self.now_s)();
        let ticket = self.keyring.sign_ticket(&grant, now_s);
        let ticket =
            ticket.ok_or_else(|| Refusal::unavailable("the ticket could not be signed; try again"))?;
        if ticket.len() > TICKET_BYTES_MAX {
            return Err(bad_request(
                "this token is too long for a ticket, which must fit into a URL: leave out topics",
            ));
        }
        let json = serde_json::json!({ "ticket": ticket, "expires_at": now_s.saturating_add(ADMIT_S) });
        Ok(Action::Answer(Response::json(json.to_string().into_bytes())))
    }

    /// Returns the rights that the control port's query names.
    fn grant_in_query(&self) -> Result<Grant, Refusal> {
        let (query, access) = (&self.head.query, self.access);
        let topics = match target::query_value(query, "topic")?.as_deref() {
            Some("*") => vec!["*".to_owned()],
            _ => topics_in_query(query, access)?.iter().map(|topic| topic.name().to_owned()).collect(),
        };
        let exp = target::query_value(query, "exp")?;
        let asked = exp.map(|exp| seconds("exp", exp.as_bytes(), access.session_s_max)).transpose()?;
        let stream_s = access.lifetime_s(asked);
        Ok(Grant::of_topics(topics.into_iter(), (self.now_s)().saturating_add(stream_s)))
    }
}
