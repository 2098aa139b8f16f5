use super::*;
use proptest::prelude::*;

const LIMITS: EventLimits =
    EventLimits { text_bytes_max: 1 << 20, id_bytes_max: 64, name_bytes_max: 64, events_max: 1000 };

fn parse(body: &[u8]) -> Result<Events, EventError> {
    Events::parse(Bytes::copy_from_slice(body), &LIMITS)
}

fn wrap(body: &str, event: Option<&str>, id: Option<&str>) -> Result<Events, EventError> {
    Events::wrap(Bytes::copy_from_slice(body.as_bytes()), event, id, &LIMITS)
}

fn lines(events: &Events) -> Vec<&str> {
    events.iter().map(|event| str::from_utf8(event.lines).unwrap()).collect()
}

/// Returns the frames a subscriber gets when the server adds nothing.
fn render(events: &Events) -> String {
    events.iter().map(|event| format!("{}\n", str::from_utf8(event.lines).unwrap())).collect()
}

/// The events that an EventSource dispatches from a whole stream, and its last id.
#[derive(Debug, Default, Eq, PartialEq)]
struct Dispatched {
    /// Type, data and lastEventId of each event.
    events: Vec<(String, String, String)>,
    last_event_id: String,
    reconnection_time_ms: Option<u64>,
}

/// Parses a stream by the standard's steps, one character at a time: it shares no code with what it checks.
fn event_source(stream: &str) -> Dispatched {
    let mut out = Dispatched::default();
    let (mut data, mut event_type, mut id) = (String::new(), String::new(), String::new());
    let mut line = String::new();
    let mut chars = stream.strip_prefix('\u{feff}').unwrap_or(stream).chars().peekable();
    while let Some(char) = chars.next() {
        if char != '\r' && char != '\n' {
            line.push(char);
            continue;
        }
        if char == '\r' && chars.peek() == Some(&'\n') {
            chars.next();
        }
        let ended = std::mem::take(&mut line);
        if ended.is_empty() {
            // "Dispatch the event".
            out.last_event_id = id.clone();
            let name = std::mem::take(&mut event_type);
            let mut text = std::mem::take(&mut data);
            if !text.is_empty() {
                assert_eq!(text.pop(), Some('\n'));
                let name = if name.is_empty() { "message".to_owned() } else { name };
                out.events.push((name, text, id.clone()));
            }
            continue;
        }
        let (field, value) = match ended.find(':') {
            Some(0) => continue,
            Some(colon) => {
                let value = &ended[colon + 1..];
                (&ended[..colon], value.strip_prefix(' ').unwrap_or(value))
            }
            None => (&ended[..], ""),
        };
        match field {
            "event" => event_type = value.to_owned(),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                out.reconnection_time_ms = value.parse().ok().or(out.reconnection_time_ms);
            }
            _ => {}
        }
    }
    out
}

/// Returns what the standard's parser makes of a body, whose last event may lack its blank line.
fn event_source_of_body(body: &str) -> Dispatched {
    event_source(&format!("{body}\n\n"))
}

/// Checks every promise about the events made from `body`.
fn assert_faithful(body: &str, events: &Events) {
    let expected = event_source_of_body(body);
    assert_eq!(event_source(&render(events)), expected, "{body:?}");
    assert_eq!(events.len(), expected.events.len());
    for event in events.iter() {
        let text = str::from_utf8(event.lines).unwrap();
        assert!(text.ends_with('\n') && !text.starts_with('\n') && !text.contains("\n\n"), "{text:?}");
        assert!(!text.contains('\r'));
        // Alone in a stream an event means the same; and an id line of ours overrules its id.
        let alone = event_source(&format!("{text}\n"));
        assert_eq!(alone.events.len(), 1);
        assert_eq!(known_id(&alone.last_event_id), event.id);
        let [(name, data, _)] = &alone.events[..] else { unreachable!() };
        let given = event_source(&format!("{text}id:1-2\n\n")).events;
        assert_eq!(given, [(name.clone(), data.clone(), "1-2".to_owned())]);
    }
}

#[test]
fn lines_are_kept_byte_for_byte() {
    let body = ":hi\nevent: x\nData: y\nfoo\nretry: 5\ndata : z\ndata:  é\n\n\ndata\nid: 7\n\n";
    let events = parse(body.as_bytes()).unwrap();
    assert_eq!(
        lines(&events),
        [":hi\nevent: x\nData: y\nfoo\nretry: 5\ndata : z\ndata:  é\n", "data\nid: 7\n"]
    );
    assert_eq!(events.text_bytes(), body.len());
}

#[test]
fn text_with_lf_line_ends_is_not_copied() {
    for (body, offset) in [("data: x\n\ndata: y\n", 0), ("\u{feff}data: x\n\n", 3)] {
        let body = Bytes::from(body);
        let events = Events::parse(body.clone(), &LIMITS).unwrap();
        assert_eq!(events.text.as_ptr(), body[offset..].as_ptr());
    }
}

#[test]
fn every_line_end_and_a_missing_last_one_become_lf() {
    for body in [
        "data: x\r\nid: 1\r\n\r\ndata: y\r\n\r\n",
        "data: x\rid: 1\r\rdata: y\r\r",
        "data: x\nid: 1\r\n\rdata: y",
        "\u{feff}\r\n\n\rdata: x\nid: 1\n\n\n\r\n\rdata: y\r",
    ] {
        assert_eq!(lines(&parse(body.as_bytes()).unwrap()), ["data: x\nid: 1\n", "data: y\n"], "{body:?}");
    }
}

#[test]
fn comments_alone_go_with_the_next_event_or_the_last() {
    let events = parse(b"\n:a\n\n\n:b\n\ndata: 1\n\n:c\n\ndata: 2\nid: x\n\n:d\n\n:e").unwrap();
    assert_eq!(lines(&events), [":a\n:b\ndata: 1\n", ":c\ndata: 2\nid: x\n:d\n:e\n"]);
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [None, Some("x")]);
}

#[test]
fn the_last_id_line_is_the_events_own_and_an_empty_one_is_none() {
    for (body, id) in [
        ("data: x", None),
        ("id: 5\ndata: x", Some("5")),
        ("id:5\ndata: x\nid:é 6 ", Some("é 6")),
        ("id:  5\ndata: x", Some("5")),
        ("id:   \ndata: x", None),
        ("id: 5\nid\ndata: x", None),
        ("id: 5\nid:\ndata: x", None),
        ("id: 5\nid: \ndata: x", None),
        ("Id: 5\nid : 6\nids: 7\n:id: 8\ndata: x", None),
    ] {
        assert_eq!(parse(body.as_bytes()).unwrap().iter().next().unwrap().id, id, "{body:?}");
    }
}

#[test]
fn a_bad_body_is_refused_with_its_reason() {
    let cases: [(&[u8], EventError); 13] = [
        (b"", EventError::Empty),
        (b"\n\r\n", EventError::NoEvent),
        (b":only\n\n:comments\n\n", EventError::NoEvent),
        (b"\xef\xbb\xbf", EventError::NoEvent),
        (b"hello", EventError::NoData { event: 1 }),
        (b"data: 1\n\nevent: x\n\ndata: 3\n\n", EventError::NoData { event: 2 }),
        (b"data: 1\n\n:c\n\nid: 2", EventError::NoData { event: 2 }),
        (b"Data: x\ndatas: y\ndata : z\n:data: c", EventError::NoData { event: 1 }),
        (b"data: a\0b", EventError::Nul { offset: 7 }),
        (b"data: \xff", EventError::Utf8 { offset: 6 }),
        (b"data: \xe2\x82", EventError::Utf8 { offset: 6 }),
        (b"\xef\xbb\xbf\xef\xbb\xbfx\ndata: 1", EventError::ByteOrderMark { event: 1 }),
        (b"data: 1\n\n\xef\xbb\xbfid: 1\ndata: 2", EventError::ByteOrderMark { event: 2 }),
    ];
    for (body, error) in cases {
        assert_eq!(parse(body).unwrap_err(), error, "{body:?}");
    }
}

#[test]
fn each_limit_is_kept_to_the_byte() {
    let limits = EventLimits { text_bytes_max: 24, id_bytes_max: 3, name_bytes_max: 4, events_max: 2 };
    let parse = |body: &'static str| Events::parse(Bytes::from(body), &limits).map(|events| events.len());
    assert_eq!(parse("data:1\n\ndata:2\n\n"), Ok(2));
    assert_eq!(parse("data\n\ndata\n\ndata\n\n"), Err(EventError::TooManyEvents { events_max: 2 }));
    assert_eq!(parse("data:890123456789012345\n"), Ok(1));
    assert_eq!(parse("data:890123456789012345"), Ok(1));
    assert_eq!(parse("data:8901234567890123456"), Err(EventError::TooLong { text_bytes_max: 24 }));
    assert_eq!(parse("data\nid: 123"), Ok(1));
    assert_eq!(parse("data\n\ndata\nid: 1234"), Err(EventError::IdTooLong { event: 2, id_bytes_max: 3 }));

    let wrap = |body: &'static str, event, id| {
        Events::wrap(Bytes::from(body), event, id, &limits).map(|events| events.text_bytes())
    };
    assert_eq!(wrap("1", Some("name"), None), Ok(18));
    assert_eq!(wrap("1", Some("names"), None), Err(EventError::NameTooLong { name_bytes_max: 4 }));
    assert_eq!(wrap("1", None, Some("123")), Ok(14));
    assert_eq!(wrap("1", None, Some("1234")), Err(EventError::IdTooLong { event: 1, id_bytes_max: 3 }));
    assert_eq!(wrap("\n\n\n", None, None), Ok(24));
    assert_eq!(wrap("\n\n\n1", None, None), Err(EventError::TooLong { text_bytes_max: 24 }));
}

#[test]
fn wrap_makes_the_body_one_events_data() {
    for (body, event, id, text) in [
        ("Corgi", Some("new-dog"), Some("7"), "event:new-dog\nid:7\ndata:Corgi\n"),
        ("{\n \"a\": 1\r\n}", None, None, "data:{\ndata:  \"a\": 1\ndata:}\n"),
        ("a\n", Some(""), Some(""), "data:a\ndata:\n"),
        ("", None, None, "data:\n"),
        ("\r", Some(" x"), Some(" y"), "event:  x\nid:  y\ndata:\ndata:\n"),
    ] {
        let events = wrap(body, event, id).unwrap();
        assert_eq!(lines(&events), [text], "{body:?}");
        assert_eq!(events.iter().next().unwrap().id, id.and_then(known_id));
    }
}

#[test]
fn wrap_refuses_what_no_event_can_carry() {
    assert_eq!(wrap("a\0", None, None).unwrap_err(), EventError::Nul { offset: 1 });
    let bytes = Events::wrap(Bytes::from_static(b"a\x80"), None, None, &LIMITS);
    assert_eq!(bytes.unwrap_err(), EventError::Utf8 { offset: 1 });
    for bad in ["a\nb", "a\rb", "a\0b", "\n"] {
        assert_eq!(wrap("x", Some(bad), None).unwrap_err(), EventError::NameCharacter);
        let character = bad.bytes().find(u8::is_ascii_control).unwrap();
        assert_eq!(wrap("x", None, Some(bad)).unwrap_err(), EventError::IdCharacter { event: 1, character });
    }
}

#[test]
fn an_id_that_no_header_can_carry_is_refused_and_no_other() {
    for byte in 0..=127_u8 {
        let id = format!("a{}b", char::from(byte));
        let is_bad = byte.is_ascii_control() && byte != b'\t';
        let refused = Err(EventError::IdCharacter { event: 1, character: byte });
        let wrapped = wrap("x", None, Some(&id)).map(drop);
        assert_eq!(wrapped, if is_bad { refused } else { Ok(()) }, "{byte}");
        if !b"\0\r\n".contains(&byte) {
            let text = format!("data: 1\n\nid:{id}\ndata: 2\nid: good\n\ndata: 3\nid: {id}");
            let refused = Err(EventError::IdCharacter { event: 3, character: byte });
            let parsed = parse(text.as_bytes()).map(drop);
            assert_eq!(parsed, if is_bad { refused } else { Ok(()) }, "{byte}");
        }
    }
    // Bytes from 0x80 on may stand in a header.
    assert!(wrap("x", None, Some("\u{80}\u{85}\u{a0}\u{2028}\u{feff}\u{10ffff}")).is_ok());
}

/// Returns values, often with text in them that could be taken for syntax.
fn value() -> impl Strategy<Value = String> {
    "[a-c0-9 :é😀\u{feff}]{0,6}"
}

/// Returns lines without their ends.
fn line() -> impl Strategy<Value = String> {
    let names = prop_oneof![
        3 => Just("data"), 2 => Just("id"), 2 => Just("event"), 1 => Just("retry"), 1 => Just(""),
        1 => Just("Data"), 1 => Just("data "), 1 => Just("foo"), 1 => Just(" data"), 1 => Just("idé"),
    ];
    prop_oneof![
        8 => (names, prop_oneof![Just(":"), Just(": "), Just(":  ")], value())
            .prop_map(|(name, colon, value)| format!("{name}{colon}{value}")),
        1 => prop_oneof![Just("data"), Just("id"), Just("event"), Just("foo")].prop_map(str::to_owned),
    ]
}

/// Returns an event's lines, one of them data; or, less often, comments alone.
fn block() -> impl Strategy<Value = Vec<String>> {
    let event = (prop::collection::vec(line(), 0..5), value(), any::<prop::sample::Index>());
    prop_oneof![
        4 => event.prop_map(|(mut lines, data, at)| {
            lines.insert(at.index(lines.len() + 1), format!("data:{data}"));
            lines
        }),
        1 => prop::collection::vec(value().prop_map(|comment| format!(":{comment}")), 1..3),
    ]
}

/// Returns bodies of such blocks, written in every way that publishers write them, with the number of their events.
fn body() -> impl Strategy<Value = (String, usize)> {
    let blocks = prop::collection::vec((block(), 1..4_usize), 0..5);
    let event = value().prop_map(|data| (vec![format!("data:{data}")], 1));
    let ends = prop::collection::vec(prop::sample::select(&["\n", "\r\n", "\r"][..]), 1..20);
    (any::<bool>(), 0..3_usize, blocks, event, ends, 0..4_usize).prop_map(
        |(mark, blank_lines, mut blocks, event, ends, cut)| {
            blocks.insert(blocks.len() / 2, event);
            let mut text = String::from(if mark { "\u{feff}" } else { "" });
            let mut ends = ends.iter().cycle();
            let mut push = |text: &mut String, line: &str| {
                text.push_str(line);
                let end = *ends.next().unwrap();
                // CR and then LF would be one line end, not two.
                text.push_str(if text.ends_with('\r') && end == "\n" { "\r" } else { end });
            };
            for _ in 0..blank_lines {
                push(&mut text, "");
            }
            for (lines, blank_lines) in &blocks {
                lines.iter().for_each(|line| push(&mut text, line));
                (0..*blank_lines).for_each(|_| push(&mut text, ""));
            }
            // Cut 0 leaves the blank lines, 1 and more take one or more of the last line ends.
            for _ in 0..cut {
                if text.ends_with(['\r', '\n']) {
                    text.pop();
                }
            }
            let is_event = |lines: &Vec<String>| lines.iter().any(|line| !line.starts_with(':'));
            (text, blocks.iter().filter(|(lines, _)| is_event(lines)).count())
        },
    )
}

/// Returns mostly nonsense, made of the significant pieces.
fn soup() -> impl Strategy<Value = String> {
    let pieces =
        ["data", "id", "event", "retry", ":", ":", " ", "\n", "\n", "\r", "\r\n", "1", "\u{feff}", "é"];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 1..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_event_source_sees_what_was_published((body, count) in body()) {
        let events = parse(body.as_bytes()).unwrap();
        prop_assert_eq!(events.len(), count);
        assert_faithful(&body, &events);
    }

    #[test]
    fn whatever_is_taken_is_seen_and_whatever_would_be_lost_is_refused(body in soup()) {
        match parse(body.as_bytes()) {
            Ok(events) => assert_faithful(&body, &events),
            Err(EventError::NoEvent) => prop_assert!(event_source_of_body(&body).events.is_empty()),
            Err(error) => prop_assert!(
                matches!(error, EventError::NoData { .. } | EventError::ByteOrderMark { .. }),
                "{body:?}: {error}"
            ),
        }
    }

    #[test]
    fn an_event_source_sees_a_wrapped_body_as_it_was(
        body in "[a ]?([a-c :\u{feff}\n\r]|\r\n|[^\0])([a-c :\n\r]|\r\n|[^\0]){0,20}",
        event in prop::option::of("[a-c :é]{0,6}"),
        id in prop::option::of("[a-c :é]{0,6}"),
    ) {
        let events = wrap(&body, event.as_deref(), id.as_deref()).unwrap();
        let name = event.filter(|name| !name.is_empty()).unwrap_or("message".to_owned());
        let data = body.replace("\r\n", "\n").replace('\r', "\n");
        let seen = event_source(&render(&events));
        prop_assert_eq!(seen.events, [(name, data, id.clone().unwrap_or_default())]);
        prop_assert_eq!(events.iter().next().unwrap().id, id.as_deref().and_then(known_id));
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        for events in [parse(&body), Events::wrap(Bytes::from(body.clone()), None, None, &LIMITS)] {
            match events {
                Ok(events) => prop_assert!(str::from_utf8(&body).is_ok() && events.len() > 0),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}

#[test]
fn events_are_made_again_from_their_parts() {
    for body in
        ["data:1\n\ndata:2\nid:a\n\n\n:c\ndata\n", "\n:lone\n\ndata:x\n\n:last", "id: a b \ndata:\u{fc}"]
    {
        let limits = EventLimits::of(1000);
        let events = Events::parse(Bytes::from(body), &limits).unwrap();
        let again = Events::from_parts(events.text().clone(), events.spans()).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), events.iter().collect::<Vec<_>>());
    }
}

#[test]
fn parts_that_cannot_be_events_are_refused() {
    let refused = |text: &'static [u8], parts: &[(Range<u32>, Option<Range<u32>>)]| {
        Events::from_parts(Bytes::from_static(text), parts.iter().cloned()).is_none()
    };
    assert!(!refused(b"data:1\n", &[(0..7, None)]));
    assert!(!refused(b"id:7\ndata\n", &[(0..10, Some(3..4))]));
    assert!(refused(b"data:1\n", &[]));
    assert!(refused(b"data:1\n", &[(0..8, None)]), "past the text");
    assert!(refused(b"data:1\n", &[(0..6, None)]), "a line that is not ended");
    assert!(refused(b"data:1\n", &[(0..0, None)]), "no line");
    assert!(refused(b"data:1\n", &[(0..7, Some(5..8))]), "an id past the lines");
    assert!(refused(b"data:1\n\ndata:2\n", &[(0..7, None), (8..15, Some(5..6))]), "an id before the lines");
    assert!(refused(b"data:1\n", &[(0..7, Some(5..5))]), "an empty id");
    assert!(refused(b"data:1\n", &[(0..7, Some(5..7))]), "a line end in an id");
    assert!(refused(b"data:1\n\ndata:2\n", &[(0..15, None)]), "a blank line");
    assert!(refused(b"data:1\n\ndata:2\n", &[(8..15, None), (0..7, None)]), "out of order");
    assert!(refused(b"data:1\n\ndata:2\n", &[(0..7, None), (0..7, None)]), "twice the same");
    assert!(refused(b"data:\0\n", &[(0..7, None)]), "NUL");
    assert!(refused(b"data:\r\n", &[(0..7, None)]), "CR");
    assert!(refused(b"data:\xff\n", &[(0..7, None)]), "no UTF-8");
}

#[test]
fn the_text_of_a_body_may_be_twice_as_long_and_events_take_20_bytes_each_beside_it() {
    let limits = EventLimits::of(10);
    assert!(Events::wrap(Bytes::from("\n\n"), None, None, &limits).is_ok(), "18 bytes");
    let error = Events::wrap(Bytes::from("\n\n\n"), None, None, &limits).unwrap_err();
    assert_eq!(error, EventError::TooLong { text_bytes_max: 20 });
    let events = parse(b"data:a\n\ndata:b\n\ndata:c\nid:1\n").unwrap();
    assert_eq!((events.text_bytes(), events.held_bytes()), (28, 28 + 3 * 20));
}
