//! Topics: checked names that publishes go to, each with its partition.

mod names;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::iter;
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use thiserror::Error;

pub(crate) use names::TopicNames;

use crate::core::partition::{PartitionId, Partitioner};
use crate::core::random::random_key;

/// Most topics of one stream, and most that one token lists.
pub(crate) const TOPICS_PER_STREAM_MAX: usize = 64;

/// Fewest characters of a topic id.
const NAME_BYTES_MIN: usize = 8;
/// Most characters of a topic id.
const NAME_BYTES_MAX: usize = 64;
/// Most segments of a topic that is a path.
const SEGMENTS_MAX: usize = 8;
/// Most characters of one segment.
const SEGMENT_BYTES_MAX: usize = 64;

/// The prefix of the names of sessions' topics; with a space, so that no request can name one.
const SESSION: &str = "session ";
/// The prefix of the names of queues' topics.
const QUEUE: &str = "queue ";

/// The topic of a publish: a name and its keyed 64-bit hash.
///
/// Without namespaces the name is one id, lower-cased. With them it is a path, whose parents, down to
/// everything, receive what it receives.
///
/// The hash and the partition are computed once, when a request names the topic, and travel with the name. Cheap to clone.
/// Two topics are equal only if they were hashed by the same [`TopicHasher`].
#[derive(Clone)]
pub(crate) struct Topic {
    hash: u64,
    /// The partition of the first segment, so that a whole tree has one order.
    partition: Option<PartitionId>,
    name: Arc<str>,
    // Each parsed topic has a parent of its own, not one for all: a shared reference count would be a cache line that
    // every shard writes at every publish.
    parent: Option<Arc<Topic>>,
}

impl Topic {
    /// Returns the topic of a percent-decoded path segment: 8 to 64 ASCII letters and digits, in any case.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong with the id.
    pub(crate) fn parse(segment: &[u8], hasher: &TopicHasher) -> Result<Topic, TopicError> {
        let text = str::from_utf8(segment).map_err(|_| TopicError::Character)?;
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(TopicError::Character);
        }
        if !(NAME_BYTES_MIN..=NAME_BYTES_MAX).contains(&text.len()) {
            return Err(TopicError::Length { length: text.len() });
        }
        let mut name: Arc<str> = Arc::from(text);
        Arc::make_mut(&mut name).make_ascii_lowercase();
        let (hash, partition) = (hasher.hash(&name), Some(hasher.partition(&name)));
        Ok(Topic { hash, partition, name, parent: None })
    }

    /// Returns the topic of a path of percent-decoded segments: 1 to 8 of them, each 1 to 64 of `[A-Za-z0-9._~-]` (the
    /// unreserved characters of RFC 3986 section 2.3), none of them `.` or `..`. Case matters.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong with the path.
    pub(crate) fn parse_path(segments: &[Cow<'_, [u8]>], hasher: &TopicHasher) -> Result<Topic, TopicError> {
        if !(1..=SEGMENTS_MAX).contains(&segments.len()) {
            return Err(TopicError::Segments { count: segments.len() });
        }
        let mut path = String::with_capacity(segments.iter().map(|segment| segment.len() + 1).sum());
        for segment in segments {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(check_segment(segment)?);
        }
        Ok(Topic::of_path(&path, hasher))
    }

    /// Returns the parent of all paths, "everything": its subscribers receive what is published anywhere.
    pub(crate) fn everything(hasher: &TopicHasher) -> Topic {
        Topic { hash: hasher.hash(""), partition: None, name: "".into(), parent: None }
    }

    /// Returns a topic of the server's own, which no partition orders. Its name has a space, which no topic of a request has,
    /// and nothing covers it.
    pub(crate) fn internal(name: &str, hasher: &TopicHasher) -> Topic {
        debug_assert!(name.contains(' '));
        Topic { hash: hasher.hash(name), partition: None, name: name.into(), parent: None }
    }

    /// Returns the topic of emits to a user on a channel, or to everybody on it. The channel's length stands first, so
    /// that no two pairs share a name; with the space no request can name it. All topics of a channel have one
    /// partition, which orders them together.
    pub(crate) fn of_session(channel: &str, user: Option<&str>, hasher: &TopicHasher) -> Topic {
        let of_all = format!("{SESSION}{}:{channel}", channel.len());
        let partition = Some(hasher.partition(&of_all));
        let name = match user {
            Some(user) => format!("{of_all} {user}"),
            None => of_all,
        };
        Topic { hash: hasher.hash(&name), partition, name: name.into(), parent: None }
    }

    /// Returns the topic of a name that a journal kept: a session's, a path with `namespaces`, or an id.
    pub(crate) fn kept(name: &str, namespaces: bool, hasher: &TopicHasher) -> Topic {
        if let Some((channel, user)) = session_names(name) {
            return Topic::of_session(channel, user, hasher);
        }
        if namespaces {
            return Topic::of_path(name, hasher);
        }
        let first_segment = name.split('/').next().unwrap_or_default();
        let partition = Some(hasher.partition(first_segment));
        Topic { hash: hasher.hash(name), partition, name: name.into(), parent: None }
    }

    /// Returns the topic id, lower-cased; or the path as it was sent, its segments joined by `/`; empty for everything.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the topic of one stream's share of a backend's queue. The number makes it unique, so no other stream
    /// takes it.
    pub(crate) fn of_queue(stream: u64, hasher: &TopicHasher) -> Topic {
        Topic::internal(&format!("{QUEUE}{stream}"), hasher)
    }

    /// Returns whether it is one stream's share of a queue.
    pub(crate) fn is_of_queue(&self) -> bool {
        self.name.starts_with(QUEUE)
    }

    /// Returns whether it carries the emits of a channel.
    pub(crate) fn is_of_session(&self) -> bool {
        self.name.starts_with(SESSION)
    }

    /// Returns the channel of a session's topic, and its user if it is a user's own.
    pub(crate) fn session_names(&self) -> Option<(&str, Option<&str>)> {
        session_names(&self.name)
    }

    /// Returns whether it is the parent of all paths.
    pub(crate) fn is_everything(&self) -> bool {
        self.name.is_empty()
    }

    /// Returns the path without its last segment, at the end everything; `None` for an id and for everything.
    pub(crate) fn parent(&self) -> Option<&Topic> {
        self.parent.as_deref()
    }

    /// Iterates over the topic, its parent, and so on: the topics whose subscribers receive its events. 1 to 9.
    pub(crate) fn lineage(&self) -> impl Iterator<Item = &Topic> {
        iter::successors(Some(self), |topic| topic.parent())
    }

    /// Returns whether the other one is this topic or lies below it. By segments: `pets` covers `pets/dogs` and not
    /// `petshop`. Everything covers ids too.
    pub(crate) fn covers(&self, other: &Topic) -> bool {
        self.is_everything() || other.lineage().any(|topic| topic == self)
    }

    /// Returns the keyed hash of the name.
    #[cfg(test)]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the partition that orders its events, with those of all topics that share its first segment. `None` for
    /// everything, which has a part in each, and for topics of queues and of the server's own, which bypass the homes.
    pub(crate) fn partition(&self) -> Option<PartitionId> {
        self.partition
    }

    /// Returns the topic of a checked path, with all its parents.
    fn of_path(path: &str, hasher: &TopicHasher) -> Topic {
        let mut topic = Topic::everything(hasher);
        let mut partition = None;
        for end in memchr::memchr_iter(b'/', path.as_bytes()).chain([path.len()]) {
            let name = &path[..end];
            let partition = Some(*partition.get_or_insert_with(|| hasher.partition(name)));
            topic = Topic {
                hash: hasher.hash(name),
                partition,
                name: name.into(),
                parent: Some(Arc::new(topic)),
            };
        }
        topic
    }
}

fn session_names(name: &str) -> Option<(&str, Option<&str>)> {
    let (bytes, names) = name.strip_prefix(SESSION)?.split_once(':')?;
    let (channel, rest) = names.split_at_checked(bytes.parse().ok()?)?;
    Some((channel, rest.strip_prefix(' ')))
}

fn check_segment(segment: &[u8]) -> Result<&str, TopicError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    let text = str::from_utf8(segment).map_err(|_| TopicError::SegmentCharacter)?;
    if !text.bytes().all(is_allowed) {
        return Err(TopicError::SegmentCharacter);
    }
    if !(1..=SEGMENT_BYTES_MAX).contains(&text.len()) {
        return Err(TopicError::SegmentLength { length: text.len() });
    }
    // A proxy would resolve them, and so guard another path than the one meant here.
    if matches!(text, "." | "..") {
        return Err(TopicError::Dots);
    }
    Ok(text)
}

impl PartialEq for Topic {
    fn eq(&self, other: &Topic) -> bool {
        // The hash first: different topics cost one compare of integers. Equal names have equal parents.
        self.hash == other.hash && self.name == other.name
    }
}

impl Eq for Topic {}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A session's name may hold any character, line ends too, which would break the log.
        write!(f, "Topic({})", self.name.escape_debug())
    }
}

/// Hashes the names of topics: for maps, with a key of this process, and for partitions. Clones give the same hashes.
#[derive(Clone, Debug)]
pub(crate) struct TopicHasher {
    /// The hasher for maps, with a key.
    maps: SipHasher13,
    partitioner: Partitioner,
}

impl TopicHasher {
    /// Returns a hasher with a random key for maps, so that no client can aim many topics at one bucket.
    pub(crate) fn new(partitioner: Partitioner) -> Self {
        Self::with_key(random_key(), partitioner)
    }

    fn with_key(key: [u8; 16], partitioner: Partitioner) -> Self {
        TopicHasher { maps: SipHasher13::new_with_key(&key), partitioner }
    }

    /// Returns a hasher for this number of partitions.
    #[cfg(test)]
    pub(crate) fn of(partitions: u8) -> Self {
        Self::new(Partitioner::new(partitions, [7; 16]))
    }

    /// Returns a hasher for this number of partitions whose hashes follow from a seed.
    #[cfg(test)]
    pub(crate) fn seeded(partitions: u8, seed: u64) -> Self {
        let key = u128::from(seed).to_ne_bytes();
        Self::with_key(key, Partitioner::new(partitions, key))
    }

    pub(crate) fn hash(&self, name: &str) -> u64 {
        let mut hasher = self.maps;
        hasher.write(name.as_bytes());
        hasher.finish()
    }

    fn partition(&self, first_segment: &str) -> PartitionId {
        self.partitioner.partition(first_segment)
    }
}

/// A map by topic that takes the topic's own hash as it is.
pub(crate) type TopicMap<V> = HashMap<Topic, V, BuildHasherDefault<PassThrough>>;

/// Returns the one `u64` that a [`Topic`] writes, which is a keyed hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    // A topic never comes here; another key would still get a hash that depends on all its bytes.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte);
        }
    }
}

/// The reason why a topic is refused. `Display` is the one line for the person who sent it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum TopicError {
    /// Too short, too long or empty; `length` is in characters.
    #[error(
        "bad topic id: {length} characters; use {NAME_BYTES_MIN} to {NAME_BYTES_MAX} ASCII letters and digits"
    )]
    Length {
        /// Characters in the id that was sent.
        length: usize,
    },
    /// A character other than ASCII letters and digits.
    #[error(
        "bad topic id: a character is not allowed; use {NAME_BYTES_MIN} to {NAME_BYTES_MAX} ASCII letters and digits"
    )]
    Character,
    /// A path of no segment or of too many.
    #[error("bad topic: {count} segments; use 1 to {SEGMENTS_MAX}, separated by '/'")]
    Segments {
        /// Segments in the path that was sent.
        count: usize,
    },
    /// An empty segment, or one too long; `length` is in characters.
    #[error(
        "bad topic: a segment of {length} characters; use 1 to {SEGMENT_BYTES_MAX}, and no '/' at the end"
    )]
    SegmentLength {
        /// Characters in the segment that was sent.
        length: usize,
    },
    /// A character that no segment may have, an encoded slash among them.
    #[error(
        "bad topic: a character is not allowed; use ASCII letters, digits, '.', '_', '~' and '-' in a segment"
    )]
    SegmentCharacter,
    /// A segment that is `.` or `..`.
    #[error("bad topic: a segment is '.' or '..'; use another name")]
    Dots,
}

#[cfg(test)]
mod tests;
