//! Answers that are ready, on their way to the client.

use super::machine::{Connection, End};
use super::pipeline::Encoding;

/// Up to so many answers are sent at once without a charge of their own: they are as small as a read.
const FEW_ANSWERS: usize = 4;
/// Answers are sent in pieces of this size, in bytes, or of the smaller one where there is no memory for it.
const ANSWER_BYTES: usize = 32 << 10;
const ANSWER_BYTES_MIN: usize = 1 << 10;

/// What became of the answers that were ready.
pub(super) enum Flushed {
    Nothing,
    Some,
    End(End),
}

impl Connection<'_, '_> {
    /// Sends answers that are ready; tells how the connection ends if it ends with them.
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
        let taken = self.pipeline.take_ready(encoding, bytes_max, &mut out);
        self.connections.shard.stats().refused.add(taken.refused);
        let send_timeout = self.connections.shard.common.config.stream.send_timeout;
        if !self.holding.write(self.stream, out, send_timeout).await {
            return Flushed::End(End::Cut);
        }
        if taken.closes { Flushed::End(End::Refused) } else { Flushed::Some }
    }
}
