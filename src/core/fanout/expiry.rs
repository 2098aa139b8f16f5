//! What time alone brings about: tokens that expire, sends that take too long, heartbeats.

use super::Fanout;
use super::ending::EndReason;
use super::limits::FanoutLimits;

/// The time for a send while too much memory is held.
pub(super) const SEND_TIMEOUT_OVER_MS: u64 = 1000;
/// The last event of a stream whose token expired; EventSource dispatches an event only with data.
pub(super) const EXPIRED: &str = "event:expired\ndata:token expired\n\n";

impl Fanout {
    /// Checks one of `parts` parts of the subscribers for expired tokens, stuck sends and due heartbeats. While too
    /// much memory is held, a send has less time: its bytes are held until the slow client has taken them.
    pub(crate) fn sweep(&mut self, parts: u32, now_ms: u64, unix_s: u64) {
        let send_timeout_ms = match self.memory.is_over() {
            true => self.limits.send_timeout_ms.min(SEND_TIMEOUT_OVER_MS),
            false => self.limits.send_timeout_ms,
        };
        let end = self.subscribers.index_end();
        let part = self.swept % parts;
        self.swept = part + 1;
        let share = |part: u32| (u64::from(end) * u64::from(part) / u64::from(parts)) as u32;
        for index in share(part)..share(part + 1) {
            let Some(subscriber) = self.subscribers.at_mut(index) else { continue };
            if subscriber.expires_s <= unix_s {
                let renewable = self.extras.get(&index).and_then(|extras| extras.renewable.as_ref());
                let renewed = renewable.and_then(|stream| stream.end_after(unix_s));
                subscriber.expires_s = renewed.unwrap_or(u64::MAX);
                if renewed.is_none() {
                    subscriber.end(EXPIRED, false, EndReason::Expired);
                    self.woken.add(index, subscriber);
                }
            }
            let FanoutLimits { lag_bytes_max, skip_slow: skips, .. } = self.limits;
            // A stream that is not sending notices when its turn comes.
            let falls_behind = subscriber.is_sending()
                && (subscriber.falls_behind(&mut self.logs, skips)
                    || subscriber.cursors().len() > 1
                        && subscriber.drops_back(lag_bytes_max, &mut self.logs, skips));
            if subscriber.is_stuck(now_ms, send_timeout_ms) {
                subscriber.cut(&mut self.logs);
                self.woken.add(index, subscriber);
                self.evicted += 1;
            } else if falls_behind {
                self.woken.add(index, subscriber);
                self.evicted += 1;
            } else if self.limits.heartbeat_ms > 0
                && subscriber.is_quiet(index, now_ms, self.limits.heartbeat_ms)
            {
                subscriber.heartbeat_due = true;
                self.woken.add(index, subscriber);
            }
        }
    }
}
