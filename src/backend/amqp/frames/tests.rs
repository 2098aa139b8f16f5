//! Frames written by hand, frames split anywhere, and random bytes.

use proptest::prelude::*;

use super::*;

pub(in crate::backend::amqp) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat()
}

pub(in crate::backend::amqp) fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8][..], text].concat()
}

fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let fixed = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    frame(HEADER, 1, &[&fixed[..], &flags.to_be_bytes(), properties].concat())
}

fn deliver(routing_key: &[u8]) -> Vec<u8> {
    let tags = [&short(b"tag")[..], &[0; 9]].concat();
    frame(METHOD, 1, &[&BASIC_DELIVER[..], &tags, &short(b"exchange"), &short(routing_key)].concat())
}

fn closed(channel: u16, said: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&CHANNEL_CLOSE[..], &[1, 148], &short(said), &[0, 50, 0, 10]].concat())
}

fn passed(arrived: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameFilter::default().take(arrived, &mut out);
    out
}

#[test]
fn of_a_messages_properties_the_id_and_the_time_are_passed_on() {
    let time = 1_700_000_000_u64.to_be_bytes();
    let table = b"\0\0\0\x08\x03key\xff\xff\xff\xff";
    let all = [
        &short(b"text/plain")[..],
        &short(b"gzip"),
        table,
        &[2, 9],
        &short(b"correlation"),
        &short(b"reply"),
        &short(b"60000"),
        &short("Gr\u{fc}n".as_bytes()),
        &time,
        &short(b"type"),
        &short(b"user"),
        &short(b"app"),
        &short(b"cluster"),
    ];
    let kept = [&short("Gr\u{fc}n".as_bytes())[..], &time].concat();
    assert_eq!(passed(&header(0xfffc, &all.concat())), header(0xc0, &kept));
    assert_eq!(passed(&header(0, b"")), header(0, b""));
    assert_eq!(passed(&header(0x40, &time)), header(0x40, &time));
    assert_eq!(passed(&header(0x80, &short(b""))), header(0x80, &short(b"")));
}

#[test]
fn an_id_that_is_not_utf_8_is_as_none_and_keeps_nothing_else_back() {
    let time = [7; 8];
    for bad in [&b"caf\xe9"[..], b"\xff", b"\xc3", &[0x80; 255]] {
        assert_eq!(passed(&header(0xc0, &[&short(bad)[..], &time].concat())), header(0x40, &time));
    }
}

#[test]
fn properties_that_end_too_early_are_as_none() {
    for (flags, properties) in [
        (0x80, &b"\x05four"[..]),
        (0x40, b"seven b"),
        (0x2000, b"\xff\xff\xff\xff"),
        (0x1000, b""),
        (0x8000, b""),
    ] {
        assert_eq!(passed(&header(flags, properties)), header(0, b""), "{flags:x}");
    }
}

#[test]
fn texts_keep_what_is_utf_8_and_their_length() {
    for (key, safe) in [
        (&b"a.b"[..], &b"a.b"[..]),
        ("caf\u{e9}.\u{1f600}".as_bytes(), "caf\u{e9}.\u{1f600}".as_bytes()),
        (b"caf\xe9.x", b"caf?.x"),
        (b"\xff\xfe", b"??"),
        (b"cut\xf0\x9f\x98", b"cut???"),
        (b"", b""),
    ] {
        assert_eq!(passed(&deliver(key)), deliver(safe));
        assert_eq!(passed(&closed(1, key)), closed(1, safe));
    }
}

#[test]
fn a_channel_that_the_broker_has_closed_says_no_more_until_it_is_opened_again() {
    let close_ok = |channel| frame(METHOD, channel, &[0, 20, 0, 41]);
    let open_ok = frame(METHOD, 1, &[0, 20, 0, 11, 0, 0, 0, 0]);
    let (one, other) = (closed(1, b"refused"), close_ok(2));
    // Our own close crossed the broker's, and is answered.
    let arrived = [&one[..], &close_ok(1), &other, &open_ok, &close_ok(1)].concat();
    assert_eq!(passed(&arrived), [one, other, open_ok, close_ok(1)].concat());
}

#[test]
fn all_else_is_passed_on_as_it_is() {
    let arrived = [
        frame(METHOD, 0, b"\0\x0a\0\x0a\0\x09\0\0\0\x02\x01\xff"),
        frame(BODY, 3, b"caf\xe9"),
        frame(BODY, 3, &vec![FRAME_END; 200_000]),
        frame(HEARTBEAT, 0, b""),
    ]
    .concat();
    assert_eq!(passed(&arrived), arrived);
    // A broker of another version, and a server that is no broker.
    for foreign in [&b"AMQP\0\x01\0\0"[..], b"HTTP/1.1 400 Bad Request\r\n", b"\x01\0\0\xff\xff\xff\xff"] {
        assert_eq!(passed(foreign), foreign);
    }
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_arrive(at in proptest::collection::vec(0_usize..400, 0..8)) {
        let arrived = [deliver(b"caf\xe9"), header(0x80, &short(b"id")), frame(BODY, 1, &[9; 100]), closed(1, b"\xff")];
        let arrived = arrived.concat();
        let mut ends: Vec<_> = at.into_iter().map(|end| end.min(arrived.len())).chain([arrived.len()]).collect();
        ends.sort_unstable();
        let (mut filter, mut out, mut from) = (FrameFilter::default(), Vec::new(), 0);
        for end in ends {
            filter.take(&arrived[from..end], &mut out);
            from = end;
        }
        prop_assert_eq!(out, passed(&arrived));
    }

    /// Lapin can read what it gets, whatever a header or a method holds.
    #[test]
    fn any_bytes_in_a_header_or_a_delivery_become_what_lapin_can_read(
        properties in proptest::collection::vec(any::<u8>(), 0..80),
        flags: u16,
        key in proptest::collection::vec(any::<u8>(), 0..=255),
    ) {
        use lapin::protocol::basic::parse_properties;
        let out = passed(&header(flags, &properties));
        let (rest, read) = parse_properties(&out[HEAD_BYTES + 12..]).unwrap();
        prop_assert_eq!(rest, [FRAME_END]);
        prop_assert!(read.headers().is_none());
        for method in [deliver(&key), closed(1, &key)] {
            let out = passed(&method);
            prop_assert_eq!(lapin::protocol::parse_class(&out[HEAD_BYTES..]).unwrap().0, [FRAME_END]);
        }
    }
}
