//! Talks to the other nodes.

use std::time::Instant;

use bytes::Bytes;

use super::Link;
use crate::backend::nats::connect::is_connected;
use crate::backend::nats::peers::NodeMessage;
use crate::journal::cluster::events::ClusterEvents;
use crate::journal::cluster::queue::ToCluster;

impl<E: ClusterEvents> Link<E> {
    pub(super) async fn say_here(&mut self, is_new: bool) {
        let message = NodeMessage::Here { node: self.node, name: self.name.clone(), is_new };
        self.tell(None, &message).await;
    }

    /// Tells a node something, or all nodes.
    pub(super) async fn tell(&self, node: Option<u64>, message: &NodeMessage) {
        // While there is no connection nobody would hear it; later it would be old.
        if !is_connected(&self.client) {
            return;
        }
        let Ok(text) = serde_json::to_vec(message) else { return };
        let subject = self.stream.node_subject(node);
        if let Err(error) = self.client.publish(subject, Bytes::from(text)).await {
            tracing::debug!("a message to other nodes was not sent: {error}");
        }
    }

    /// Takes in a message of another node.
    pub(super) async fn heard(&mut self, payload: &[u8]) {
        let Ok(message) = serde_json::from_slice::<NodeMessage>(payload) else { return };
        match message {
            NodeMessage::Here { node, name, is_new } => {
                self.peers.here(node, &name, Instant::now());
                if is_new && node != self.node {
                    self.say_here(false).await;
                }
            }
            NodeMessage::Gone { node } => self.peers.gone(node),
            NodeMessage::Count { node, count, streams } => {
                let done = self.counts.of_node(count, node, streams);
                self.reply(done);
            }
            NodeMessage::Ask { node, id, question } if node != self.node => {
                let to_self = self.to_self.clone();
                let answer = Box::new(move |body| drop(to_self.send(ToCluster::Answer { node, id, body })));
                (self.answers)(question.into(), answer);
            }
            NodeMessage::Answer { node, id, body } => self.peers.answer(id, node, body),
            NodeMessage::Ask { .. } => {}
        }
    }
}
