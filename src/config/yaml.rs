//! Parses YAML into a tree that knows its lines. It reads only what a configuration needs: mappings, lists and texts,
//! whose types their keys decide. Whatever could make a small file large or ambiguous is refused: anchors and aliases,
//! tags, deep nesting, a key that is there twice.

use std::borrow::Cow;
use std::collections::HashSet;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, options};

use super::layer::on_one_line;

/// The deepest nesting. A configuration has three levels: a section, a list, an entry's mapping.
const DEPTH_MAX: usize = 8;
/// The most entries of one list or mapping: each is compared with all others, and a file has room for hundreds of
/// thousands.
const ENTRIES_MAX: usize = 1000;

/// A value and its line.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct YamlNode {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) value: YamlValue,
}

/// The value of a [`YamlNode`].
#[derive(Debug, Eq, PartialEq)]
pub(super) enum YamlValue {
    /// No value is written.
    Empty,
    /// `null` or `~`.
    Null,
    /// Anything else that is no list and no mapping, without its quotes: `3000`, `true` and `text` alike.
    Text(String),
    List(Vec<YamlNode>),
    /// All keys are different.
    Map(Vec<(YamlKey, YamlNode)>),
}

/// A mapping's key and its line.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct YamlKey {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) name: String,
}

/// What is wrong, with the remedy, and the line, counted from 1.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct YamlFault {
    pub(super) line: usize,
    pub(super) reason: String,
}

impl YamlValue {
    /// Returns the entries of a mapping; empty for anything else.
    pub(super) fn entries(self) -> Vec<(YamlKey, YamlNode)> {
        match self {
            Self::Map(map) => map,
            _ => Vec::new(),
        }
    }

    /// Returns the name of its kind for a refusal.
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

/// Parses one document. Text with nothing but comments is `YamlValue::Empty`.
pub(super) fn parse(text: &str) -> Result<YamlNode, YamlFault> {
    let limits = options! { flow_nesting_limit: DEPTH_MAX, block_nesting_limit: DEPTH_MAX };
    let mut reader = YamlReader { events: Parser::new_from_str_with_options(text, limits) };
    reader.document()
}

struct YamlReader<'text> {
    events: Parser<'text, StrInput<'text>>,
}

impl<'text> YamlReader<'text> {
    fn document(&mut self) -> Result<YamlNode, YamlFault> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            let line = line_of(&span);
            match event {
                Event::StreamEnd => return Ok(document.unwrap_or(YamlNode { line, value: YamlValue::Empty })),
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if document.is_some() => {
                    return Err(fault(line, "a second document; keep one, without --- between"));
                }
                event => document = Some(self.node(event, &span, 0)?),
            }
        }
    }

    /// Returns the node that begins with this event.
    fn node(&mut self, event: Event<'text>, span: &Span, depth: usize) -> Result<YamlNode, YamlFault> {
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
                        break YamlValue::List(list);
                    }
                    check_room(list.len(), &span)?;
                    list.push(self.node(event, &span, depth + 1)?);
                }
            }
            Event::MappingStart(..) => self.mapping(depth)?,
            _ => return Err(fault(line, "not YAML; --dump-config shows how it is written")),
        };
        Ok(YamlNode { line, value })
    }

    fn mapping(&mut self, depth: usize) -> Result<YamlValue, YamlFault> {
        let mut map = Vec::new();
        let mut names = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(YamlValue::Map(map));
            }
            check_room(map.len(), &span)?;
            let YamlNode { line, value } = self.node(event, &span, depth + 1)?;
            let YamlValue::Text(name) = value else {
                return Err(fault(line, "a key that is no text; write a name before the colon"));
            };
            if !names.insert(name.clone()) {
                let name = on_one_line(&name);
                return Err(fault(line, format!("{name}: there twice; keep one of them")));
            }
            let (event, span) = self.next()?;
            map.push((YamlKey { line, name }, self.node(event, &span, depth + 1)?));
        }
    }

    /// Returns the next event and its place.
    fn next(&mut self) -> Result<(Event<'text>, Span), YamlFault> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(syntax(&error)),
            None => Err(fault(1, "not YAML; --dump-config shows how it is written")),
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, span: &Span) -> YamlValue {
    match (style, &*text) {
        // The parser returns `~` for an empty value.
        (ScalarStyle::Plain, _) if span.is_empty() => YamlValue::Empty,
        // The nulls of the core schema (YAML 1.2, section 10.3.2).
        (ScalarStyle::Plain, "~" | "null" | "Null" | "NULL") => YamlValue::Null,
        _ => YamlValue::Text(text.into_owned()),
    }
}

fn check_room(entries: usize, span: &Span) -> Result<(), YamlFault> {
    if entries < ENTRIES_MAX {
        return Ok(());
    }
    Err(fault(line_of(span), format!("more than {ENTRIES_MAX} entries; write fewer")))
}

fn line_of(span: &Span) -> usize {
    span.start.line()
}

fn syntax(error: &ScanError) -> YamlFault {
    let reason = on_one_line(&error.info());
    fault(
        error.marker().line(),
        format!(
            "not YAML: {reason}; indent with spaces, and quote text that begins with one of *&!%@[{{ \
             or has ': ' or ' #' in it"
        ),
    )
}

fn fault(line: usize, reason: impl Into<String>) -> YamlFault {
    YamlFault { line: line.max(1), reason: reason.into() }
}

#[cfg(test)]
mod tests;
