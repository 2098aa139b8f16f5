//! YAML text becomes a tree that remembers its lines. Only what a configuration needs is read: mappings,
//! lists and texts, whose types are for their keys to say. What could make a small file large or mean two
//! things is refused: anchors and aliases, tags, deep nesting, a key that is there twice.

use std::borrow::Cow;
use std::collections::HashSet;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, options};

use super::names::on_one_line;

/// Deepest nesting. A configuration has three levels: a section, a list, an entry's mapping.
const DEPTH_MAX: usize = 8;
/// Most entries of one list or mapping. Each value is tried by itself, 0.3 ms without optimisation, and a
/// file has room for hundreds of thousands.
const ENTRIES_MAX: usize = 1000;

/// A value and where it stands.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Node {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Value {
    /// Nothing stands there.
    Empty,
    /// `null` or `~`.
    Null,
    /// Anything else that is no list and no mapping, without its quotes: `3000`, `true` and `text` alike.
    Text(String),
    List(Vec<Node>),
    /// No two keys are the same.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and where it stands.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Key {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) name: String,
}

/// What is wrong, with the mend, and in which line, counted from 1.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) reason: String,
}

impl Value {
    /// What it is, as a refusal of it says.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Null => "null",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads one document. Nothing but comments is `Value::Empty`.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let limits = options! { flow_nesting_limit: DEPTH_MAX, block_nesting_limit: DEPTH_MAX };
    let mut reader = Reader { events: Parser::new_from_str_with_options(text, limits) };
    reader.document()
}

struct Reader<'text> {
    events: Parser<'text, StrInput<'text>>,
}

impl<'text> Reader<'text> {
    fn document(&mut self) -> Result<Node, Fault> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            let line = line_of(&span);
            match event {
                Event::StreamEnd => return Ok(document.unwrap_or(Node { line, value: Value::Empty })),
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if document.is_some() => {
                    return Err(fault(line, "a second document; keep one, without --- between"));
                }
                event => document = Some(self.node(event, &span, 0)?),
            }
        }
    }

    /// The node that begins with this event.
    fn node(&mut self, event: Event<'text>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let line = line_of(span);
        if depth > DEPTH_MAX {
            return Err(fault(line, "nested too deeply; write no more than --dump-config shows"));
        }
        if event.tag().is_some() {
            return Err(fault(line, "a tag, which is not read here; leave out the word that begins with !"));
        }
        if event.anchor_id().is_some() || event.is_alias() {
            return Err(fault(
                line,
                "an anchor or an alias, which are not read here; write the value itself, \
                 and quote text that begins with & or *",
            ));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(text, style, span),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break Value::List(list);
                    }
                    check_room(list.len(), &span)?;
                    list.push(self.node(event, &span, depth + 1)?);
                }
            }
            Event::MappingStart(..) => self.mapping(depth)?,
            _ => return Err(fault(line, "not YAML; --dump-config shows how it is written")),
        };
        Ok(Node { line, value })
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut map = Vec::new();
        let mut names = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(map));
            }
            check_room(map.len(), &span)?;
            let Node { line, value } = self.node(event, &span, depth + 1)?;
            let Value::Text(name) = value else {
                return Err(fault(line, "a key that is no text; write a name before the colon"));
            };
            if !names.insert(name.clone()) {
                let name = on_one_line(&name);
                return Err(fault(line, format!("{name}: there twice; keep one of them")));
            }
            let (event, span) = self.next()?;
            map.push((Key { line, name }, self.node(event, &span, depth + 1)?));
        }
    }

    /// The next event and where it stands.
    fn next(&mut self) -> Result<(Event<'text>, Span), Fault> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(syntax(&error)),
            None => Err(fault(1, "not YAML; --dump-config shows how it is written")),
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, span: &Span) -> Value {
    match (style, &*text) {
        // The parser says `~` for it.
        (ScalarStyle::Plain, _) if span.is_empty() => Value::Empty,
        // Of the core schema (YAML 1.2, 10.3.2).
        (ScalarStyle::Plain, "~" | "null" | "Null" | "NULL") => Value::Null,
        _ => Value::Text(text.into_owned()),
    }
}

fn check_room(entries: usize, span: &Span) -> Result<(), Fault> {
    if entries < ENTRIES_MAX {
        return Ok(());
    }
    Err(fault(line_of(span), format!("more than {ENTRIES_MAX} entries; write fewer")))
}

fn line_of(span: &Span) -> usize {
    span.start.line()
}

fn syntax(error: &ScanError) -> Fault {
    let reason = on_one_line(&error.info());
    fault(
        error.marker().line(),
        format!(
            "not YAML: {reason}; indent with spaces, and quote text that begins with one of *&!%@[{{ \
             or has ': ' or ' #' in it"
        ),
    )
}

fn fault(line: usize, reason: impl Into<String>) -> Fault {
    Fault { line: line.max(1), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tree in one line, `name@line`.
    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Empty => "-".to_owned(),
            Value::Null => "null".to_owned(),
            Value::Text(text) => format!("{text:?}@{}", node.line),
            Value::List(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
            Value::Map(map) => {
                let entry =
                    |(key, value): &(Key, Node)| format!("{}@{}: {}", key.name, key.line, shown(value));
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
}
