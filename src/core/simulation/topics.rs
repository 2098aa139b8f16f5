//! The topics of a world, and a client's choice of them.

use crate::core::topic::{Topic, TopicHasher};

/// The paths that clients and publishers choose from.
const PATHS: [&str; 8] = ["a", "a/b", "a/b/c", "a/d", "ab", "e/f", "e", "g/h/i"];

/// The kind of a world's topics.
#[derive(Clone, Copy, Debug)]
pub(super) enum Topics {
    Ids,
    Paths,
    /// A channel's own, then those of its users, for each of two channels.
    Sessions,
}

impl Topics {
    /// Returns all topics of a world.
    pub(super) fn list(self, hasher: &TopicHasher, random: &mut fastrand::Rng) -> Vec<Topic> {
        let path = |path: &str| {
            let segments: Vec<_> = path.split('/').map(|segment| segment.as_bytes().into()).collect();
            Topic::parse_path(&segments, hasher).unwrap()
        };
        let count = random.usize(1..=6);
        match self {
            Topics::Ids => {
                let id = |n| Topic::parse(format!("topicnumber{n}").as_bytes(), hasher).unwrap();
                (0..count).map(id).collect()
            }
            Topics::Paths => PATHS.iter().map(|name| path(name)).chain([Topic::everything(hasher)]).collect(),
            Topics::Sessions => ["a", "b"]
                .iter()
                .flat_map(|channel| [None, Some("x"), Some("y")].map(|user| (channel, user)))
                .map(|(channel, user)| Topic::of_session(channel, user, hasher))
                .collect(),
        }
    }

    /// Returns a client's topics: mostly one, sometimes more of which none covers another; or those of a session.
    pub(super) fn choose(self, topics: &[Topic], random: &mut fastrand::Rng) -> Vec<Topic> {
        let mut chosen: Vec<Topic> = Vec::new();
        if matches!(self, Topics::Sessions) {
            let channel = random.choice([0, 3]).unwrap();
            chosen.push(topics[channel].clone());
            chosen.extend(
                random.choice([None, Some(1), Some(2)]).unwrap().map(|user| topics[channel + user].clone()),
            );
            return chosen;
        }
        for _ in 0..random.choice([1, 1, 2, 4]).unwrap() {
            let topic = random.choice(topics).unwrap();
            if !chosen.iter().any(|known| known.covers(topic) || topic.covers(known)) {
                chosen.push(topic.clone());
            }
        }
        chosen
    }
}
