//! What another thread answers: the bridge, whether a queue is the client's; the admin thread, how the broker is.

use std::borrow::Cow;

use super::{Connection, Source, Stage};
use crate::admin;
use crate::backend::{NoQueue, ToBackend};
use crate::config::RefuseStreams;
use crate::core::message::Ticket;
use crate::core::survey::Client;
use crate::http::Head;
use crate::routes::{Queue, queue_refused};
use crate::shard::Phase;
use crate::shard::pipeline::{Answer, Request, Sharing};
use crate::shard::stream::FULL;

const STOPPING: &str = "the server is stopping; try again later";

impl Connection<'_, '_> {
    /// Has the bridge open a queue.
    pub(super) fn ask_queue(&mut self, request: Request, head: &Head, queue: Queue) -> bool {
        let Queue { name, last_event_id } = queue;
        let shared = &self.shard.shared;
        if shared.streams.are_full() {
            // Before the broker has sent all that there would be no stream for, to send it once more to the next.
            return self.refuse_for_now((request, self.client(head)), FULL);
        }
        let ticket = Ticket { shard: self.shard.id, connection: self.key, request: 0 };
        let open = ToBackend::Open { queue: name, last_event_id, ticket };
        match shared.bridge.as_ref().map(|bridge| bridge.sender.send(open)) {
            Some(Ok(())) => {
                let client = self.client(head);
                self.stay(Stage::Queue(Box::new((request, client))))
            }
            _ => self.refuse_for_now((request, self.client(head)), STOPPING),
        }
    }

    /// Goes on when the bridge has answered.
    pub(super) fn step_queue(&mut self, asked: Box<(Request, Option<Client>)>) -> bool {
        match self.pipeline.take_opened() {
            None if self.shard.phase() == Phase::Serving => self.stay(Stage::Queue(asked)),
            Some(Ok(queue)) => self.stay_for(*asked, Source::Queue(queue)),
            // It may wait for longer than the end may take.
            None => self.refuse_for_now(*asked, STOPPING),
            Some(Err(NoQueue { reason, is_passing: true })) => self.refuse_for_now(*asked, reason),
            Some(Err(NoQueue { reason, .. })) => self.refuse(asked.0, queue_refused(reason.into())),
        }
    }

    /// Refuses a queue for a reason that passes, as `--refuse-streams` says.
    fn refuse_for_now(
        &mut self,
        asked: (Request, Option<Client>),
        reason: impl Into<Cow<'static, str>>,
    ) -> bool {
        match self.shard.shared.config.stream.refuse {
            RefuseStreams::Retry => self.stay_for(asked, Source::NoQueue(reason.into())),
            RefuseStreams::Unavailable => self.refuse(asked.0, queue_refused(reason.into())),
        }
    }

    /// Has the admin thread answer a request.
    pub(super) fn ask_admin(
        &mut self,
        request: Request,
        question: impl FnOnce(Ticket) -> admin::Request,
    ) -> bool {
        let ticket = self.expect(Request { sharing: Sharing::None, ..request });
        if !self.shard.shared.admin.leave(question(ticket)) {
            self.pipeline.answer(ticket.request, Answer::Refused(admin::busy()));
        }
        true
    }
}
