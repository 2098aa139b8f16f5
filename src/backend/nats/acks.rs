//! JetStream's answers to the messages of this node.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Message, StatusCode};

use crate::core::message::OrderError;
use crate::journal::cluster::outbound::Ack;

/// Error codes of JetStream. This one comes for a stream at its limits, and for any other failure to store a message:
/// the description tells them apart.
const STORE_FAILED: ErrorCode = ErrorCode(10_077);
const NO_STORAGE: ErrorCode = ErrorCode(10_047);
const TOO_LARGE: ErrorCode = ErrorCode(10_054);

/// The answer to a message.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Answered {
    /// Of the message.
    pub(super) number: u64,
    pub(super) ack: Ack,
    /// Why the message must be sent again.
    pub(super) reason: Option<String>,
}

/// Returns what an answer says; `None` if it is none.
pub(super) fn read(message: &Message) -> Option<Answered> {
    let number = message.subject.rsplit('.').next()?.parse().ok()?;
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        let reason =
            "no stream takes its subject (see the stream's subjects), or the stream has no leader".to_owned();
        return Some(Answered { number, ack: Ack::Again, reason: Some(reason) });
    }
    let mut reason = None;
    let ack = match serde_json::from_slice::<Response<PublishAck>>(&message.payload).ok()? {
        Response::Ok(_) => Ack::Stored,
        Response::Err { error } => match error.error_code() {
            STORE_FAILED if error.to_string().contains("maximum") => Ack::Refused(OrderError::StreamFull),
            NO_STORAGE => Ack::Refused(OrderError::StreamFull),
            TOO_LARGE => Ack::Refused(OrderError::TooLarge),
            code => {
                reason = Some(format!("NATS says: {error} ({})", code.0));
                Ack::Again
            }
        },
    };
    Some(Answered { number, ack, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(payload: &'static str, status: Option<StatusCode>) -> Option<Answered> {
        read(&Message {
            subject: "_INBOX.x.17".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: 0,
        })
    }

    fn answer(payload: &'static str, status: Option<StatusCode>) -> Option<(u64, Ack)> {
        answered(payload, status).map(|Answered { number, ack, .. }| (number, ack))
    }

    #[test]
    fn an_answer_that_is_neither_yes_nor_no_has_the_reason() {
        let reason =
            |payload, status| answered(payload, status).and_then(|answer| answer.reason).unwrap_or_default();
        let sealed = r#"{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"},"stream":"e"}"#;
        assert!(reason(sealed, None).contains("invalid operation on sealed stream"));
        assert!(reason("", Some(StatusCode::NO_RESPONDERS)).contains("the stream's subjects"));
        assert_eq!(reason(r#"{"stream":"esper","seq":5}"#, None), "");
    }

    #[test]
    fn an_answer_says_whether_a_message_is_stored() {
        let error = |code: u64| {
            let text = format!(
                r#"{{"error":{{"code":503,"err_code":{code},"description":"maximum bytes exceeded"}},"stream":"e","seq":0}}"#
            );
            answer(text.leak(), None)
        };
        assert_eq!(answer(r#"{"stream":"esper","seq":5}"#, None), Some((17, Ack::Stored)));
        assert_eq!(answer(r#"{"stream":"esper","seq":5,"duplicate":true}"#, None), Some((17, Ack::Stored)));
        assert_eq!(answer("", Some(StatusCode::NO_RESPONDERS)), Some((17, Ack::Again)));
        assert_eq!(error(10_077), Some((17, Ack::Refused(OrderError::StreamFull))));
        assert_eq!(error(10_158), Some((17, Ack::Again)));
        assert_eq!(error(10_008), Some((17, Ack::Again)));
        assert_eq!(error(10_054), Some((17, Ack::Refused(OrderError::TooLarge))));
        assert_eq!(answer("hello", None), None);
    }
}
