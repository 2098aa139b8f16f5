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

/// Returns the number of a message, and what its answer says; `None` if it is no answer.
pub(super) fn read(message: &Message) -> Option<(u64, Ack)> {
    let number = message.subject.rsplit('.').next()?.parse().ok()?;
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Some((number, Ack::Again));
    }
    let ack = match serde_json::from_slice::<Response<PublishAck>>(&message.payload).ok()? {
        Response::Ok(_) => Ack::Stored,
        Response::Err { error } => match error.error_code() {
            STORE_FAILED if error.to_string().contains("maximum") => Ack::Refused(OrderError::StreamFull),
            NO_STORAGE => Ack::Refused(OrderError::StreamFull),
            TOO_LARGE => Ack::Refused(OrderError::TooLarge),
            code => {
                tracing::debug!("the stream's answer to message {number}: {} ({})", error, code.0);
                Ack::Again
            }
        },
    };
    Some((number, ack))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &'static str, status: Option<StatusCode>) -> Option<(u64, Ack)> {
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
