use super::*;

fn name(pattern: &str, query: &str, cookie: &str) -> Result<String, PatternError> {
    let value = |of: &'static str, value: &str| {
        let value = value.to_owned();
        move |name: &str| (name == of).then(|| value.clone())
    };
    pattern.parse::<Pattern>().unwrap().name(value("id", query), value("sid", cookie))
}

#[test]
fn a_name_is_made_of_text_query_and_cookies_in_any_mix() {
    for (pattern, expected) in [
        ("${query:id}", "7"),
        ("${cookie:sid}", "é"),
        ("queue-${query:id}-${cookie:sid}-name", "queue-7-é-name"),
        ("${query:id}${query:id}", "77"),
        ("constant", "constant"),
        ("$-{-}-$$${query:id}$", "$-{-}-$$7$"),
        ("x.amq.${query:id}", "x.amq.7"),
    ] {
        assert_eq!(name(pattern, "7", "é").as_deref(), Ok(expected), "{pattern}");
        assert_eq!(pattern.parse::<Pattern>().unwrap().to_string(), pattern);
    }
    assert_eq!(name("${ query : id }", "7", "").as_deref(), Ok("7"));
}

#[test]
fn a_request_that_names_no_queue_is_told_why_in_one_line_without_what_it_sent() {
    let long = "x".repeat(256);
    for (pattern, query, reason) in [
        ("${query:other}", "7", "no query parameter other, which names the queue; ask with ?other=..."),
        ("q-${query:id}", "", "no query parameter id, which names the queue; ask with ?id=..."),
        ("q-${cookie:other}", "", "no cookie other, which names the queue"),
        ("${query:id}", &long, "the queue's name takes 256 bytes; at most 255 are possible"),
        ("q${query:id}", &long[1..], "the queue's name takes 256 bytes; at most 255 are possible"),
        ("${query:id}", "amq.gen", "the queue's name begins with amq., as only the broker's own may"),
        ("a${query:id}", "mq.gen", "the queue's name begins with amq., as only the broker's own may"),
        ("${query:id}", "a\r\nX: y", "the queue's name has a control character"),
        ("${query:id}", "am\nq.gen", "the queue's name has a control character"),
    ] {
        let error = name(pattern, query, "").unwrap_err().to_string();
        assert_eq!(error, reason, "{pattern}");
        assert!(error.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{error}");
    }
    assert_eq!(name("${query:id}", &long[1..], ""), Ok(long[1..].to_owned()));
    assert_eq!(name("${query:id}", "AMQ.gen", ""), Ok("AMQ.gen".to_owned()));
}

#[test]
fn a_pattern_that_can_name_no_queue_is_refused_with_the_place() {
    for (pattern, reason) in [
        ("", "empty; write what a queue's name is made of, such as ${query:id}"),
        ("é-${query:id", "'${' at character 3 has no '}'; write ${query:NAME} or ${cookie:NAME}"),
        ("${}", "at character 1: neither query nor cookie; write ${query:NAME} or ${cookie:NAME}"),
        (
            "${query:id}${header:id}",
            "at character 12: neither query nor cookie; write ${query:NAME} or ${cookie:NAME}",
        ),
        ("${query}", "at character 1: neither query nor cookie; write ${query:NAME} or ${cookie:NAME}"),
        ("${query:}", "at character 1: no name; write one, such as ${query:id}"),
        (
            "${query:i d}",
            "at character 1: a name with other than visible ASCII; write one such as ${query:id}",
        ),
        (
            "amq.${query:id}",
            "the queue's name begins with amq., as only the broker's own may; write another text",
        ),
        ("a\n${query:id}", "the queue's name has a control character; write another text"),
        ("${query:id}\n", "the queue's name has a control character; write another text"),
    ] {
        assert_eq!(pattern.parse::<Pattern>(), Err(reason.to_owned()), "{pattern}");
    }
    let long = "x".repeat(254) + "${query:id}";
    assert!(long.parse::<Pattern>().is_ok());
    assert!(format!("x{long}").parse::<Pattern>().unwrap_err().contains("256 bytes"));
}

#[test]
fn only_a_pattern_without_parameters_is_constant() {
    for (pattern, constant) in [("a", true), ("a${query:id}", false), ("${cookie:id}", false)] {
        assert_eq!(pattern.parse::<Pattern>().unwrap().is_constant(), constant);
    }
}
