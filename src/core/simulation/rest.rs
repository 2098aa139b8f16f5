//! The end of a world: it comes to rest, and each client must have seen all there is.

use super::World;
use super::client::SimulatedClient;
use crate::core::fanout::Fanout;

impl World {
    /// Lets everything come to rest with all clients connected. Each client must have seen all its events, and be told
    /// when to come back as the server closes its streams.
    pub(super) fn settle(&mut self) {
        self.come_to_rest(true);
        let is_open = |client: &&SimulatedClient| client.stream.is_some();
        self.clients.iter().filter(is_open).for_each(|client| client.check_complete(&self.model));
        for fanout in &self.fanouts {
            assert_eq!(fanout.log_bytes(), 0, "a log keeps what everybody was sent");
        }
        if self.has_room {
            // Streams are closed with events still pending.
            (0..self.homes.len()).for_each(|shard| self.publish(shard));
            while self.deliver() || self.sync() {}
        }
        self.fanouts.iter_mut().for_each(Fanout::close_streams);
        // A client refused in the middle of a replay was told already.
        self.clients.iter_mut().for_each(|client| client.farewell = false);
        let open: Vec<_> = self.clients.iter().map(|client| client.stream.is_some()).collect();
        self.come_to_rest(false);
        for (client, was_open) in self.clients.iter().zip(open) {
            assert!(client.stream.is_none() && client.farewell == was_open, "not told to come back");
            if was_open && !self.may_forget {
                client.check_complete(&self.model);
            }
        }
        assert_eq!(self.budget.messages(), 0, "a charge was not given back");
        assert_eq!(self.unanswered, 0, "a publisher was not answered");
    }

    /// Goes on until there is nothing left to do; clients that are not connected connect if they may.
    fn come_to_rest(&mut self, may_connect: bool) {
        loop {
            let mut busy = false;
            while self.deliver() || self.sync() {
                busy = true;
            }
            for shard in 0..self.homes.len() {
                self.fanouts[shard].seal_all();
                busy |= self.send_ready(shard, usize::MAX);
            }
            for client in 0..self.clients.len() {
                if let Some(stream) = &mut self.clients[client].stream {
                    stream.stalled = false;
                } else if may_connect && !self.may_forget {
                    self.connect(client);
                    busy = true;
                }
                busy |= self.serve(client);
            }
            if !busy && !self.fanouts.iter().any(Fanout::is_due) {
                break;
            }
        }
    }
}
