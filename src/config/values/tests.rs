use super::*;

#[test]
fn sizes_are_read_by_their_units() {
    for (text, bytes) in [
        ("0", 0),
        ("4194304", 4 << 20),
        ("64K", 64_000),
        ("64KB", 64_000),
        ("64Ki", 65_536),
        ("64kib", 65_536),
        ("1MiB", 1 << 20),
        ("1.5 MiB", 3 << 19),
        ("2GiB", 2 << 30),
        ("1PiB", 1 << 50),
    ] {
        assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
    }
}

#[test]
fn a_size_is_printed_as_it_can_be_given_back() {
    for (bytes, text) in [(0, "0"), (1023, "1023"), (1024, "1KiB"), (1536, "1536"), (4 << 20, "4MiB")] {
        assert_eq!(Size(bytes).to_string(), text);
        assert_eq!(text.parse(), Ok(Size(bytes)));
    }
}

#[test]
fn durations_need_their_unit() {
    for (text, ms) in
        [("0s", 0), ("500ms", 500), ("15s", 15_000), ("10m", 600_000), ("1m30s", 90_000), ("1.5s", 1500)]
    {
        assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
    }
    assert_eq!("15".parse::<Time>(), Err("no unit; write 15s or 15ms".to_owned()));
    assert_eq!("1.5".parse::<Time>(), Err("no unit; write 1.5s or 1.5ms".to_owned()));
}

#[test]
fn a_duration_is_printed_as_it_can_be_given_back() {
    for text in ["0s", "500ms", "15s", "10m", "1m30s", "1h", "1d", "365d"] {
        assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
    }
}

#[test]
fn a_host_is_named_in_any_case() {
    assert_eq!(host_name(" Esper.Example.ORG"), Ok("esper.example.org".to_owned()));
}

#[test]
fn wrong_values_are_refused_with_what_is_right() {
    fn reason<T>(read: Result<T, String>) -> String {
        read.err().unwrap_or_default()
    }
    let rows = [
        (reason("".parse::<Size>()), "write 64KiB"),
        (reason("big".parse::<Size>()), "write 64KiB"),
        (reason("-1".parse::<Size>()), "write 64KiB"),
        (reason("1MiX".parse::<Size>()), "write 64KiB"),
        (reason("2PiB".parse::<Size>()), "at most 1PiB"),
        (reason("99999999999999999999EiB".parse::<Size>()), "at most 1PiB"),
        (reason("".parse::<Time>()), "write a number and its unit"),
        (reason("1..".parse::<Time>()), "write a number and its unit"),
        (reason("s".parse::<Time>()), "write a number and its unit"),
        (reason("15 parsecs".parse::<Time>()), "write a number and its unit"),
        (reason("-5s".parse::<Time>()), "write a number and its unit"),
        (reason("366d".parse::<Time>()), "at most 365d"),
        (reason("18446744073709551615s".parse::<Time>()), "at most 365d"),
        (reason("1us".parse::<Time>()), "at least 1ms"),
        (reason(count(0)("")), "from 0 to 1000000000"),
        (reason(count(0)("-1")), "from 0 to 1000000000"),
        (reason(count(0)("1000000001")), "from 0 to 1000000000"),
        (reason(count(0)("+1")), "from 0 to 1000000000"),
        (reason(count(1)("0")), "from 1 to 1000000000"),
        (reason(count(1)("1000000001")), "from 1 to 1000000000"),
        (reason(port("65536")), "from 0 to 65535"),
        (reason(port("tcp://10.0.0.1:80")), "enableServiceLinks: false"),
        (reason(host_name("")), "such as esper.example.org"),
        (reason(host_name("a:80")), "without scheme and port"),
        (reason(host_name("http://a")), "without scheme and port"),
        (reason(host_name("ü.example")), "such as esper.example.org"),
        (reason(host_name(&"a".repeat(254))), "such as esper.example.org"),
        (reason(cookie_name("")), "such as esper_token"),
        (reason(cookie_name("a b")), "such as esper_token"),
        (reason(cookie_name("a=b")), "such as esper_token"),
        (reason(cookie_name("é")), "such as esper_token"),
        (reason(yes_or_no("")), "true or false"),
        (reason(yes_or_no("maybe")), "true or false"),
    ];
    for (reason, mend) in rows {
        assert!(reason.contains(mend), "{reason:?} should say {mend:?}");
    }
}
