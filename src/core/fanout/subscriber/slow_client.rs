//! A client that reads too slowly: it is cut, or skipped forward and told of the gap.

use super::{Cursor, Life, Logs, Stage, Subscriber, detach};

impl Subscriber {
    /// Checks whether a log dropped blocks that the stream was not sent. With `skip` it is told of the gap when it goes
    /// on, else it is cut; returns whether it was cut now.
    pub(crate) fn falls_behind(&mut self, logs: &mut Logs, skip: bool) -> bool {
        for number in 0..self.parts.len() {
            let part = &self.parts[number];
            let is_behind = |cursor: &Cursor| logs[cursor.log].log.is_behind(cursor.place);
            if self.is_live(part)
                && self.cursors[part.cursors()].iter().any(is_behind)
                && self.drop_back(number, logs, skip)
            {
                return true;
            }
        }
        false
    }

    /// Does the same if the stream has more than `bytes_max` to be sent in all its logs together: gives up the
    /// partition that it is furthest behind in. The send under way is not counted, as it is not in a log's own limit.
    pub(crate) fn drops_back(&mut self, bytes_max: usize, logs: &mut Logs, skip: bool) -> bool {
        let live = (0..self.parts.len()).filter(|part| self.is_live(&self.parts[*part]));
        match live.max_by_key(|part| self.lag_of(&self.parts[*part], logs)) {
            Some(part) if self.bytes_behind(logs) > bytes_max => self.drop_back(part, logs, skip),
            _ => false,
        }
    }

    fn drop_back(&mut self, part: usize, logs: &mut Logs, skip: bool) -> bool {
        if skip {
            let part = &mut self.parts[part];
            part.stage = Stage::Skipped;
            detach(&self.cursors[part.cursors()], logs);
        } else {
            self.cut(logs);
        }
        !skip
    }

    /// Closes the stream of a client that is too slow, whose connection is then cut.
    pub(crate) fn cut(&mut self, logs: &mut Logs) {
        self.close(logs);
        self.life = Life::Cut;
    }

    /// Returns whether its next send tells of a gap.
    pub(crate) fn skips_now(&self) -> bool {
        !self.is_sending() && self.parts.iter().any(|part| part.stage == Stage::Skipped)
    }

    /// Returns whether its send takes too long.
    pub(crate) fn is_stuck(&self, now_ms: u64, timeout_ms: u64) -> bool {
        self.is_sending() && self.life == Life::Open && now_ms.saturating_sub(self.touched_ms) > timeout_ms
    }
}
