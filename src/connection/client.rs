//! Says who asks: to those who ask who is connected, and to the access log.

use super::machine::Connection;
use crate::access_log::{RequestFacts, RequestRecord};
use crate::clock::unix_s;
use crate::core::survey::Client;
use crate::dialects::{self, Action};
use crate::http::Head;

impl Connection<'_, '_> {
    /// Returns the client of a request; `None` where nobody may ask who is connected.
    pub(super) fn client(&self, head: &Head) -> Option<Client> {
        let access = &self.connections.service.access;
        access.can_survey().then(|| {
            let address = dialects::client_address(self.peer, head, access);
            Client::new(address, head.user_agent.as_deref().unwrap_or_default(), unix_s())
        })
    }

    /// Returns the record of a request, by its head if that could be read and what it asks for if it is not refused;
    /// `None` without an access log.
    pub(super) fn record(&self, read: Option<(&Head, Option<&Action>)>) -> Option<Box<RequestRecord>> {
        let log = self.connections.shard.common.access_log.as_ref()?;
        let facts = match read {
            None => RequestFacts::unread(self.peer.to_canonical()),
            Some((head, action)) => {
                let address = dialects::client_address(self.peer, head, &self.connections.service.access);
                let values = [head.origin.as_deref(), head.user_agent.as_deref()];
                RequestFacts::new(address, head.method.name(), &head.path, action.map(Action::kind), values)
            }
        };
        Some(RequestRecord::new(log, facts, self.since.into_std()))
    }
}
