//! The shares of a turn's work: messages, sends to streams in lines, streams that were woken, new connections.
//!
//! A publish waits for two turns. A flood wants long ones, in which a block has many events; a publish beside 10,000
//! streams that come back wants short ones: 0.1 ms in place of 0.5 ms.

/// Work of one turn's messages, in [`ShardMessage::work`](super::message::ShardMessage::work): about 1 ms, so that sends
/// and reads are never held up for longer.
const MESSAGES: usize = 2048;
/// The same while streams wait long in their lines: 16 publishes of less than 4 KiB beside up to 2 ms of sends, to lines and
/// to woken streams, so that publishers are slowed before streams are cut. With 256 a flood of 1,000 streams went on at its
/// usual rate. Messages of all kinds and topics wait alike.
const MESSAGES_WHILE_BEHIND: usize = MESSAGES / 32;
/// Work of a turn's sends to streams in lines, and the most for those that were woken, in the units of
/// [`Fanout::send_ready`](crate::core::fanout::Fanout::send_ready): about 1 ms of kernel time.
pub(super) const SENDS: usize = 256;
/// The time of a unit of sends, and of a step of a new connection, in microseconds.
const SEND_US: usize = 4;
const STEP_US: usize = 8;
/// The time for which a publish has others expected, in milliseconds.
const PUBLISHER_MS: u64 = 1_000;

/// The work of a turn after its messages and its sends to streams in lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shares {
    /// For streams that were woken, in units of sends.
    pub(crate) woken: usize,
    /// For new connections, of which each takes two.
    pub(crate) steps: usize,
}

/// The least of each while nobody publishes: 0.4 ms, of which the 9 us that any turn costs are little.
pub(crate) const LEAST: Shares = Shares { woken: 64, steps: 16 };
/// The least of each while somebody does: less than 0.1 ms.
const LEAST_BESIDE_PUBLISHES: Shares = Shares { woken: 8, steps: 2 };

/// Returns the work of a turn's messages.
pub(super) fn messages(is_behind: bool) -> usize {
    if is_behind { MESSAGES_WHILE_BEHIND } else { MESSAGES }
}

/// Returns the work of a turn after its messages and sends, which took `spent_us`: each the same time again, up to 1 ms,
/// but not less than [`LEAST`], or less than that beside publishes, of which the last came `quiet_ms` ago.
pub(super) fn after_sends(spent_us: u64, quiet_ms: u64) -> Shares {
    let least = if quiet_ms < PUBLISHER_MS { LEAST_BESIDE_PUBLISHES } else { LEAST };
    let spent_us = usize::try_from(spent_us).unwrap_or(usize::MAX).min(SENDS * SEND_US);
    Shares { woken: (spent_us / SEND_US).max(least.woken), steps: (spent_us / STEP_US).max(least.steps) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_turn_takes_as_long_as_what_came_before_and_less_beside_publishes() {
        assert_eq!((after_sends(0, PUBLISHER_MS), after_sends(0, 0)), (LEAST, LEAST_BESIDE_PUBLISHES));
        for quiet_ms in [PUBLISHER_MS - 1, PUBLISHER_MS] {
            assert_eq!(after_sends(400, quiet_ms), Shares { woken: 100, steps: 50 });
        }
        assert_eq!(after_sends(30, PUBLISHER_MS), LEAST);
        assert_eq!(after_sends(u64::MAX, 0), Shares { woken: SENDS, steps: SENDS / 2 });
    }

    #[test]
    fn streams_that_are_behind_leave_less_for_publishers() {
        assert_eq!((messages(false), messages(true)), (2048, 64));
    }
}
