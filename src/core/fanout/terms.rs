//! What a connection asks of the fan-out for a stream.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::chunk::Framing;
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::wire::Heartbeat;
use crate::core::renewal::RenewableStream;
use crate::core::topic::Topic;

/// A request for a stream, made by its connection.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) terms: StreamTerms,
    pub(crate) framing: Framing,
    pub(crate) opening: Opening,
}

/// Says what a client asked for and may have.
#[derive(Debug)]
pub(crate) struct StreamTerms {
    /// The topics, none of which covers another.
    pub(crate) topics: SmallVec<[Topic; 1]>,
    pub(crate) last_event_id: Option<Box<str>>,
    /// Whether each event says which topic it was published to.
    pub(crate) names_topics: bool,
    /// Unix seconds; `u64::MAX` for never.
    pub(crate) expires_s: u64,
    pub(crate) extras: Option<Box<StreamExtras>>,
}

impl StreamTerms {
    /// Returns those of a stream of these topics for which nothing else was asked.
    pub(crate) fn of(topics: SmallVec<[Topic; 1]>) -> Self {
        StreamTerms { topics, last_event_id: None, names_topics: false, expires_s: u64::MAX, extras: None }
    }
}

/// Holds what few streams have. `Debug` shows none of it: the code admits whoever knows it and the ticket.
#[derive(Default)]
pub(crate) struct StreamExtras {
    /// What it gets when it is quiet.
    pub(crate) heartbeat: Heartbeat,
    /// The code behind its ids, of the ticket that opened it.
    pub(crate) code: Option<Box<str>>,
    /// Says whether its end was moved.
    pub(crate) renewable: Option<Arc<RenewableStream>>,
}

impl fmt::Debug for StreamExtras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamExtras").finish_non_exhaustive()
    }
}
