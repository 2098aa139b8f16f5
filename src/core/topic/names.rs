//! Parses the names of a server's topics.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Topic, TopicError, TopicHasher};

/// Makes topics of names: ids, or paths with namespaces. Made at startup, for the dialects and the publisher.
#[derive(Clone, Debug)]
pub(crate) struct TopicNames {
    hasher: TopicHasher,
    are_paths: bool,
}

impl TopicNames {
    /// Returns the names of a server with namespaces (`are_paths`) or without.
    pub(crate) fn new(hasher: TopicHasher, are_paths: bool) -> Self {
        TopicNames { hasher, are_paths }
    }

    /// Returns the hasher of its topics.
    pub(crate) fn hasher(&self) -> &TopicHasher {
        &self.hasher
    }

    /// Returns whether topics are paths, whose parents receive what they receive.
    pub(crate) fn are_paths(&self) -> bool {
        self.are_paths
    }

    /// Returns the topic of this name: an id, or segments separated by `/`; nothing in it is percent-encoded.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong with it.
    pub(crate) fn parse(&self, name: &str) -> Result<Topic, TopicError> {
        let segments: SmallVec<[Cow<'_, [u8]>; 8]> = match self.are_paths {
            true => name.split('/').map(|segment| Cow::Borrowed(segment.as_bytes())).collect(),
            false => [Cow::Borrowed(name.as_bytes())].into_iter().collect(),
        };
        self.parse_segments(&segments)
    }

    /// Returns the topic of the decoded segments of a path; without namespaces the first segment is the id.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong with it.
    pub(crate) fn parse_segments(&self, segments: &[Cow<'_, [u8]>]) -> Result<Topic, TopicError> {
        match self.are_paths {
            true => Topic::parse_path(segments, &self.hasher),
            false => Topic::parse(segments.first().map_or(&b""[..], |segment| segment), &self.hasher),
        }
    }
}
