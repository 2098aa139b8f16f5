//! What requests are judged by: keys, and which interfaces there are.

use arc_swap::ArcSwap;

use super::queues::QueueAccess;
use crate::auth::Keyring;
use crate::config::{Config, IpNet};
use crate::core::topic::{Topic, TopicNames};

/// Who may do what, the same on all shards.
#[derive(Debug)]
pub(crate) struct Access {
    /// Read anew when a process is told so.
    pub(crate) keyring: ArcSwap<Keyring>,
    pub(crate) cookie_name: String,
    /// How long a token that is minted here may be good for, in seconds.
    pub(crate) session_s_max: u64,
    /// There is a control port, and what it is called beside addresses and `localhost`.
    pub(crate) control_hosts: Option<Vec<String>>,
    /// Publishing and what shows the broker from inside are on the public port.
    pub(crate) public_publish: bool,
    /// How clients ask for queues of another broker.
    pub(crate) queues: Option<QueueAccess>,
    pub(crate) names: TopicNames,
    /// There is an admin page.
    pub(crate) admin: bool,
    /// What feeds it; no request can name it.
    pub(crate) admin_topic: Topic,
    /// Peers whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

impl Access {
    /// Returns what the configuration says.
    pub(crate) fn new(config: &Config, names: TopicNames) -> Self {
        let control = config.control.as_ref();
        Access {
            keyring: ArcSwap::from_pointee(Keyring::new(config)),
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

    /// Returns whether somebody may ask who is connected.
    pub(crate) fn can_survey(&self) -> bool {
        self.admin || self.control_hosts.is_some()
    }
}
