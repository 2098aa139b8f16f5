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

/// Returns an answer of at most so many bytes of JSON: a longer list of users loses those that came last, and says that it
/// is cut.
pub(crate) fn fitting(mut answer: Value, bytes_max: usize) -> Value {
    while answer.to_string().len() > bytes_max {
        let users = answer.get_mut("users").and_then(Value::as_array_mut);
        let Some(users) = users.filter(|users| !users.is_empty()) else { break };
        users.truncate(users.len() / 2);
        answer["cut"] = true.into();
    }
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_that_is_too_long_keeps_its_beginning_and_says_that_it_is_cut() {
        let list = json!({"streams": 9, "cut": false, "users": ["a", "b", "c", "d", "e"]});
        let bytes = list.to_string().len();
        assert_eq!(fitting(list.clone(), bytes), list);
        let shorter = json!({"streams": 9, "cut": true, "users": ["a", "b"]});
        assert_eq!(fitting(list.clone(), bytes - 1), shorter);
        assert_eq!(fitting(list, 1), json!({"streams": 9, "cut": true, "users": []}));
        assert_eq!(fitting(json!([1, 2]), 1), json!([1, 2]));
    }
}
