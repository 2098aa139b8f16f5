//! Questions that one node asks all others.

use crossbeam_channel::Sender;
use serde_json::Value;

/// What a node asks all others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum NodeQuestion {
    /// Its own counters.
    Stats,
    /// Who is connected on the channel of this session topic.
    Sessions { topic: Box<str> },
}

/// A question under way.
#[derive(Debug)]
pub(crate) struct AskNodes {
    pub(crate) question: NodeQuestion,
    /// Gets all answers at once, after a second at most.
    pub(crate) answers: Sender<NodeAnswers>,
}

/// The answers of the other nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeAnswers {
    /// Each node's name, and its answer.
    pub(crate) answers: Vec<(String, Value)>,
    /// The names of nodes that were heard of lately and did not answer.
    pub(crate) silent: Vec<String>,
}
