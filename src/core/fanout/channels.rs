//! The logs of a shard, by what they take of a home.

use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slab::Slab;
use smallvec::SmallVec;

use crate::core::arena::Key;
use crate::core::event_id::Sequence;
use crate::core::fanout::log::Log;
use crate::core::memory::Memory;
use crate::core::message::ShardId;
use crate::core::selection::{Selection, SelectionMap};
use crate::core::topic::{Topic, TopicMap};

/// Every channel of a shard, by a number that it keeps.
#[derive(Debug, Default)]
pub(super) struct Channels {
    slots: Slab<Channel>,
    by_selection: SelectionMap<u32>,
    /// The channels that a topic's events are for.
    by_topic: TopicMap<SmallVec<[u32; 2]>>,
}

/// The log of a selection, and who reads it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) selection: Selection,
    /// Where it stands among the channels of each of its topics: thousands may share one, and leave at once.
    places: Box<[u32]>,
    pub(super) log: Log,
    pub(super) subscribers: u32,
    /// Those with nothing to send, sent to when the next block is sealed.
    pub(super) idle: Vec<u32>,
    /// Of a queue's topic.
    pub(super) follower: Option<Follower>,
    /// Whether it gained something this turn.
    pub(super) gained: bool,
}

/// The one subscriber of a queue's topic.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) key: Key,
    /// Where the number of the newest event that the kernel took from it is told.
    pub(super) sent: Arc<AtomicU64>,
}

impl Channels {
    /// The selection's channel.
    pub(super) fn find_or_insert(&mut self, selection: &Selection, memory: &Arc<Memory>) -> u32 {
        if let Some(&key) = self.by_selection.get(selection) {
            return key;
        }
        // At most one per subscriber and home, far below 2^32.
        let key = self.slots.vacant_key() as u32;
        let mut places = Vec::with_capacity(selection.topics().len());
        for topic in selection.topics() {
            let channels = self.by_topic.entry(topic.clone()).or_default();
            places.push(channels.len() as u32);
            channels.push(key);
        }
        self.slots.insert(Channel {
            selection: selection.clone(),
            places: places.into(),
            log: Log::new(Arc::clone(memory), selection.is_part()),
            subscribers: 0,
            idle: Vec::new(),
            follower: None,
            gained: false,
        });
        self.by_selection.insert(selection.clone(), key);
        key
    }

    /// Forgets a channel; returns what it took, and the topics of its home that no other channel takes.
    pub(super) fn remove(&mut self, key: u32) -> (Selection, Vec<Topic>) {
        let Channel { selection, places, .. } = self.slots.remove(key as usize);
        self.by_selection.remove(&selection);
        let mut left = Vec::new();
        for (topic, &place) in selection.topics().iter().zip(&places) {
            let Some(channels) = self.by_topic.get_mut(topic) else { continue };
            channels.swap_remove(place as usize);
            if let Some(&moved) = channels.get(place as usize) {
                self.slots[moved as usize].moves(topic, place);
            }
            // Everything is a topic of every home.
            let is_at_home = |key: &u32| self.slots[*key as usize].selection.home() == selection.home();
            if !channels.iter().any(is_at_home) {
                left.push(topic.clone());
            }
            if channels.is_empty() {
                self.by_topic.remove(topic);
            }
        }
        (selection, left)
    }

    /// Runs `each` for every channel that takes this topic of this home.
    pub(super) fn taking(&mut self, topic: &Topic, home: ShardId, mut each: impl FnMut(u32, &mut Channel)) {
        for &key in self.by_topic.get(topic).into_iter().flatten() {
            let channel = &mut self.slots[key as usize];
            if channel.selection.home() == home {
                each(key, channel);
            }
        }
    }

    /// The one subscriber of a queue's topic.
    pub(super) fn follower(&self, topic: &Topic) -> Option<Key> {
        let channels = self.by_topic.get(topic)?;
        channels
            .iter()
            .find_map(|key| self.slots[*key as usize].follower.as_ref().map(|follower| follower.key))
    }

    /// The channels that take this topic, of whatever home.
    pub(super) fn of(&self, topic: &Topic) -> &[u32] {
        self.by_topic.get(topic).map_or(&[], |channels| channels)
    }

    pub(super) fn get(&self, key: u32) -> Option<&Channel> {
        self.slots.get(key as usize)
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut Channel> {
        self.slots.get_mut(key as usize)
    }

    /// Bytes of all logs.
    #[cfg(test)]
    pub(super) fn log_bytes(&self) -> usize {
        self.slots.iter().map(|(_, channel)| channel.log.bytes()).sum()
    }
}

impl Index<u32> for Channels {
    type Output = Channel;

    fn index(&self, key: u32) -> &Channel {
        &self.slots[key as usize]
    }
}

impl IndexMut<u32> for Channels {
    fn index_mut(&mut self, key: u32) -> &mut Channel {
        &mut self.slots[key as usize]
    }
}

impl Channel {
    /// Tells how far its follower, if it has one, has been sent.
    pub(super) fn tell_sent(&self, sent: Sequence) {
        if let Some(follower) = &self.follower {
            follower.sent.store(sent, Ordering::Relaxed);
        }
    }

    /// Its place among the channels of this topic is another.
    fn moves(&mut self, topic: &Topic, place: u32) {
        if let Some(number) = self.selection.topics().iter().position(|own| own == topic) {
            self.places[number] = place;
        }
    }

    /// Lists a subscriber among the idle, unless it is there. `place` may be out of date: the list is taken
    /// away whole when a block comes, and nobody visits its members to tell them.
    pub(super) fn list_idle(&mut self, index: u32, place: &mut u32) {
        if self.idle.get(*place as usize) != Some(&index) {
            *place = self.idle.len() as u32;
            self.idle.push(index);
        }
    }

    /// Takes a subscriber off the list; returns who has its place now.
    pub(super) fn unlist_idle(&mut self, index: u32, place: u32) -> Option<u32> {
        if self.idle.get(place as usize) != Some(&index) {
            return None;
        }
        self.idle.swap_remove(place as usize);
        self.idle.get(place as usize).copied()
    }
}
