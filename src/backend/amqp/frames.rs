//! Rewrites a broker's bytes so that lapin can read them. lapin ends the connection at a frame that it cannot read, and
//! with it every stream on that connection.
//!
//! RabbitMQ passes on what publishers wrote, which may be anything:
//!
//! | RabbitMQ sends | lapin is given |
//! |---|---|
//! | a message's properties | `message_id`, if it is UTF-8, and `timestamp`. esper reads no others, and a header table may be nested deeper than lapin's stack allows, or be longer than a frame may be. |
//! | a text that is not UTF-8, such as a routing key, or a refusal that RabbitMQ cut within a letter | the text with `?` for each byte that is not UTF-8 |
//! | a frame on a channel that the broker has closed, such as the answer to a close that crossed the broker's | nothing |
//! | any other frame | the frame as it is |
//!
//! No I/O: bytes go in, bytes come out.

use std::collections::HashSet;

/// Bytes before a frame's payload: its kind (1), channel (2) and size (4).
const HEAD_BYTES: usize = 7;
/// The largest payload of a frame. RabbitMQ's have 128 KiB at most, unless a header table is longer.
const PAYLOAD_BYTES_MAX: u32 = 64 * 1024 * 1024;
const FRAME_END: u8 = 0xce;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

// Each method is a class and a number.
const CONNECTION_CLOSE: [u8; 4] = [0, 10, 0, 50];
const CONNECTION_BLOCKED: [u8; 4] = [0, 10, 0, 60];
const CHANNEL_OPEN_OK: [u8; 4] = [0, 20, 0, 11];
const CHANNEL_CLOSE: [u8; 4] = [0, 20, 0, 40];
const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];

/// Turns the bytes that a broker sends into frames that lapin can read.
#[derive(Debug, Default)]
pub(super) struct FrameFilter {
    /// The beginning of a frame whose end has not arrived.
    partial: Vec<u8>,
    /// Channels that the broker has closed and not opened again.
    closed: HashSet<u16>,
    /// Set once the bytes are not AMQP 0-9-1: from then on all are passed on unchanged, and lapin reports the error.
    is_foreign: bool,
}

impl FrameFilter {
    /// Takes bytes that have arrived, and appends to `out` the bytes for lapin.
    pub(super) fn take(&mut self, arrived: &[u8], out: &mut Vec<u8>) {
        self.partial.extend_from_slice(arrived);
        let mut arrived = std::mem::take(&mut self.partial);
        let mut rest = &mut arrived[..];
        while !self.is_foreign
            && let Some((&mut [kind, c0, c1, s0, s1, s2, s3], behind)) = rest.split_first_chunk_mut()
        {
            let (channel, size) = (u16::from_be_bytes([c0, c1]), u32::from_be_bytes([s0, s1, s2, s3]));
            self.is_foreign = !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) || size > PAYLOAD_BYTES_MAX;
            if self.is_foreign || behind.len() <= size as usize {
                break;
            }
            let (frame, behind) = rest.split_at_mut(HEAD_BYTES + size as usize + 1);
            self.pass(kind, channel, frame, out);
            rest = behind;
        }
        if self.is_foreign {
            out.extend_from_slice(rest);
        } else {
            let left = rest.len();
            arrived.drain(..arrived.len() - left);
            self.partial = arrived;
        }
    }

    /// Appends one frame as lapin is to read it, or nothing.
    fn pass(&mut self, kind: u8, channel: u16, frame: &mut [u8], out: &mut Vec<u8>) {
        let payload_end = frame.len() - 1;
        let payload = &mut frame[HEAD_BYTES..payload_end];
        let method = payload.first_chunk().copied().filter(|_| kind == METHOD).unwrap_or_default();
        if method == CHANNEL_OPEN_OK {
            self.closed.remove(&channel);
        } else if self.closed.contains(&channel) {
            return;
        }
        if method == CHANNEL_CLOSE {
            self.closed.insert(channel);
        }
        match kind {
            METHOD => make_texts_utf8(method, payload),
            HEADER => return write_header(channel, payload, out),
            _ => {}
        }
        out.extend_from_slice(frame);
    }
}

/// Bytes from which fields are taken one after the other.
struct FrameFields<'a>(&'a mut [u8]);

impl<'a> FrameFields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a mut [u8]> {
        self.0.split_off_mut(..count)
    }

    /// Takes a text, whatever its encoding.
    fn text(&mut self) -> Option<&'a mut [u8]> {
        let &mut [length] = self.take(1)? else { return None };
        self.take(length.into())
    }
}

/// Replaces each byte that is not UTF-8 by `?` in a method's texts that publishers or the broker wrote.
fn make_texts_utf8(method: [u8; 4], payload: &mut [u8]) {
    let mut fields = FrameFields(payload);
    // The number of bytes before each text.
    let texts: &[usize] = match method {
        CONNECTION_CLOSE | CHANNEL_CLOSE => &[4 + 2],
        CONNECTION_BLOCKED => &[4],
        // Consumer tag; delivery tag, redelivered flag and exchange; routing key.
        BASIC_DELIVER => &[4, 8 + 1, 0],
        _ => &[],
    };
    for &before in texts {
        let Some(mut text) = fields.take(before).and_then(|_| fields.text()) else { return };
        while let Err(error) = str::from_utf8(text) {
            let wrong = &mut text[error.valid_up_to()..];
            let count = error.error_len().unwrap_or(wrong.len());
            wrong[..count].fill(b'?');
            text = &mut wrong[count..];
        }
    }
}

/// Appends a content header with its message id and its timestamp, or without properties when they are malformed.
fn write_header(channel: u16, payload: &mut [u8], out: &mut Vec<u8>) {
    let mut fields = FrameFields(payload);
    // Class, weight and the body's size, which every broker sends.
    let Some(fixed) = fields.take(2 + 2 + 8) else { return };
    let KeptProperties { message_id, timestamp } = KeptProperties::read(fields).unwrap_or_default();
    let mut flags = 0;
    let mut properties = Vec::new();
    if let Some(id) = message_id {
        flags |= KeptProperties::MESSAGE_ID;
        // Its length was read from one byte.
        properties.push(id.len() as u8);
        properties.extend_from_slice(id.as_bytes());
    }
    if let Some(timestamp) = timestamp {
        flags |= KeptProperties::TIMESTAMP;
        properties.extend_from_slice(timestamp);
    }
    let size = (fixed.len() + 2 + properties.len()) as u32;
    out.push(HEADER);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(fixed);
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&properties);
    out.push(FRAME_END);
}

/// The two properties of a message that lapin is given; the others are left out.
#[derive(Default)]
struct KeptProperties<'a> {
    message_id: Option<&'a str>,
    timestamp: Option<&'a [u8]>,
}

impl<'a> KeptProperties<'a> {
    const MESSAGE_ID: u16 = 1 << 7;
    const TIMESTAMP: u16 = 1 << 6;

    /// Reads the properties; returns `None` when one is longer than the bytes that are left.
    fn read(mut fields: FrameFields<'a>) -> Option<Self> {
        let flags = u16::from_be_bytes(*fields.take(2)?.first_chunk()?);
        let mut read = Self::default();
        // Bit 15 is the first property. Those after the timestamp, which is bit 6, are not needed.
        for bit in (6..16).rev().map(|bit| 1 << bit).filter(|bit| flags & bit != 0) {
            match bit {
                // Headers.
                0x2000 => {
                    let size = u32::from_be_bytes(*fields.take(4)?.first_chunk()?);
                    fields.take(usize::try_from(size).ok()?)?;
                }
                // Delivery mode, priority.
                0x1000 | 0x0800 => drop(fields.take(1)?),
                Self::MESSAGE_ID => read.message_id = str::from_utf8(fields.text()?).ok(),
                Self::TIMESTAMP => read.timestamp = Some(fields.take(8)?),
                // Content type, content encoding, correlation id, reply to, expiration.
                _ => drop(fields.text()?),
            }
        }
        Some(read)
    }
}

#[cfg(test)]
pub(super) mod tests;
