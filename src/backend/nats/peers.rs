//! The other nodes: who is there, what they are asked, and what they answer. Nothing here orders or keeps events.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::cluster::question::{AskNodes, NodeAnswers, NodeQuestion};

/// How often a node says that it is there.
pub(super) const HERE_INTERVAL: Duration = Duration::from_secs(2);
/// A node that was not heard of for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(7);
/// How long the others may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most nodes that are known at a time: what else comes on the subject is ignored.
const NODES_MAX: usize = 1000;
/// Characters of a node's name that are kept.
const NAME_CHARS_MAX: usize = 128;

/// A message from one node to another, or to all.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum NodeMessage {
    /// It is there. One that has just come wants to know who else is.
    Here {
        node: u64,
        name: String,
        is_new: bool,
    },
    /// It ends.
    Gone {
        node: u64,
    },
    /// So many of its streams got what the count with this number is about.
    Count {
        node: u64,
        count: u64,
        streams: u32,
    },
    Ask {
        node: u64,
        id: u64,
        question: AskedQuestion,
    },
    Answer {
        node: u64,
        id: u64,
        body: Value,
    },
}

/// A question as it is sent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AskedQuestion {
    Stats,
    Sessions { topic: String },
}

impl From<&NodeQuestion> for AskedQuestion {
    fn from(question: &NodeQuestion) -> Self {
        match question {
            NodeQuestion::Stats => AskedQuestion::Stats,
            NodeQuestion::Sessions { topic } => AskedQuestion::Sessions { topic: topic.to_string() },
        }
    }
}

impl From<AskedQuestion> for NodeQuestion {
    fn from(question: AskedQuestion) -> Self {
        match question {
            AskedQuestion::Stats => NodeQuestion::Stats,
            AskedQuestion::Sessions { topic } => NodeQuestion::Sessions { topic: topic.into() },
        }
    }
}

/// The other nodes, and the questions to them; owned by the thread that has the connection.
#[derive(Debug)]
pub(super) struct Peers {
    me: u64,
    others: HashMap<u64, Peer>,
    last_id: u64,
    asked: HashMap<u64, OpenQuestion>,
}

#[derive(Debug)]
struct Peer {
    name: String,
    heard: Instant,
}

#[derive(Debug)]
struct OpenQuestion {
    asking: AskNodes,
    answers: NodeAnswers,
    missing: HashSet<u64>,
    since: Instant,
}

impl Peers {
    pub(super) fn new(me: u64) -> Self {
        Peers { me, others: HashMap::new(), last_id: 0, asked: HashMap::new() }
    }

    /// Returns the nodes that were heard of lately, without this one.
    pub(super) fn others(&self) -> HashSet<u64> {
        self.others.keys().copied().collect()
    }

    /// Notes that a node is there.
    pub(super) fn here(&mut self, node: u64, name: &str, now: Instant) {
        let has_room = self.others.len() < NODES_MAX || self.others.contains_key(&node);
        if node != self.me && has_room {
            let name = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
            self.others.insert(node, Peer { name, heard: now });
        }
    }

    /// Notes that a node ended.
    pub(super) fn gone(&mut self, node: u64) {
        self.others.remove(&node);
        for asked in self.asked.values_mut() {
            asked.missing.remove(&node);
        }
    }

    /// Begins to ask all others; returns the message to send to all.
    pub(super) fn ask(&mut self, asking: AskNodes, now: Instant) -> NodeMessage {
        self.last_id += 1;
        let question = AskedQuestion::from(&asking.question);
        let missing = self.others();
        self.asked.insert(
            self.last_id,
            OpenQuestion { asking, answers: NodeAnswers::default(), missing, since: now },
        );
        NodeMessage::Ask { node: self.me, id: self.last_id, question }
    }

    /// Takes in a node's answer.
    pub(super) fn answer(&mut self, id: u64, node: u64, body: Value) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        if asked.missing.remove(&node) {
            let name = self.others.get(&node).map(|peer| peer.name.clone()).unwrap_or_default();
            asked.answers.answers.push((name, body));
        }
    }

    /// Forgets nodes that were not heard of, and gives the answers of questions that are complete, or waited for long
    /// enough, to those who asked.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.others.retain(|_, peer| now.duration_since(peer.heard) < GONE_AFTER);
        let is_done =
            |asked: &OpenQuestion| asked.missing.is_empty() || now.duration_since(asked.since) > PATIENCE;
        let done: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| is_done(asked)).map(|(id, _)| *id).collect();
        for asked in done.into_iter().filter_map(|id| self.asked.remove(&id)) {
            let OpenQuestion { asking, mut answers, missing, .. } = asked;
            let name = |node: &u64| {
                let known = self.others.get(node).map(|peer| peer.name.clone());
                known.unwrap_or_else(|| format!("{node:x}"))
            };
            answers.silent = missing.iter().map(name).collect();
            // Who asked may have gone.
            let _ = asking.answers.try_send(answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;
    use serde_json::json;

    use super::*;

    #[test]
    fn all_others_are_asked_and_those_that_do_not_answer_are_named() {
        let now = Instant::now();
        let mut peers = Peers::new(1);
        for (node, name) in [(1, "me"), (2, "b\u{7}"), (3, "c")] {
            peers.here(node, name, now);
        }
        let (answers, answered) = bounded(1);
        let message = peers.ask(AskNodes { question: NodeQuestion::Stats, answers }, now);
        let NodeMessage::Ask { node: 1, id, .. } = message else { panic!("{message:?}") };
        peers.answer(id, 2, json!(5));
        peers.answer(id, 2, json!(6));
        peers.answer(id, 4, json!(7));
        peers.sweep(now + PATIENCE);
        assert!(answered.try_recv().is_err());
        peers.sweep(now + PATIENCE + Duration::from_millis(1));
        let NodeAnswers { answers, silent } = answered.try_recv().unwrap();
        assert_eq!((answers, silent), (vec![("b".to_owned(), json!(5))], vec!["c".to_owned()]));
    }

    #[test]
    fn a_node_that_is_not_heard_of_is_gone() {
        let now = Instant::now();
        let mut peers = Peers::new(1);
        peers.here(2, "b", now);
        peers.here(3, "c", now + GONE_AFTER);
        peers.here(4, "d", now + GONE_AFTER);
        peers.gone(4);
        peers.sweep(now + GONE_AFTER);
        assert_eq!(peers.others(), [3].into());
    }

    #[test]
    fn a_question_is_read_as_it_was_written() {
        let asked =
            NodeMessage::Ask { node: 1, id: 2, question: AskedQuestion::Sessions { topic: "t".to_owned() } };
        let text = serde_json::to_string(&asked).unwrap();
        let read = serde_json::from_str::<NodeMessage>(&text).unwrap();
        assert_eq!(format!("{read:?}"), format!("{asked:?}"));
        assert!(serde_json::from_str::<NodeMessage>("{\"kind\":\"other\"}").is_err());
    }
}
