//! Lists the connected clients for the admin page, without holding the shard up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_channel::Sender;
use serde::{Serialize, Serializer};

use crate::core::arena::Key;
use crate::core::fanout::{Fanout, Progress};
use crate::core::message::ShardId;
use crate::core::session::Session;
use crate::core::topic::Topic;

/// Streams looked at, or listed, in one turn: about 30 us.
const LOOKS_PER_TURN: usize = 256;
/// Bytes of a user agent that are kept.
const AGENT_BYTES_MAX: usize = 256;
/// Different user agents that are shared by their streams. Browsers send a few hundred.
const AGENTS_MAX: usize = 1024;

/// The place that a client is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ClientAddress {
    Ip(IpAddr),
    /// This machine, through a socket in the file system.
    Unix,
}

impl ClientAddress {
    /// Returns the address of IPv4 that an address of IPv6 maps, or else this one: an IPv4 peer of an IPv6 listener has a
    /// mapped address.
    pub(crate) fn to_canonical(self) -> Self {
        match self {
            ClientAddress::Ip(ip) => ClientAddress::Ip(ip.to_canonical()),
            ClientAddress::Unix => ClientAddress::Unix,
        }
    }
}

impl Serialize for ClientAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Ip(ip) => ip.fmt(f),
            ClientAddress::Unix => f.write_str("unix"),
        }
    }
}

/// The client of a stream, as the admin page shows it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The client's own address, as trusted proxies pass it on.
    pub(crate) address: ClientAddress,
    pub(crate) user_agent: Arc<str>,
    /// Unix seconds.
    pub(crate) since_s: u64,
}

/// The clients of a shard's streams, by stream index; owned by the shard.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    /// Stored inline: boxes would cost each stream 40 bytes more.
    entries: Vec<Option<ClientEntry>>,
    agents: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct ClientEntry {
    client: Client,
    stream: Key,
}

/// A request to every shard to list its oldest streams.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub(crate) wanted: Wanted,
    /// The most streams to list.
    pub(crate) streams_max: usize,
    /// The channel for the answer.
    pub(crate) found: Sender<SurveyResult>,
}

/// The filter of a survey.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    All,
    /// Streams with a topic whose name contains this, or of a session whose names do.
    Named(Arc<str>),
    /// Streams that take this topic.
    Of(Topic),
}

/// A shard's answer to a survey.
#[derive(Debug, Default)]
pub(crate) struct SurveyResult {
    pub(crate) streams: Vec<StreamStatus>,
    /// The number of matching streams, listed or not.
    pub(crate) total: usize,
}

/// A stream as a survey lists it.
#[derive(Debug)]
pub(crate) struct StreamStatus {
    pub(crate) shard: ShardId,
    pub(crate) client: Client,
    pub(crate) topics: Vec<Topic>,
    /// Events sent.
    pub(crate) delivered: u64,
    /// Bytes not yet sent to it.
    pub(crate) lag_bytes: u64,
}

/// A survey under way on one shard, which owns it and steps it once a turn.
#[derive(Debug)]
pub(crate) struct Walk {
    survey: Survey,
    next: usize,
    /// The oldest streams found so far, the youngest of them on top.
    oldest: BinaryHeap<(u64, Reverse<usize>)>,
    /// The found streams still to be listed, once all were looked at.
    listing: Option<std::vec::IntoIter<(u64, Reverse<usize>)>>,
    streams: Vec<StreamStatus>,
    total: usize,
}

impl Clients {
    /// Adds a stream's client.
    pub(crate) fn enter(&mut self, stream: Key, mut client: Client) {
        let index = stream.index as usize;
        client.user_agent = self.shared(&client.user_agent);
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(ClientEntry { client, stream });
    }

    /// Removes a stream's client.
    pub(crate) fn leave(&mut self, stream: Key) {
        if let Some(entry) = self.entries.get_mut(stream.index as usize) {
            *entry = None;
        }
    }

    /// Returns a shared copy of a user agent.
    fn shared(&mut self, agent: &str) -> Arc<str> {
        if let Some(known) = self.agents.get(agent) {
            return Arc::clone(known);
        }
        if self.agents.len() >= AGENTS_MAX {
            self.agents.retain(|agent| Arc::strong_count(agent) > 1);
        }
        let agent: Arc<str> = agent.into();
        if self.agents.len() < AGENTS_MAX {
            self.agents.insert(Arc::clone(&agent));
        }
        agent
    }
}

impl Client {
    /// Returns a client with as much of its user agent as is kept.
    pub(crate) fn new(address: ClientAddress, user_agent: &[u8], since_s: u64) -> Self {
        let agent = user_agent.get(..AGENT_BYTES_MAX).unwrap_or(user_agent);
        Client { address, user_agent: String::from_utf8_lossy(agent).into(), since_s }
    }
}

impl Walk {
    pub(crate) fn new(survey: Survey) -> Self {
        Walk { survey, next: 0, oldest: BinaryHeap::new(), listing: None, streams: Vec::new(), total: 0 }
    }

    /// Does one turn's share; returns true once the survey has answered.
    pub(crate) fn step(&mut self, shard: ShardId, clients: &Clients, fanout: &Fanout) -> bool {
        if let Some(mut listing) = self.listing.take() {
            for (_, Reverse(index)) in listing.by_ref().take(LOOKS_PER_TURN) {
                let entry = clients.entries.get(index).and_then(Option::as_ref);
                // The index of a stream that left meanwhile may be another's now, on another topic most likely.
                match entry.filter(|entry| self.is_wanted(entry, fanout)) {
                    Some(entry) => self.streams.push(entry.status(shard, fanout)),
                    None => self.total -= 1,
                }
            }
            if listing.len() > 0 {
                self.listing = Some(listing);
                return false;
            }
            // The asker may have given up.
            let _ = self
                .survey
                .found
                .send(SurveyResult { streams: std::mem::take(&mut self.streams), total: self.total });
            return true;
        }
        let end = (self.next + LOOKS_PER_TURN).min(clients.entries.len());
        for index in self.next..end {
            let Some(entry) = &clients.entries[index] else { continue };
            if !self.is_wanted(entry, fanout) {
                continue;
            }
            self.total += 1;
            let age = (entry.client.since_s, Reverse(index));
            if self.oldest.len() < self.survey.streams_max {
                self.oldest.push(age);
            } else if self.oldest.peek().is_some_and(|youngest| age.0 < youngest.0) {
                self.oldest.pop();
                self.oldest.push(age);
            }
        }
        self.next = end;
        if end == clients.entries.len() {
            self.listing = Some(std::mem::take(&mut self.oldest).into_sorted_vec().into_iter());
        }
        false
    }

    fn is_wanted(&self, entry: &ClientEntry, fanout: &Fanout) -> bool {
        let topics = fanout.topics(entry.stream);
        match &self.survey.wanted {
            Wanted::All => true,
            Wanted::Named(part) => match entry.session(fanout) {
                // Ignores case: the page lower-cases what is typed where topics are ids.
                Some(session) => session.shown().to_lowercase().contains(&part.to_lowercase()),
                None => topics.iter().any(|topic| topic.name().contains(&**part)),
            },
            Wanted::Of(wanted) => topics.contains(&wanted),
        }
    }
}

impl ClientEntry {
    /// Returns the session of the stream, from its last topic: the user's own, or, for `*`, the channel's alone.
    fn session(&self, fanout: &Fanout) -> Option<Session> {
        Session::of_topic(fanout.topics(self.stream).last()?)
    }

    fn status(&self, shard: ShardId, fanout: &Fanout) -> StreamStatus {
        let Progress { topics, delivered, lag_bytes } = fanout.progress(self.stream).unwrap_or_default();
        StreamStatus {
            shard,
            client: self.client.clone(),
            topics: topics.into_iter().cloned().collect(),
            delivered,
            lag_bytes: lag_bytes as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::slice;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::core::arena::Arena;
    use crate::core::chunk::Framing;
    use crate::core::fanout::StreamTerms;
    use crate::core::fanout::subscriber::Opening;
    use crate::core::fanout::{FanoutLimits, Subscription};
    use crate::core::memory::Memory;
    use crate::core::partition::Placement;
    use crate::core::topic::TopicHasher;

    fn client(agent: &str) -> Client {
        Client::new(ClientAddress::Ip(Ipv4Addr::LOCALHOST.into()), agent.as_bytes(), 7)
    }

    #[test]
    fn a_user_agent_is_held_once_and_not_after_the_last_that_has_it() {
        let mut clients = Clients::default();
        let mut keys = Arena::default();
        let (first, second) = (keys.insert(()), keys.insert(()));
        clients.enter(first, client("a browser"));
        clients.enter(second, client("a browser"));
        let agent =
            |key: Key| Arc::clone(&clients.entries[key.index as usize].as_ref().unwrap().client.user_agent);
        assert!(Arc::ptr_eq(&agent(first), &agent(second)));
        clients.leave(first);
        clients.leave(second);
        for n in 0..2 * AGENTS_MAX {
            let key = keys.insert(());
            clients.enter(key, client(&format!("agent {n}")));
            clients.leave(key);
        }
        assert!(clients.agents.len() <= AGENTS_MAX && !clients.agents.contains("a browser"));
    }

    #[test]
    fn so_many_user_agents_are_shared_and_those_in_use_stay() {
        let mut clients = Clients::default();
        let mut keys = Arena::default();
        let mut enter = |clients: &mut Clients, agent: &str| {
            let key = keys.insert(());
            clients.enter(key, client(agent));
            key
        };
        let agent_of = |clients: &Clients, key: Key| {
            Arc::clone(&clients.entries[key.index as usize].as_ref().unwrap().client.user_agent)
        };
        let first: Vec<_> = (0..AGENTS_MAX).map(|n| enter(&mut clients, &format!("agent {n}"))).collect();
        enter(&mut clients, "one more");
        assert_eq!(clients.agents.len(), AGENTS_MAX, "all are in use");
        first[1..].iter().for_each(|key| clients.leave(*key));
        let [one, other] = [enter(&mut clients, "a newcomer"), enter(&mut clients, "a newcomer")];
        assert!(Arc::ptr_eq(&agent_of(&clients, one), &agent_of(&clients, other)), "others made room");
        let same = enter(&mut clients, "agent 0");
        assert!(Arc::ptr_eq(&agent_of(&clients, first[0]), &agent_of(&clients, same)), "it had stayed");
        assert_eq!(clients.agents.len(), 2);
    }

    #[test]
    fn of_a_user_agent_so_much_is_kept() {
        assert_eq!(client(&"x".repeat(5000)).user_agent.len(), AGENT_BYTES_MAX);
    }

    fn new_fanout() -> Fanout {
        let limits = FanoutLimits {
            lag_bytes_max: 1000,
            epochs: None,
            skip_slow: false,
            heartbeat_ms: 0,
            send_timeout_ms: 1000,
            retry_min_ms: 1,
            retry_max_ms: 1,
        };
        Fanout::new(0, Placement::new(16, 1), limits, Memory::new(100_000), 0)
    }

    fn subscribe(topics: &[Topic], fanout: &mut Fanout) -> Key {
        let terms = StreamTerms::of(topics.into());
        let subscription = Subscription { terms, framing: Framing::Plain, opening: Opening::default() };
        fanout.subscribe(subscription, 0, &mut Vec::new())
    }

    #[test]
    fn the_oldest_streams_are_listed_and_all_are_counted_so_many_in_a_turn() {
        let mut fanout = new_fanout();
        let mut clients = Clients::default();
        let topic = Topic::of_session("chat", None, &TopicHasher::of(16));
        // Two of the 2,000 streams began in each second, and neither the first nor the last are the oldest.
        for n in 0..2000 {
            let key = subscribe(slice::from_ref(&topic), &mut fanout);
            let since_s = (n * 7 + 3) % 1000;
            clients.enter(key, Client { since_s, ..client("a browser") });
        }
        for (streams_max, turns) in [(1, 9), (255, 9), (256, 9), (257, 10), (600, 11), (3000, 16)] {
            let (found, answers) = bounded(1);
            let mut walk = Walk::new(Survey { wanted: Wanted::All, streams_max, found });
            let steps = std::iter::repeat_with(|| walk.step(0, &clients, &fanout));
            assert_eq!(steps.take(100).take_while(|is_over| !is_over).count() + 1, turns, "{streams_max}");
            let SurveyResult { streams, total } = answers.recv().unwrap();
            let since: Vec<_> = streams.iter().map(|stream| stream.client.since_s).collect();
            let oldest: Vec<_> = (0..2000).map(|n| n / 2).take(streams_max).collect();
            assert_eq!((total, since), (2000, oldest));
        }
    }

    #[test]
    fn streams_are_found_by_a_part_of_a_topics_name_or_of_what_is_shown_of_a_session_in_any_case() {
        let mut fanout = new_fanout();
        let mut clients = Clients::default();
        let hasher = TopicHasher::of(16);
        let session = |user| Topic::of_session("Chat", user, &hasher);
        let id = |name: &str| Topic::parse(name.as_bytes(), &hasher).unwrap();
        for topics in [
            &[session(None), session(Some("Ann"))][..],
            &[session(None)],
            &[id("abcdef123")],
            &[id("abcdef124"), id("annabell")],
        ] {
            let key = subscribe(topics, &mut fanout);
            clients.enter(key, client("a browser"));
        }
        for (part, total) in
            [("ann", 2), ("chat/ann", 1), ("Chat/", 2), ("chat/*", 1), ("abcdef12", 2), ("session", 0)]
        {
            let (found, answers) = bounded(1);
            let mut walk = Walk::new(Survey { wanted: Wanted::Named(part.into()), streams_max: 10, found });
            while !walk.step(0, &clients, &fanout) {}
            let found = answers.recv().unwrap();
            assert_eq!((found.total, found.streams.len()), (total, total), "{part}");
        }
    }

    #[test]
    fn one_that_takes_the_place_of_another_is_listed_only_where_it_belongs() {
        let mut fanout = new_fanout();
        let mut clients = Clients::default();
        let hasher = TopicHasher::of(16);
        let chat = Topic::of_session("chat", None, &hasher);
        let open = |topic: &Topic, fanout: &mut Fanout, clients: &mut Clients| {
            let key = subscribe(slice::from_ref(topic), fanout);
            clients.enter(key, client("a browser"));
            key
        };
        let stays = open(&chat, &mut fanout, &mut clients);
        let leaves = open(&chat, &mut fanout, &mut clients);
        let (found, answers) = bounded(1);
        let mut walk = Walk::new(Survey { wanted: Wanted::Of(chat.clone()), streams_max: 10, found });
        assert!(!walk.step(0, &clients, &fanout));

        clients.leave(leaves);
        fanout.leave(leaves, &mut Vec::new());
        let other = Topic::of_session("another", None, &hasher);
        assert_eq!(open(&other, &mut fanout, &mut clients).index, leaves.index, "its place is taken");

        assert!(walk.step(0, &clients, &fanout));
        let SurveyResult { streams, total } = answers.recv().unwrap();
        let topics: Vec<_> = streams.iter().flat_map(|stream| &stream.topics).collect();
        assert_eq!((&topics[..], total), (&fanout.topics(stays)[..], 1));
    }
}
