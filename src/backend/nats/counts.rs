//! Counts the streams that an emit or a disconnect of this node reached, over all nodes.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::core::message::{Ordered, Reply, Ticket};

/// How long the other nodes may take to tell their numbers, once this one knows its own.
const PATIENCE: Duration = Duration::from_secs(1);

/// The counts under way, by number; owned by the thread that has the connection.
#[derive(Debug, Default)]
pub(super) struct Counts {
    last: u64,
    under_way: HashMap<u64, PendingCount>,
}

#[derive(Debug)]
struct PendingCount {
    ticket: Ticket,
    streams: u32,
    /// The nodes that have not answered.
    missing: HashSet<u64>,
    /// This node's own reply, and when it came.
    own: Option<(Reply, Instant)>,
}

impl Counts {
    /// Begins a count for a connection; these other nodes are to answer. Returns its number, from 1.
    pub(super) fn begin(&mut self, ticket: Ticket, others: HashSet<u64>) -> u64 {
        self.last += 1;
        self.under_way.insert(self.last, PendingCount { ticket, streams: 0, missing: others, own: None });
        self.last
    }

    /// Takes in this node's own reply; returns the reply to the connection if it is complete.
    pub(super) fn own(&mut self, number: u64, reply: Reply, now: Instant) -> Option<(Ticket, Reply)> {
        let count = self.under_way.get_mut(&number)?;
        count.own = Some((reply, now));
        self.complete(number, false)
    }

    /// Takes in another node's number; returns the reply to the connection if it is complete.
    pub(super) fn of_node(&mut self, number: u64, node: u64, streams: u32) -> Option<(Ticket, Reply)> {
        let count = self.under_way.get_mut(&number)?;
        if count.missing.remove(&node) {
            count.streams = count.streams.saturating_add(streams);
        }
        self.complete(number, false)
    }

    /// Returns the replies that wait no longer.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(Ticket, Reply)> {
        let late = |count: &PendingCount| {
            count.own.as_ref().is_some_and(|(_, since)| now.duration_since(*since) > PATIENCE)
        };
        let numbers: Vec<u64> =
            self.under_way.iter().filter(|(_, count)| late(count)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.complete(number, true)).collect()
    }

    fn complete(&mut self, number: u64, is_late: bool) -> Option<(Ticket, Reply)> {
        let count = self.under_way.get(&number)?;
        let is_refused = matches!(count.own, Some((Reply::Published(Err(_)), _)));
        if count.own.is_none() || !(count.missing.is_empty() || is_late || is_refused) {
            return None;
        }
        let PendingCount { ticket, streams: others, own, .. } = self.under_way.remove(&number)?;
        let reply = match own?.0 {
            Reply::Published(Ok(published)) => {
                let streams = published.streams.unwrap_or(0).saturating_add(others);
                Reply::Published(Ok(Ordered { streams: Some(streams), ..published }))
            }
            Reply::Disconnected(streams) => Reply::Disconnected(streams.saturating_add(others)),
            refused => refused,
        };
        Some((ticket, reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::arena::Arena;
    use crate::core::message::OrderError;

    fn ticket() -> Ticket {
        Ticket { shard: 0, connection: Arena::default().insert(()), request: 1 }
    }

    #[test]
    fn a_count_is_the_sum_of_all_nodes_each_once() {
        let mut counts = Counts::default();
        let now = Instant::now();
        let number = counts.begin(ticket(), [7, 8].into());
        assert_eq!(counts.of_node(number, 7, 3), None);
        assert_eq!(counts.of_node(number, 7, 3), None, "a repeated answer");
        assert_eq!(counts.of_node(number, 9, 100), None, "a node that was not asked");
        assert_eq!(counts.own(number, Reply::Disconnected(2), now), None);
        assert_eq!(counts.of_node(number, 8, 4), Some((ticket(), Reply::Disconnected(9))));
        assert_eq!(counts.of_node(number, 8, 4), None);
    }

    #[test]
    fn a_node_that_does_not_answer_is_waited_for_a_second_and_a_refusal_not_at_all() {
        let mut counts = Counts::default();
        let now = Instant::now();
        let number = counts.begin(ticket(), [7].into());
        assert_eq!(counts.own(number, Reply::Disconnected(2), now), None);
        assert!(counts.overdue(now + PATIENCE).is_empty());
        let late = now + PATIENCE + Duration::from_millis(1);
        assert_eq!(counts.overdue(late), [(ticket(), Reply::Disconnected(2))]);
        let number = counts.begin(ticket(), [7].into());
        let refused = Reply::Published(Err(OrderError::CutOff));
        assert_eq!(counts.own(number, refused.clone(), now), Some((ticket(), refused)));
    }
}
