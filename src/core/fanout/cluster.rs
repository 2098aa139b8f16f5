//! What streams are told when this node of a cluster missed events, or when the cluster's order began anew.

use std::sync::Arc;

use super::Fanout;
use super::ending::EndReason;
use crate::core::chunk::{Chunk, Mark};
use crate::core::epochs::Epochs;
use crate::core::event_id::Sequence;
use crate::core::fanout::log::Gain;
use crate::core::fanout::wire::{gap_event, retry_field};
use crate::core::message::{Gap, GapReason};
use crate::core::partition::PartitionId;

/// Steps in which all streams of a node are sent to others.
pub(crate) const SEND_AWAY_STEPS: u32 = 60;

impl Fanout {
    /// Tells all streams that take something of this partition that events up to `upto` may be missing, after
    /// everything that they were sent. Returns the work, in the units of
    /// [`Message::work`](crate::core::message::Message::work).
    pub(super) fn tell_missed(&mut self, partition: PartitionId, upto: Sequence) -> usize {
        let id = self.limits.epochs.as_ref().map(|epochs| epochs.current().text(upto).into());
        let text = gap_event(&Gap { from: None, reason: GapReason::Trimmed, id: id.clone() });
        let chunk = Chunk::of([&text[..]], text.len(), &self.memory);
        let end = text.len() as u32;
        // `id:...`, its line end and the blank line are last.
        let id_at = id.map_or(end - 1, |id: Box<str>| end - ("id:\n\n".len() + id.len()) as u32);
        let marks = [Mark { sequence: upto, end, id_at }];
        let logs = self.logs.of_partition(partition);
        for number in &logs {
            self.gain(*number, Gain { chunk: &chunk, events: 0, last: upto, at_us: 0, marks: &marks });
        }
        logs.len()
    }

    /// Ends all streams because the order began anew: each is told of the gap, with an id of the new epoch at
    /// `ready_at`, from which it goes on when it comes back. Those whose response has not begun are refused for now; those
    /// of queues and of admin pages stay.
    pub(crate) fn reset(&mut self, epochs: &Arc<Epochs>, ready_at: Sequence) {
        if let Some(known) = &mut self.limits.epochs {
            *known = Arc::clone(epochs);
        }
        let epoch = self.limits.epochs.as_ref().map(|epochs| epochs.current());
        let Self { subscribers, extras, woken, random, limits, .. } = self;
        for (index, subscriber) in subscribers.iter_mut() {
            if !subscriber.is_of_homes() {
                continue;
            }
            if !subscriber.has_begun() {
                // What its homes answered so far is of the order that ended.
                subscriber.refused(&retry_field(limits.retry_ms(random)));
                woken.add(index, subscriber);
                continue;
            }
            let code = extras.get(&index).and_then(|extras| extras.code.as_deref());
            let id = epoch.map(|epoch| subscriber.id_at(epoch, ready_at, code).into());
            let gap = gap_event(&Gap { from: None, reason: GapReason::Reset, id });
            let retry = retry_field(limits.retry_ms(random));
            let text = format!("{}{retry}", String::from_utf8_lossy(&gap));
            subscriber.end(&text, false, EndReason::Reset);
            woken.add(index, subscriber);
        }
    }

    /// Ends a share of the streams, so that their clients go to nodes that are not cut off: with `steps_left` steps of
    /// the way, of which the first is [`SEND_AWAY_STEPS`], all that are open at the first are ended by the last. Those
    /// that come meanwhile stay. 0 stops it.
    pub(crate) fn send_away(&mut self, steps_left: u32) {
        if steps_left == SEND_AWAY_STEPS {
            self.leaving = self.subscribers.keys().collect();
        }
        let share = match steps_left {
            0 => return self.leaving.clear(),
            steps_left => self.leaving.len().div_ceil(steps_left as usize),
        };
        let Self { subscribers, woken, random, limits, leaving, .. } = self;
        for key in leaving.drain(leaving.len() - share..) {
            if let Some(subscriber) = subscribers.get_mut(key) {
                subscriber.end(&retry_field(limits.retry_ms(random)), true, EndReason::CutOff);
                woken.add(key.index, subscriber);
            }
        }
    }
}
