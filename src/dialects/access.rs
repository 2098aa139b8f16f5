//! The rules that requests are checked against: keys, and which interfaces are on.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::queues::QueueAccess;
use crate::auth::{Keyring, Secret, UsedTickets};
use crate::config::{Auth, Config, IpNet};
use crate::core::renewal::RenewableStreams;
use crate::core::topic::{Topic, TopicNames};

const DAY_S: u64 = 24 * 60 * 60;

/// The access rules, made of the configuration once; all shards share them.
#[derive(Debug)]
pub(crate) struct Access {
    /// Replaced as a whole when keys are reloaded.
    pub(super) keyring: ArcSwap<Keyring>,
    /// Signs tickets where subscribers have public keys alone; no other node has it.
    own_secret: Secret,
    pub(super) used_tickets: UsedTickets,
    /// The leeway for the clocks of those who sign, in seconds.
    pub(super) leeway_s: u64,
    pub(super) renewable: Arc<RenewableStreams>,
    pub(crate) cookie_name: String,
    /// The longest lifetime of a token that is minted here, in seconds.
    pub(crate) session_s_max: u64,
    /// The host names of the control port, beside addresses and `localhost`; `None` without one.
    pub(crate) control_hosts: Option<Vec<String>>,
    /// Whether publishing and inside views (statistics, admin page) are on the public port.
    pub(crate) public_publish: bool,
    /// How clients ask for queues of a message broker; `None` when they cannot.
    pub(crate) queues: Option<QueueAccess>,
    pub(crate) names: TopicNames,
    /// Whether there is an admin page.
    pub(crate) admin: bool,
    /// The topic that feeds it; no request can name it.
    pub(crate) admin_topic: Topic,
    /// Peers whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

impl Access {
    /// Returns the access rules of this configuration.
    pub(crate) fn new(config: &Config, names: TopicNames) -> Self {
        let control = config.control.as_ref();
        let own_secret = Secret::random();
        Access {
            keyring: ArcSwap::from_pointee(keyring(config, &own_secret)),
            own_secret,
            used_tickets: UsedTickets::new(Instant::now()),
            leeway_s: config.auth.leeway.as_secs(),
            renewable: Arc::default(),
            cookie_name: config.auth.cookie_name.clone(),
            session_s_max: config.auth.session_time_max.as_secs(),
            control_hosts: control.map(|control| control.hosts.clone()),
            public_publish: control.is_none_or(|control| control.public_publish),
            admin_topic: Topic::internal("admin events", names.hasher()),
            names,
            queues: config.queues.as_ref().map(QueueAccess::new),
            admin: config.admin,
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }

    /// Replaces the keys and secrets by those of this configuration.
    pub(crate) fn replace_keys(&self, config: &Config) {
        self.keyring.store(Arc::new(keyring(config, &self.own_secret)));
    }

    /// Returns the lifetime of what is made here, in seconds: the one that was asked for, or a day, or less where less is the
    /// most.
    pub(super) fn lifetime_s(&self, asked: Option<u64>) -> u64 {
        asked.unwrap_or_else(|| DAY_S.min(self.session_s_max))
    }

    /// Returns whether anybody may ask who is connected.
    pub(crate) fn can_survey(&self) -> bool {
        self.admin || self.control_hosts.is_some()
    }
}

/// Returns the keys and secrets of this configuration.
fn keyring(config: &Config, own_secret: &Secret) -> Keyring {
    let Auth { enabled, subscriber, publisher, session, leeway, .. } = &config.auth;
    let token = config.control.as_ref().and_then(|control| control.token.as_ref());
    Keyring::new(*enabled, subscriber, publisher, session, leeway.as_secs(), own_secret, token)
}
