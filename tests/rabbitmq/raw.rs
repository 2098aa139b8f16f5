//! AMQP 0-9-1 as bytes, for what a client library would not let a test say: texts that are not UTF-8, say.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;
const FRAME_MAX: u32 = 131_072;

/// Publishes on a connection of its own.
pub(crate) struct RawPublisher {
    stream: TcpStream,
}

/// A message's properties: which there are, and their bytes in the order of the flags.
#[derive(Clone, Default)]
pub(crate) struct RawProperties {
    flags: u16,
    bytes: Vec<u8>,
}

impl RawProperties {
    /// Persistent, and one text: bit 15 is `content_type`, bit 7 `message_id`, and so on down the specification's list.
    pub(crate) fn text(bit: u16, text: &[u8]) -> Self {
        let mode = (12, vec![2]);
        let text = (bit, short(text));
        let mut both = [mode, text];
        both.sort_by_key(|(bit, _)| std::cmp::Reverse(*bit));
        RawProperties {
            flags: both.iter().map(|(bit, _)| 1 << bit).sum(),
            bytes: both.into_iter().flat_map(|(_, bytes)| bytes).collect(),
        }
    }

    /// Persistent, and the entries of a header table.
    pub(crate) fn headers(entries: &[u8]) -> Self {
        RawProperties { flags: 1 << 13 | 1 << 12, bytes: [&*long(entries), &[2]].concat() }
    }
}

impl RawPublisher {
    /// At `amqp://guest:guest@ADDRESS/`.
    pub(crate) fn at(url: &str) -> RawPublisher {
        let address = url.rsplit_once('@').unwrap().1.trim_end_matches('/');
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut raw = RawPublisher { stream };
        raw.stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
        raw.expect(10, 10);
        let response =
            [&long(b"")[..], &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")].concat();
        raw.method(0, 10, 11, &response);
        raw.expect(10, 30);
        raw.method(0, 10, 31, &[&2047_u16.to_be_bytes()[..], &FRAME_MAX.to_be_bytes(), &[0, 0]].concat());
        raw.method(0, 10, 40, &[&short(b"/")[..], &[0, 0]].concat());
        raw.expect(10, 41);
        raw.method(1, 20, 10, &short(b""));
        raw.expect(20, 11);
        raw.method(1, 85, 10, &[0]);
        raw.expect(85, 11);
        raw
    }

    /// Publishes, and returns when the broker has it.
    pub(crate) fn publish(&mut self, exchange: &str, key: &[u8], properties: &RawProperties, body: &[u8]) {
        let target = [&[0, 0][..], &short(exchange.as_bytes()), &short(key), &[0]].concat();
        self.method(1, 60, 40, &target);
        let header = [
            &60_u16.to_be_bytes()[..],
            &[0, 0],
            &(body.len() as u64).to_be_bytes(),
            &properties.flags.to_be_bytes(),
            &properties.bytes,
        ];
        self.frame(HEADER, 1, &header.concat());
        self.frame(BODY, 1, body);
        self.expect(60, 80);
    }

    /// Binds a queue to an exchange.
    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &[u8]) {
        let names = [&short(queue.as_bytes())[..], &short(exchange.as_bytes()), &short(key)].concat();
        self.method(1, 50, 20, &[&[0, 0][..], &names, &[0], &long(b"")].concat());
        self.expect(50, 21);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.stream.write_all(&frame(kind, channel, payload)).unwrap();
    }

    fn expect(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).unwrap();
        let mut rest = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
        self.stream.read_exact(&mut rest).unwrap();
        let said = String::from_utf8_lossy(&rest);
        assert_eq!(rest[..4], [class.to_be_bytes(), method.to_be_bytes()].concat(), "{said}");
    }
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = payload.len() as u32;
    [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, &[FRAME_END]].concat()
}

/// A short string.
pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

/// A long string, or a table of these entries.
pub(crate) fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// The entries of a table that has a table in it, and so on `depth` times.
pub(crate) fn nested(depth: usize) -> Vec<u8> {
    // From the inside out each is one key of no bytes, the type and the length of what it holds.
    let mut entries = Vec::with_capacity(depth * 6);
    for level in (0..depth).rev() {
        entries.extend([0, b'F']);
        entries.extend((6 * level as u32).to_be_bytes());
    }
    entries
}
