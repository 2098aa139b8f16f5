//! The pattern by which a request's queue is named, from text and the request's query and cookies.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name of a queue, in bytes: AMQP's short string (AMQP 0-9-1, section 4.2.5.3).
const NAME_BYTES_MAX: usize = 255;
/// The prefix of the broker's own queues; it refuses to declare others with it.
const RESERVED: &str = "amq.";

/// The pattern of a queue's name: `${query:id}` is a parameter of the request's query, `${cookie:sid}` one of its
/// cookies, and all else is text, in any mix. Blanks around the two words do not count.
///
/// ```
/// use esper::config::Pattern;
///
/// let pattern: Pattern = "queue-${query:id}".parse()?;
/// assert_eq!(pattern.name(|_| Some("7".to_owned()), |_| None).as_deref(), Ok("queue-7"));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(Vec<PatternPart>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum PatternPart {
    Text(String),
    /// A parameter of the query: visible ASCII, so that its name can be in a header.
    Query(String),
    Cookie(String),
}

/// The reason why a request names no queue. `Display` is one line of ASCII, for a header, and shows nothing that the
/// client sent.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PatternError {
    /// The parameter is missing or empty; accepted, all such clients would share a queue.
    #[error("no query parameter {0}, which names the queue; ask with ?{0}=...")]
    NoQuery(String),
    /// The cookie is missing or empty.
    #[error("no cookie {0}, which names the queue")]
    NoCookie(String),
    /// The name is longer than a queue's may be.
    #[error("the queue's name takes {0} bytes; at most 255 are possible")]
    TooLong(usize),
    /// The name begins with `amq.`.
    #[error("the queue's name begins with amq., as only the broker's own may")]
    Reserved,
    /// RabbitMQ removes CR and LF from a name, which would then be another queue's.
    #[error("the queue's name has a control character")]
    Control,
}

impl Pattern {
    /// Returns the queue's name for a request. `query` and `cookie` return a value by its name, decoded.
    ///
    /// # Errors
    /// [`PatternError`]: what is missing, or why the broker would refuse the name.
    pub fn name(
        &self,
        query: impl Fn(&str) -> Option<String>,
        cookie: impl Fn(&str) -> Option<String>,
    ) -> Result<String, PatternError> {
        let mut queue = String::new();
        let some = |value: Option<String>| value.filter(|value| !value.is_empty());
        for part in &self.0 {
            match part {
                PatternPart::Text(text) => queue.push_str(text),
                PatternPart::Query(name) => {
                    queue += &some(query(name)).ok_or_else(|| PatternError::NoQuery(name.clone()))?;
                }
                PatternPart::Cookie(name) => {
                    queue += &some(cookie(name)).ok_or_else(|| PatternError::NoCookie(name.clone()))?;
                }
            }
        }
        check_name(&queue).map(|()| queue)
    }

    /// Returns whether every request names the same queue, which then has one client at a time.
    pub fn is_constant(&self) -> bool {
        self.0.iter().all(|part| matches!(part, PatternPart::Text(_)))
    }
}

fn check_name(queue: &str) -> Result<(), PatternError> {
    if queue.len() > NAME_BYTES_MAX {
        return Err(PatternError::TooLong(queue.len()));
    }
    if queue.starts_with(RESERVED) {
        return Err(PatternError::Reserved);
    }
    if queue.chars().any(char::is_control) {
        return Err(PatternError::Control);
    }
    Ok(())
}

impl FromStr for Pattern {
    /// What is wrong, where, and what to write.
    type Err = String;

    fn from_str(pattern: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((text, from_name)) = rest.split_once("${") {
            // Counted for people: in characters, from 1.
            let at = 1 + pattern[..pattern.len() - from_name.len() - 2].chars().count();
            let (name, after) = from_name.split_once('}').ok_or_else(|| {
                format!("'${{' at character {at} has no '}}'; write ${{query:NAME}} or ${{cookie:NAME}}")
            })?;
            if !text.is_empty() {
                parts.push(PatternPart::Text(text.to_owned()));
            }
            parts.push(PatternPart::parse(name).map_err(|reason| format!("at character {at}: {reason}"))?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(PatternPart::Text(rest.to_owned()));
        }
        if parts.is_empty() {
            return Err("empty; write what a queue's name is made of, such as ${query:id}".to_owned());
        }
        // A value has at least one character, so this is the shortest name.
        let least: String = parts.iter().map(|part| part.text().unwrap_or("x")).collect();
        check_name(&least).map_err(|reason| format!("{reason}; write another text"))?;
        Ok(Self(parts))
    }
}

impl PatternPart {
    /// Parses the text between `${` and `}`.
    fn parse(source: &str) -> Result<Self, &'static str> {
        // With blanks, as in the file that comes with eventsourced.
        let (kind, name) = source
            .split_once(':')
            .map(|(kind, name)| (kind.trim_ascii(), name.trim_ascii()))
            .filter(|(kind, _)| matches!(*kind, "query" | "cookie"))
            .ok_or("neither query nor cookie; write ${query:NAME} or ${cookie:NAME}")?;
        if name.is_empty() {
            return Err("no name; write one, such as ${query:id}");
        }
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a name with other than visible ASCII; write one such as ${query:id}");
        }
        Ok(if kind == "query" { Self::Query(name.to_owned()) } else { Self::Cookie(name.to_owned()) })
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Query(_) | Self::Cookie(_) => None,
        }
    }
}

impl fmt::Display for Pattern {
    /// Writes the pattern as it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            PatternPart::Text(text) => f.write_str(text),
            PatternPart::Query(name) => write!(f, "${{query:{name}}}"),
            PatternPart::Cookie(name) => write!(f, "${{cookie:{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests;
