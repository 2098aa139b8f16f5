use proptest::prelude::*;

use super::*;

/// Returns the tree in one line, `name@line`.
fn shown(node: &YamlNode) -> String {
    match &node.value {
        YamlValue::Empty => "-".to_owned(),
        YamlValue::Null => "null".to_owned(),
        YamlValue::Text(text) => format!("{text:?}@{}", node.line),
        YamlValue::List(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        YamlValue::Map(map) => {
            let entry =
                |(key, value): &(YamlKey, YamlNode)| format!("{}@{}: {}", key.name, key.line, shown(value));
            format!("{{{}}}", map.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

#[test]
fn values_are_texts_as_written_with_their_lines() {
    for (text, tree) in [
        ("", "-"),
        ("# nothing\n\n", "-"),
        ("---\na: 1\n", "{a@2: \"1\"@2}"),
        ("a: 007\nb: true # yes\r\nc: 'x # y'\n", "{a@1: \"007\"@1, b@2: \"true\"@2, c@3: \"x # y\"@3}"),
        (
            "a:\nb: ~\nc: null\nd: 'null'\ne: ''\n",
            "{a@1: -, b@2: null, c@3: null, d@4: \"null\"@4, e@5: \"\"@5}",
        ),
        ("a:\n  - x\n  -\n    y\nb: [1, 2]\n", "{a@1: [\"x\"@2 \"y\"@4], b@5: [\"1\"@5 \"2\"@5]}"),
        ("a:\n- x\nb: {c: d}\n", "{a@1: [\"x\"@2], b@3: {c@3: \"d\"@3}}"),
        ("q: ${query:id}\n", "{q@1: \"${query:id}\"@1}"),
        ("\u{feff}a: b\n", "{a@1: \"b\"@1}"),
    ] {
        assert_eq!(shown(&parse(text).unwrap()), tree, "{text:?}");
    }
}

#[test]
fn what_is_refused_is_told_with_its_line_and_the_mend() {
    let deep = "a:\n".to_owned() + &"[".repeat(100_000);
    let indented: String = (0..2000).map(|depth| " ".repeat(depth) + "a:\n").collect();
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
    let long = "a:\n".to_owned() + &"- x\n".repeat(ENTRIES_MAX);
    assert!(parse(&long).is_ok());
    let long = long + "- x\n";
    let wide: String = (0..=ENTRIES_MAX).map(|key| format!("k{key}: x\n")).collect();
    for (text, line, reason) in [
        (&*long, ENTRIES_MAX + 2, "more than 1000 entries"),
        (&wide, ENTRIES_MAX + 1, "more than 1000 entries"),
        ("a: 1\nb: 2\na: 3\n", 3, "a: there twice; keep one of them"),
        ("s:\n  a: 1\n  a: 1\n", 3, "a: there twice"),
        ("{a: 1, 'a': 2}", 1, "a: there twice"),
        (bomb, 1, "an anchor or an alias, which are not read here"),
        ("a: *nowhere\n", 1, "not YAML: "),
        ("a: !!int 1\n", 1, "a tag, which is not read here"),
        ("a: 1\n---\nb: 1\n", 3, "a second document"),
        ("? [a]\n: b\n", 1, "a key that is no text"),
        ("null: b\n", 1, "a key that is no text"),
        ("a: 1\nb: c: d\n", 2, "not YAML: "),
        ("a:\n\tb: 2\n", 2, "not YAML: "),
        ("a: 'open\nb: 1\n", 2, "not YAML: "),
        ("a: [1\n", 1, "not YAML: "),
        ("a: \u{0}\n", 1, "not YAML: "),
        (&deep, 2, "not YAML: "),
        (&indented, 9, "not YAML: "),
    ] {
        let fault = parse(text).unwrap_err();
        let begun: String = text.chars().take(40).collect();
        assert!(fault.reason.starts_with(reason), "{begun:?}: {fault:?}");
        assert_eq!(fault.line, line, "{begun:?}: {fault:?}");
        assert!(!fault.reason.contains('\n') && fault.reason.contains("; "), "{fault:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(\\PC|[\n\t :#&*!|>'\"%@`{}\\[\\],?-]){0,200}") {
        if let Err(fault) = parse(&text) {
            prop_assert!(!fault.reason.contains('\n'));
        }
    }
}
