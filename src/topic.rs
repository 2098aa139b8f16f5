//! Topics: the checked name of where a publish goes, and its place among the shards.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;

use thiserror::Error;

/// Fewest characters of a topic id.
const NAME_BYTES_MIN: usize = 8;
/// Most characters of a topic id.
const NAME_BYTES_MAX: usize = 64;

/// Where a publish goes: a lower-cased name and its keyed 64-bit hash.
///
/// The hash is computed once, at the door, and travels with the name: neither a map of a shard nor the choice
/// of the home shard hashes again. Cheap to clone. Two topics are equal only if they were hashed by the same
/// [`TopicHasher`].
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Topic {
    // First, so that two different topics are told apart by one compare of integers.
    hash: u64,
    name: Arc<str>,
}

impl Topic {
    /// Checks a percent-decoded path segment: 8 to 64 ASCII letters and digits, in any case.
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
        Ok(Topic { hash: hasher.0.hash_one(&*name), name })
    }

    /// A topic with a hash of the test's choice: where its home is must follow from a seed.
    #[cfg(test)]
    pub(crate) fn hashed(name: &str, hash: u64) -> Topic {
        Topic { hash, name: name.into() }
    }

    /// The topic id, lower-cased.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The keyed hash of the name.
    #[cfg(test)]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Index of the shard that orders this topic's events, in `0..shards` (0 when there are no shards).
    pub(crate) fn home(&self, shards: usize) -> usize {
        // The bits 24 to 55 choose the shard, scaled without a division. A hash map takes its bucket from the
        // lowest bits and its tags from the highest seven: were those used here, all topics of one home would
        // share them and crowd into the same buckets.
        let bits = u64::from((self.hash >> 24) as u32);
        ((bits * shards as u64) >> 32) as usize
    }
}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.name)
    }
}

/// The key that topics are hashed with: random, one per server, so that nobody can aim many topics at one
/// shard or one bucket. Clones share the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicHasher(RandomState);

impl TopicHasher {
    /// A hasher with a fresh random key.
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

/// A map by topic that takes the topic's own hash as it is.
pub(crate) type TopicMap<V> = HashMap<Topic, V, BuildHasherDefault<PassThrough>>;

/// Hands on the one `u64` a [`Topic`] writes, which is a keyed hash already.
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

/// Why a topic id is refused. `Display` is the one line for the person who sent it.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, hasher: &TopicHasher) -> Topic {
        Topic::parse(name.as_bytes(), hasher).unwrap()
    }

    #[test]
    fn ids_of_8_to_64_letters_and_digits_are_taken_and_others_are_refused() {
        let hasher = TopicHasher::new();
        for good in ["abcdef12", "ABCDEFGH", "12345678", &"a".repeat(64)] {
            assert!(Topic::parse(good.as_bytes(), &hasher).is_ok(), "{good}");
        }
        for (length, bad) in [(0, String::new()), (7, "a".repeat(7)), (65, "a".repeat(65))] {
            assert_eq!(Topic::parse(bad.as_bytes(), &hasher), Err(TopicError::Length { length }));
        }
        for bad in
            ["abcdef-12", "abcdef 12", "abc/def12", "abcdefgh\n", "abcdefgh\0", "äbcdefgh", "\u{212a}bcdefgh"]
        {
            assert_eq!(Topic::parse(bad.as_bytes(), &hasher), Err(TopicError::Character), "{bad:?}");
        }
        assert_eq!(Topic::parse(b"abcdefgh\xff", &hasher), Err(TopicError::Character));
    }

    #[test]
    fn a_refusal_is_one_line_that_names_the_rule() {
        for error in [TopicError::Length { length: 3 }, TopicError::Character] {
            let line = error.to_string();
            assert!(line.contains("8 to 64 ASCII letters and digits"), "{line}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn case_makes_no_difference() {
        let hasher = TopicHasher::new();
        let (upper, lower) = (topic("AbCdEf123", &hasher), topic("abcdef123", &hasher));
        assert_eq!(upper, lower);
        assert_eq!(upper.hash(), lower.hash());
        assert_eq!(upper.name(), "abcdef123");
    }

    #[test]
    fn a_map_finds_a_topic_by_a_second_parse_of_its_name() {
        let hasher = TopicHasher::new();
        let mut map = TopicMap::default();
        for n in 0..1000 {
            map.insert(topic(&format!("topic{n:05}"), &hasher), n);
        }
        for n in 0..1000 {
            assert_eq!(map.get(&topic(&format!("TOPIC{n:05}"), &hasher.clone())), Some(&n));
        }
        assert!(!map.contains_key(&topic("topic99999", &hasher)));
    }

    #[test]
    fn a_map_takes_the_topics_own_hash() {
        let topic = topic("abcdef123", &TopicHasher::new());
        assert_eq!(BuildHasherDefault::<PassThrough>::default().hash_one(&topic), topic.hash());
    }

    #[test]
    fn every_shard_is_home_to_its_share_of_topics() {
        let hasher = TopicHasher::new();
        for shards in [1, 2, 3, 8, 61] {
            let mut homes = vec![0_u32; shards];
            for n in 0..shards * 1000 {
                homes[topic(&format!("topic{n:08}"), &hasher).home(shards)] += 1;
            }
            // 1000 expected each; 200 is more than six standard deviations.
            assert!(homes.iter().all(|count| count.abs_diff(1000) < 200), "{shards}: {homes:?}");
        }
    }

    #[test]
    fn topics_of_one_home_differ_in_the_bits_a_map_sorts_them_by() {
        let hasher = TopicHasher::new();
        let (mut low, mut high) = ([0_u32; 8], [0_u32; 8]);
        for n in 0..32_000 {
            let topic = topic(&format!("topic{n:08}"), &hasher);
            if topic.home(8) == 5 {
                low[(topic.hash() & 7) as usize] += 1;
                high[(topic.hash() >> 61) as usize] += 1;
            }
        }
        // About 500 expected each.
        assert!(low.iter().chain(&high).all(|count| count.abs_diff(500) < 200), "{low:?} {high:?}");
    }

    #[test]
    fn another_server_hashes_the_same_name_differently() {
        let (one, two) = (topic("abcdef123", &TopicHasher::new()), topic("abcdef123", &TopicHasher::new()));
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn debug_shows_the_name_and_not_the_keyed_hash() {
        assert_eq!(format!("{:?}", topic("Abcdef123", &TopicHasher::new())), "Topic(abcdef123)");
    }
}
