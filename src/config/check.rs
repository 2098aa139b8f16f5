//! Checks a configuration, whether it came from flags, variables and files or from a program. A flag refuses a value
//! that is wrong by itself; combinations are refused here, with the name of every setting involved, and the remedy.

use std::fmt::{Debug, Display};
use std::time::Duration;

use super::clap_error::refusal;
use super::layer::Layer;
use super::values::{Size, Time};
use super::{BindAddress, Config, Control, Data, KIB, SyncPolicy, cli};
use crate::auth::TOKEN_BYTES_DEFAULT;
use crate::http::Cors;

/// The most shards: each is a thread with a ring, a listener and a share of every limit.
pub(crate) const SHARDS_MAX: usize = 1024;

impl Config {
    /// Checks a configuration that a program filled in, without flags.
    ///
    /// # Errors
    /// One line: which field is wrong, and its allowed values.
    pub(crate) fn check(&self) -> Result<(), String> {
        let shards = self.cpus.ids.len();
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(format!("cpus.ids.len() {shards}: out of range; set it to 1 to {SHARDS_MAX}"));
        }
        if self.stream.heartbeat == Some(Duration::ZERO) {
            return Err(
                "stream.heartbeat 0ns: too often; set it to at least 100ms, or to None for never".to_owned()
            );
        }
        let (mut fields, command) = (self.fields(), cli::command());
        let args = fields.args(&command, |_| false)?;
        command.try_get_matches_from(args).map_err(|error| refusal(&error, &fields).to_string())?;
        self.control.as_ref().map_or(Ok(()), |control| control.check())?;
        self.queues.as_ref().map_or(Ok(()), |queues| queues.check_fields(&self.stream, self.namespaces))?;
        self.check_together(&fields)
    }

    /// Checks that this build can do what is asked for.
    ///
    /// # Errors
    /// The flag, the field, the feature and the remedy, in one line.
    pub(crate) fn check_features(&self) -> Result<(), String> {
        let asked = [
            (cfg!(feature = "amqp"), self.queues.is_some(), "amqp", "--broker-node (Config::queues)"),
            (cfg!(feature = "nats"), self.cluster.is_some(), "nats", "--cluster (Config::cluster)"),
        ];
        match asked.into_iter().find(|(is_built, is_asked, ..)| *is_asked && !is_built) {
            Some((_, _, feature, flag)) => Err(format!(
                "{flag}: this esper was built without the feature {feature}; build it with --features {feature}, or leave \
                 this out"
            )),
            None => Ok(()),
        }
    }

    /// Returns its fields, each under the flag of the same meaning, with the values that a flag could refuse.
    pub(super) fn fields(&self) -> Layer {
        let Self { auth, history, stream, http, mailbox, drain, .. } = self;
        let mut fields: Vec<(&'static str, &str, &dyn Debug)> = vec![
            ("port", "port", &self.port),
            ("partitions", "partitions", &self.partitions),
            ("topics_max", "topics-max", &self.topics_max),
            ("auth.leeway", "leeway", &auth.leeway),
            ("auth.token_bytes_max", "token-max", &auth.token_bytes_max),
            ("auth.session_time_max", "session-time-max", &auth.session_time_max),
            ("history.events_max", "history-events", &history.events_max),
            ("history.bytes_max", "history-bytes", &history.bytes_max),
            ("history.age_max", "history-age", &history.age_max),
            ("history.memory_bytes_max", "history-memory", &history.memory_bytes_max),
            ("stream.lag_bytes_max", "slow-lag", &stream.lag_bytes_max),
            ("stream.send_timeout", "send-timeout", &stream.send_timeout),
            ("stream.retry_min", "retry-min", &stream.retry_min),
            ("stream.retry_max", "retry-max", &stream.retry_max),
            ("http.head_bytes_max", "head-max", &http.head_bytes_max),
            ("http.body_bytes_max", "body-max", &http.body_bytes_max),
            ("http.head_timeout", "head-timeout", &http.head_timeout),
            ("http.body_timeout", "body-timeout", &http.body_timeout),
            ("http.idle_timeout", "idle-timeout", &http.idle_timeout),
            ("http.unanswered_max", "unanswered-max", &http.unanswered_max),
            ("http.memory_bytes_max", "request-memory", &http.memory_bytes_max),
            ("mailbox.bytes_max", "mailbox-bytes", &mailbox.bytes_max),
            ("mailbox.messages_max", "mailbox-messages", &mailbox.messages_max),
            ("mailbox.wait_max", "mailbox-wait", &mailbox.wait_max),
            ("drain.delay", "drain-delay", &drain.delay),
            ("drain.time_max", "drain-time", &drain.time_max),
            ("access_log_sample", "access-log-sample", &self.access_log_sample),
        ];
        if let Some(subscribers) = &self.subscribers_max {
            fields.push(("subscribers_max", "subscribers-max", subscribers));
        }
        if let Some(heartbeat) = &stream.heartbeat {
            fields.push(("stream.heartbeat", "heartbeat", heartbeat));
        }
        if let Some(Data { sync: SyncPolicy::Every(time), .. }) = &self.data {
            fields.push(("data.sync", "sync", time));
        }
        if let Some(Data { bytes_max: Some(bytes), .. }) = &self.data {
            fields.push(("data.bytes_max", "data-max", bytes));
        }
        let mut texts = vec![("auth.cookie_name", "cookie-name", &auth.cookie_name)];
        if let Some(queues) = &self.queues {
            fields.push(("queues.expire", "queue-expire", &queues.expire));
            fields.push(("queues.prefetch", "queue-prefetch", &queues.prefetch));
            fields.push(("queues.ack_window", "queue-ack-window", &queues.ack_window));
            fields.push(("queues.ack_delay", "queue-ack-delay", &queues.ack_delay));
            texts.push(("queues.path", "queue-path", &queues.path));
        }
        if let Some(cluster) = &self.cluster {
            fields.push(("cluster.replicas", "cluster-replicas", &cluster.replicas));
            texts.push(("cluster.name", "cluster-name", &cluster.name));
        }
        // No flag refuses a value of these, but checks of several settings name them.
        let names = [
            ("namespaces", "namespaces"),
            ("cors_origins", "cors-origin"),
            ("data.dir", "data-dir"),
            ("cluster.nodes", "cluster"),
            ("auth.subscriber.audiences", "subscriber-audience"),
            ("auth.publisher.audiences", "publisher-audience"),
            ("auth.session.audiences", "session-audience"),
            ("auth.subscriber.issuers", "subscriber-issuer"),
            ("auth.publisher.issuers", "publisher-issuer"),
            ("auth.session.issuers", "session-issuer"),
        ];
        let mut layer = Layer::default();
        for (name, flag, value) in fields {
            let shown = format!("{value:?}");
            layer.field(name, flag, shown.clone(), Some(shown));
        }
        texts.iter().for_each(|(name, flag, text)| {
            layer.field(name, flag, format!("{text:?}"), Some((*text).clone()))
        });
        let bind = join(&self.bind);
        layer.field("bind", "bind", bind.clone(), Some(bind).filter(|bind| !bind.is_empty()));
        let mode = format!("{:o}", self.bind_mode);
        layer.field("bind_mode", "bind-mode", format!("0o{mode}"), Some(mode));
        if let Some(Control { bind, .. }) = &self.control {
            layer.field("control.bind", "bind-control", bind.to_string(), Some(bind.to_string()));
        }
        names.iter().for_each(|(name, flag)| layer.field(name, flag, String::new(), None));
        layer
    }

    /// Checks settings against each other. `names` says how each was written.
    ///
    /// # Errors
    /// One line: which settings are wrong, and the remedy.
    pub(super) fn check_together(&self, names: &Layer) -> Result<(), String> {
        let Self { history, stream, http, mailbox, .. } = self;
        self.check_listeners(names)?;
        if names.is_given("threads") && names.is_given("cores") {
            let (threads, cores) = (names.of("threads"), names.of("cores"));
            return Err(format!("{threads} and {cores} both say how many CPUs; give one of them"));
        }
        if self.data.is_some() && history.events_max == 0 {
            let events = names.with("history-events", 0);
            return Err(format!("{}: nothing is kept with {events}; leave out one", names.of("data-dir")));
        }
        if let Some(cluster) = &self.cluster {
            cluster.check(names)?;
            if self.data.is_some() {
                return Err(format!(
                    "{} and {}: in a cluster the NATS servers keep the events; leave out {}",
                    names.of("cluster"),
                    names.of("data-dir"),
                    names.of("data-dir")
                ));
            }
            if self.queues.as_ref().is_some_and(|queues| !queues.subscribe.is_empty()) {
                return Err(format!(
                    "{}: every node would publish each message of an exchange; leave broker.subscribe out, and publish \
                     from one program",
                    names.of("cluster")
                ));
            }
            if history.events_max == 0 {
                let events = names.with("history-events", 0);
                return Err(format!(
                    "{}: with {events} there are no ids to go on from at another node; leave it out",
                    names.of("cluster")
                ));
            }
        }
        // The reason names the origin.
        Cors::parse(&self.cors_origins).map_err(|reason| format!("{}: {reason}", names.of("cors-origin")))?;

        let at_least = |flag, size, least, other: &str| at_least(names, flag, Size(size), Size(least), other);
        // Twice, so that the largest event fits with its framing, and beside another one.
        let two_bodies = 2 * http.body_bytes_max;
        let body_max = format!("twice {}", names.with("body-max", Size(http.body_bytes_max)));
        at_least("slow-lag", stream.lag_bytes_max, two_bodies, &body_max)?;
        at_least("mailbox-bytes", mailbox.bytes_max, two_bodies, &body_max)?;
        at_least("request-memory", http.memory_bytes_max, two_bodies, &body_max)?;
        // The memory holds both the logs, for subscribers that are behind, and the histories.
        for (flag, size) in [("slow-lag", stream.lag_bytes_max), ("history-bytes", history.bytes_max)] {
            at_least("history-memory", history.memory_bytes_max, size, &names.with(flag, Size(size)))?;
        }
        let (retry_min, retry_max) = (Time(stream.retry_min), Time(stream.retry_max));
        self::at_least(names, "retry-max", retry_max, retry_min, &names.with("retry-min", retry_min))?;
        self.queues.as_ref().map_or(Ok(()), |queues| queues.check(stream, names))?;
        self.auth.check(names)?;
        self.check_head(names)
    }

    /// Checks that a head has room for a token of the greatest length, and for the id of a stream of everything, which names
    /// the place in each partition and comes back in a header.
    fn check_head(&self, names: &Layer) -> Result<(), String> {
        let token = self.auth.token_bytes_max;
        if token > TOKEN_BYTES_DEFAULT {
            let other = format!("{} and 4KiB for the rest of a head", names.with("token-max", Size(token)));
            at_least(names, "head-max", Size(self.http.head_bytes_max), Size(token + 4 * KIB), &other)?;
        }
        let least = Size(2 * KIB + 17 * usize::from(self.partitions));
        let head_max = Size(self.http.head_bytes_max);
        if !self.namespaces || head_max >= least {
            return Ok(());
        }
        Err(format!(
            "{}: less than ids of streams over {} partitions take with {}; raise {} to {least}",
            names.with("head-max", head_max),
            self.partitions,
            names.of("namespaces"),
            names.of("head-max"),
        ))
    }

    /// Checks the listeners: no two of them, of the control port too, at one place.
    fn check_listeners(&self, names: &Layer) -> Result<(), String> {
        if self.bind.is_empty() {
            return Err(format!("{}: nothing to listen on; set an address", names.of("bind")));
        }
        self.check_ports(names)?;
        let addresses = self.addresses();
        // With IPv4 beside it, `::` is all of IPv6 alone.
        let is_of_v6 = |address: &BindAddress| address.tcp().is_some_and(|address| address.is_ipv6());
        let both =
            |one: &BindAddress, other: &BindAddress| one.overlaps(other) && is_of_v6(one) == is_of_v6(other);
        for (index, address) in addresses.iter().enumerate() {
            if let Some(other) = addresses[..index].iter().find(|other| both(address, other)) {
                let bind = names.with("bind", join(&self.bind));
                return Err(format!("{bind}: {other} and {address} are at one place; leave out one of them"));
            }
        }
        let Some(control) = &self.control else {
            let alone = ["control-token-file", "control-host", "public-publish"];
            return match alone.into_iter().find(|flag| names.is_given(flag)) {
                Some(flag) => Err(format!(
                    "{}: there is no control port; open one with --bind-control 127.0.0.1:8001, or leave this out",
                    names.of(flag)
                )),
                None => Ok(()),
            };
        };
        let name = names.with("bind-control", &control.bind);
        let same = self.bind.iter().find(|address| control.bind.overlaps(&address.at(self.port)));
        if let Some(address) = same {
            let public = match address {
                BindAddress::Ip(ip) => {
                    format!("{} {}", names.with("bind", ip), names.with("port", self.port))
                }
                own => names.with("bind", own),
            };
            return Err(format!("{name}: the public port is there, by {public}; give them different ports"));
        }
        if control.bind.is_exposed() && control.token.is_none() {
            return Err(format!(
                "{name}: other machines may reach it, so it needs a token; \
                 name its file with {}, or bind it to 127.0.0.1 or ::1",
                names.of("control-token-file")
            ));
        }
        Ok(())
    }

    /// Checks that a port is not said beside addresses that all have another one.
    fn check_ports(&self, names: &Layer) -> Result<(), String> {
        let (Some(bind), Some(port)) = (names.get("bind"), names.get("port")) else { return Ok(()) };
        let of_ip = self.bind.iter().filter(|address| !matches!(address, BindAddress::Unix(_)));
        let ports: Option<Vec<u16>> = of_ip.map(BindAddress::port).collect();
        match ports {
            Some(own)
                if !own.is_empty() && !own.contains(&self.port) && port.written.is_beside(&bind.written) =>
            {
                let (bind, port) = (names.with("bind", join(&self.bind)), names.with("port", self.port));
                Err(format!("{bind} and {port} say two ports; give one of them"))
            }
            _ => Ok(()),
        }
    }
}

/// Returns addresses as a flag takes them.
fn join(addresses: &[BindAddress]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Checks that a value is at least `least`, which follows from `other`, a setting shown with its value.
fn at_least<T>(names: &Layer, flag: &str, value: T, least: T, other: &str) -> Result<(), String>
where
    T: PartialOrd + Display,
{
    if value >= least {
        return Ok(());
    }
    let (this, name) = (names.with(flag, value), names.of(flag));
    Err(format!("{this}: less than {other}; raise {name} to {least}, or lower the other"))
}

#[cfg(test)]
mod tests;
