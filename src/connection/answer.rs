//! The answer to a request: a response, and the memory it is charged for until it is sent.

use std::borrow::Cow;
use std::fmt;

use crate::core::budget::Charge;
use crate::core::event_id::{Epoch, EventId};
use crate::core::message::{OrderError, Ordered, Reply};
use crate::http::{Context, Extra, Refusal, Response, Status};

/// Answers with a body up to this size are covered by the connection's own charge: one to a publish has some 60 bytes.
const SMALL_BYTES: usize = 256;

/// An answer, before it is encoded.
#[derive(Debug)]
pub(crate) struct Answer {
    response: Response,
    /// Held until the answer is sent; `None` where the connection's own charge covers it.
    charge: Option<Charge>,
}

impl Answer {
    /// Returns an answer of JSON whose memory `charge` already covers.
    pub(crate) fn charged(json: Vec<u8>, charge: Charge) -> Self {
        Answer { response: Response::json(json), charge: Some(charge) }
    }

    /// Returns the answer to a publish, an emit or a disconnect.
    pub(crate) fn to_command(reply: &Reply, epoch: Epoch) -> Self {
        match reply {
            Reply::Published(Ok(published)) => {
                let mut body = Vec::with_capacity(64);
                write_published(published, epoch, &mut body);
                Response::json(body).into()
            }
            Reply::Published(Err(error)) => refusal_of(*error).into(),
            Reply::Disconnected(streams) => {
                Response::json(format!("{{\"streams\":{streams}}}").into_bytes()).into()
            }
        }
    }

    /// Returns the bytes that the answer takes beside itself, its encoded copy included; 0 when it is small or has a
    /// charge of its own.
    pub(crate) fn bytes(&self) -> usize {
        match &self.response.body {
            _ if self.charge.is_some() => 0,
            Cow::Borrowed(body) if body.len() <= SMALL_BYTES => 0,
            Cow::Borrowed(body) => body.len(),
            Cow::Owned(body) if body.capacity() <= SMALL_BYTES => 0,
            Cow::Owned(body) => 2 * body.capacity(),
        }
    }

    /// Returns the memory that a small one takes beside itself, in bytes; 0 where [`Answer::bytes`] says it.
    pub(crate) fn small_bytes(&self) -> usize {
        match &self.response.body {
            Cow::Owned(body) if body.capacity() <= SMALL_BYTES => body.capacity(),
            _ => 0,
        }
    }

    /// Returns whether the request is refused.
    pub(crate) fn is_refusal(&self) -> bool {
        self.response.status.code() >= 400
    }

    pub(crate) fn status(&self) -> Status {
        self.response.status
    }

    /// Returns whether the connection closes after it, whatever the request asked for.
    pub(crate) fn closes(&self) -> bool {
        self.response.close
    }

    /// Appends the encoded answer to `out`. Returns whether the connection closes after it, and the charge to hold
    /// until it is sent.
    pub(crate) fn encode(self, cx: &Context<'_>, out: &mut Vec<u8>) -> (bool, Option<Charge>) {
        (self.response.encode(cx, out), self.charge)
    }
}

/// Shows the status and the body, which is the reason of a refusal.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.response.body);
        write!(f, "{}: {}", self.response.status.code(), text.trim_end())
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Answer { response, charge: None }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Answer::from(Response::from(refusal))
    }
}

/// Sent as `Retry-After` when the disk is full, in seconds: somebody has to free space first.
const DISK_FULL_RETRY_S: u32 = 5;

/// Returns the refusal of a publish that was not ordered.
fn refusal_of(error: OrderError) -> Refusal {
    match error {
        OrderError::TopicsFull | OrderError::KeysFull | OrderError::CutOff => {
            Refusal::unavailable(error.to_string())
        }
        // RFC 9110, section 15.5.21: the request is well-formed and cannot be done.
        OrderError::KeyReused => Refusal::new(Status::UnprocessableContent, error.to_string()),
        // RFC 4918, section 11.5.
        OrderError::DiskFull | OrderError::StreamFull => {
            Refusal::new(Status::InsufficientStorage, error.to_string())
                .with(Extra::RetryAfter(DISK_FULL_RETRY_S))
        }
        // RFC 9110, section 15.6.5: the server that has to confirm it did not in time.
        OrderError::Unconfirmed => Refusal::new(Status::GatewayTimeout, error.to_string()),
        OrderError::TooLarge => Refusal::new(Status::ContentTooLarge, error.to_string()),
    }
}

/// Writes `{"id":"<last id>","events":n}`, with `"streams":n` for an emit and `"ids_replaced":n` where ids were
/// replaced. Written by hand because it runs 150,000 times a second.
fn write_published(published: &Ordered, epoch: Epoch, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    match &published.last_id {
        EventId::Sequence(sequence) => {
            out.push(b'"');
            epoch.write(*sequence, out);
            out.push(b'"');
        }
        // Serialising a string into memory cannot fail.
        EventId::Own(id) => drop(serde_json::to_writer(&mut *out, id)),
    }
    out.extend_from_slice(b",\"events\":");
    out.extend_from_slice(itoa::Buffer::new().format(published.events).as_bytes());
    if let Some(streams) = published.streams {
        out.extend_from_slice(b",\"streams\":");
        out.extend_from_slice(itoa::Buffer::new().format(streams).as_bytes());
    }
    if published.ids_replaced > 0 {
        out.extend_from_slice(b",\"ids_replaced\":");
        out.extend_from_slice(itoa::Buffer::new().format(published.ids_replaced).as_bytes());
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_id_is_a_json_string_whatever_it_holds() {
        let mut out = Vec::new();
        let last_id = EventId::Own("a\"\\é".into());
        let published = Ordered { last_id, events: 3, ids_replaced: 1, streams: Some(2) };
        write_published(&published, Epoch::at(1), &mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((json["id"].as_str(), json["events"].as_u64()), (Some("a\"\\é"), Some(3)));
        assert_eq!((&json["streams"], &json["ids_replaced"]), (&2.into(), &1.into()));
    }
}
