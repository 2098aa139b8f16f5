//! What a program puts into a [`Config`] itself no flag has checked: the same limits, by the fields' names.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::values::{COUNT_MAX, Size, Time, cookie_name, host_name};
use super::{Auth, Config, Control, Data, KIB, MIB, SyncPolicy};
use crate::core::partition::PARTITIONS_MAX;

/// Each shard is a thread with a ring, a listener and a share of every limit.
pub(crate) const SHARDS_MAX: usize = 1024;

const TIME_MIN: Duration = Duration::from_millis(1);
/// Below this a server with many idle streams does nothing but comment.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

impl Config {
    /// Checks every limit by itself, then those that hold together.
    ///
    /// # Errors
    /// One line: which field is wrong, and what it may be.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { cpus, history, stream, http, mailbox, drain, .. } = self;
        let times = |least: Duration| least..=Time::MAX;
        let counts = |least: usize| least..=COUNT_MAX;
        let sizes = 0..=usize::try_from(Size::MAX).unwrap_or(usize::MAX);

        within("cpus.ids.len()", cpus.ids.len(), 1..=SHARDS_MAX)?;
        within("partitions", self.partitions, 1..=PARTITIONS_MAX)?;
        within("topics_max", self.topics_max, counts(1))?;
        within("subscribers_max", self.subscribers_max.unwrap_or(1), counts(1))?;
        within("history.events_max", history.events_max, counts(0))?;
        within("history.bytes_max", history.bytes_max, sizes.clone())?;
        within("history.memory_bytes_max", history.memory_bytes_max, sizes.clone())?;
        within("history.age_max", history.age_max, times(TIME_MIN))?;
        within("stream.heartbeat", stream.heartbeat.unwrap_or(HEARTBEAT_MIN), times(HEARTBEAT_MIN))?;
        within("stream.lag_bytes_max", stream.lag_bytes_max, sizes.clone())?;
        within("stream.send_timeout", stream.send_timeout, times(TIME_MIN))?;
        within("stream.retry_min", stream.retry_min, times(TIME_MIN))?;
        within("stream.retry_max", stream.retry_max, times(TIME_MIN))?;
        within("http.head_bytes_max", http.head_bytes_max, KIB..=MIB)?;
        within("http.body_bytes_max", http.body_bytes_max, KIB..=64 * MIB)?;
        within("http.head_timeout", http.head_timeout, times(TIME_MIN))?;
        within("http.body_timeout", http.body_timeout, times(TIME_MIN))?;
        within("http.idle_timeout", http.idle_timeout, times(TIME_MIN))?;
        within("http.unanswered_max", http.unanswered_max, counts(1))?;
        within("http.memory_bytes_max", http.memory_bytes_max, MIB..=*sizes.end())?;
        within("mailbox.bytes_max", mailbox.bytes_max, sizes)?;
        within("mailbox.messages_max", mailbox.messages_max, counts(1))?;
        within("mailbox.wait_max", mailbox.wait_max, times(Duration::ZERO))?;
        within("drain.delay", drain.delay, times(Duration::ZERO))?;
        within("drain.time_max", drain.time_max, times(TIME_MIN))?;
        within("auth.session_time_max", self.auth.session_time_max, times(Auth::SESSION_TIME_MIN))?;
        cookie_name(&self.auth.cookie_name).map_err(|reason| format!("auth.cookie_name: {reason}"))?;
        self.control.as_ref().map_or(Ok(()), |control| self.check_control(control))?;
        self.queues.as_ref().map_or(Ok(()), |queues| queues.check(stream, self.namespaces))?;

        // Twice, so that the largest event fits with its frame's own bytes, and beside another one.
        let two_bodies = ("twice http.body_bytes_max", 2 * http.body_bytes_max);
        at_least("stream.lag_bytes_max", stream.lag_bytes_max, two_bodies)?;
        at_least("mailbox.bytes_max", mailbox.bytes_max, two_bodies)?;
        at_least("http.memory_bytes_max", http.memory_bytes_max, two_bodies)?;
        // The memory holds the logs, which hold what subscribers are behind, and the histories.
        let memory = |other| at_least("history.memory_bytes_max", history.memory_bytes_max, other);
        memory(("stream.lag_bytes_max", stream.lag_bytes_max))?;
        memory(("history.bytes_max", history.bytes_max))?;
        if let Some(data) = &self.data {
            within("data.bytes_max", data.bytes_max.unwrap_or(usize::MAX), Data::BYTES_MAX_MIN..=usize::MAX)?;
            if let SyncPolicy::Every(time) = data.sync {
                within("data.sync", time, times(TIME_MIN))?;
            }
            within("history.events_max with data", history.events_max, counts(1))?;
        }
        if self.namespaces {
            let ids = ("what ids of streams over all partitions take", Self::head_bytes_min(self.partitions));
            at_least("http.head_bytes_max", http.head_bytes_max, ids)?;
        }
        at_least("stream.retry_max", stream.retry_max, ("stream.retry_min", stream.retry_min))
    }

    /// Returns the least `Http::head_bytes_max` with namespaces: the id of a stream of everything names the place
    /// in each partition, and comes back in a header.
    pub(super) fn head_bytes_min(partitions: u8) -> usize {
        2 * KIB + 17 * usize::from(partitions)
    }

    fn check_control(&self, control: &Control) -> Result<(), String> {
        let Control { bind, hosts, token, public_publish: _ } = control;
        if control.overlaps(self.bind, self.port) {
            return Err(format!("control.bind {bind}: the public listener is there; set another port"));
        }
        if let Some(host) = hosts.iter().find(|host| host_name(host).as_ref() != Ok(host)) {
            return Err(format!("control.hosts {host:?}: no name; write it in lower case, without a port"));
        }
        match token {
            Some(token) => Control::check_token(token).map_err(|reason| format!("control.token: {reason}")),
            None if control.is_exposed() => Err(format!(
                "control.token None: other machines may reach control.bind {bind}; set one, or bind to loopback"
            )),
            None => Ok(()),
        }
    }
}

fn within<T: PartialOrd + Debug>(field: &str, value: T, range: RangeInclusive<T>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(format!("{field} {value:?}: out of range; set it to {least:?} to {most:?}"))
}

fn at_least<T: PartialOrd + Debug>(field: &str, value: T, (other, least): (&str, T)) -> Result<(), String> {
    if value >= least {
        return Ok(());
    }
    Err(format!("{field} {value:?}: less than {other} {least:?}; raise it, or lower the other"))
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    fn control(bind: &str) -> Control {
        Control::new(bind.parse().unwrap())
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_its_field() {
        type Row = (&'static str, fn(&mut Config));
        let rows: [Row; 38] = [
            ("cpus.ids.len() 0", |c| c.cpus.ids.clear()),
            ("cpus.ids.len() 1025", |c| c.cpus.ids = (0..1025).collect()),
            ("partitions 0", |c| c.partitions = 0),
            ("partitions 65", |c| c.partitions = 65),
            ("topics_max 0", |c| c.topics_max = 0),
            ("subscribers_max 0", |c| c.subscribers_max = Some(0)),
            ("history.events_max", |c| c.history.events_max = usize::MAX),
            ("history.bytes_max", |c| c.history.bytes_max = usize::MAX),
            ("history.memory_bytes_max", |c| c.history.memory_bytes_max = usize::MAX),
            ("history.age_max 0ns", |c| c.history.age_max = Duration::ZERO),
            ("stream.heartbeat 99ms", |c| c.stream.heartbeat = Some(Duration::from_millis(99))),
            ("stream.lag_bytes_max", |c| c.stream.lag_bytes_max = usize::MAX),
            ("stream.send_timeout", |c| c.stream.send_timeout = Duration::MAX),
            ("stream.retry_min", |c| c.stream.retry_min = Duration::ZERO),
            ("stream.retry_max", |c| c.stream.retry_max = Duration::MAX),
            ("http.head_bytes_max 1023", |c| c.http.head_bytes_max = 1023),
            ("http.body_bytes_max 0", |c| c.http.body_bytes_max = 0),
            ("http.head_timeout", |c| c.http.head_timeout = Duration::ZERO),
            ("http.body_timeout", |c| c.http.body_timeout = Duration::ZERO),
            ("http.idle_timeout", |c| c.http.idle_timeout = Duration::ZERO),
            ("http.unanswered_max 0", |c| c.http.unanswered_max = 0),
            ("http.memory_bytes_max 1048575", |c| c.http.memory_bytes_max = MIB - 1),
            ("mailbox.bytes_max", |c| c.mailbox.bytes_max = usize::MAX),
            ("mailbox.messages_max 0", |c| c.mailbox.messages_max = 0),
            ("mailbox.wait_max", |c| c.mailbox.wait_max = Duration::MAX),
            ("drain.delay", |c| c.drain.delay = Duration::MAX),
            ("drain.time_max 0ns", |c| c.drain.time_max = Duration::ZERO),
            ("auth.cookie_name", |c| c.auth.cookie_name = "a;b".into()),
            ("auth.session_time_max 999ms", |c| c.auth.session_time_max = Duration::from_millis(999)),
            ("auth.session_time_max", |c| c.auth.session_time_max = Duration::MAX),
            ("control.bind 127.0.0.1:3000: the public", |c| c.control = Some(control("127.0.0.1:3000"))),
            ("control.token None: other machines", |c| c.control = Some(control("0.0.0.0:1"))),
            ("control.token: a token of less than 16 bytes", |c| {
                c.control = Some(Control { token: Secret::new("fifteen bytes.."), ..control("0.0.0.0:1") });
            }),
            ("control.token: a token with other than", |c| {
                c.control = Some(Control { token: Secret::new("sixteen bytes..."), ..control("0.0.0.0:1") });
            }),
            ("control.hosts \"A.example\"", |c| {
                c.control = Some(Control { hosts: vec!["A.example".into()], ..control("127.0.0.1:1") });
            }),
            ("control.hosts \"a:80\"", |c| {
                c.control =
                    Some(Control { hosts: vec!["b".into(), "a:80".into()], ..control("127.0.0.1:1") });
            }),
            ("history.memory_bytes_max 3145728: less than", |c| c.history.memory_bytes_max = 3 * MIB),
            ("stream.retry_max 500ms: less than", |c| c.stream.retry_max = Duration::from_millis(500)),
        ];
        for (start, change) in rows {
            let mut config = Config::default();
            change(&mut config);
            let refused = config.check().unwrap_err();
            assert!(refused.starts_with(start), "{refused}, should begin with {start}");
            assert!(!refused.contains('\n'));
        }
    }

    #[test]
    fn what_the_flags_allow_at_their_edges_is_allowed() {
        let exposed = Control { token: Secret::new("sixteen-bytes..."), ..control("0.0.0.0:3001") };
        let config = Config { control: Some(exposed), ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        for line in [
            "",
            "--bind-control 127.0.0.1:0 --control-host a.example,b --session-time-max 365d",
            "--bind 127.0.0.1:0 --bind-control [::1]:1 --session-time-max 1s",
            "--heartbeat 100ms --history-events 0 --mailbox-wait 0s --retry-min 365d --retry-max 365d",
            "--heartbeat 0s --topics-max 1000000000 --subscribers-max 1 --mailbox-messages 1",
            "--head-max 1MiB --body-max 1KiB --slow-lag 2KiB --mailbox-bytes 2KiB --request-memory 1MiB",
            "--body-max 64MiB --slow-lag 128MiB --mailbox-bytes 128MiB --history-memory 1PiB",
        ] {
            let config = Config::parse(["esper"].into_iter().chain(line.split_whitespace()), &|_| None);
            assert_eq!(config.unwrap().check(), Ok(()), "{line}");
        }
    }
}
