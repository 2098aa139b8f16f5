//! Sends answers that are ready.

use super::machine::{Connection, End};
use super::pipeline::Encoding;

/// Up to this many answers are sent at once without a charge of their own: they are as small as a read.
const FEW_ANSWERS: usize = 4;
/// The size of the pieces in which answers are sent, in bytes; the smaller one when there is no memory for the larger.
const ANSWER_BYTES: usize = 32 << 10;
const ANSWER_BYTES_MIN: usize = 1 << 10;

/// The result of [`Connection::flush`].
pub(super) enum Flushed {
    Nothing,
    Some,
    End(End),
}

impl Connection<'_, '_> {
    /// Sends answers that are ready; returns how the connection ends if it ends with them.
    pub(super) async fn flush(&mut self) -> Flushed {
        if !self.pipeline.has_answer() {
            return Flushed::Nothing;
        }
        let mut out = Vec::new();
        let date = self.connections.date();
        let bytes_max = match self.pipeline.len() <= FEW_ANSWERS || self.holding.try_add(ANSWER_BYTES) {
            true => ANSWER_BYTES,
            false => ANSWER_BYTES_MIN,
        };
        let encoding = Encoding::of(&self.connections.service, &date);
        let mut taken = self.pipeline.take_ready(encoding, bytes_max, &mut out);
        self.connections.shard.stats().refused.add(taken.refused);
        let send_timeout = self.connections.shard.common.config.stream.send_timeout;
        if !self.holding.write(self.stream, out, send_timeout).await {
            taken.records.iter_mut().for_each(|record| record.unsent());
            return Flushed::End(End::Cut);
        }
        if taken.closes { Flushed::End(End::Refused) } else { Flushed::Some }
    }
}
