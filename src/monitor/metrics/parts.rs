//! The metrics of parts that not every server has.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::signed;
use crate::backend::BackendStats;
use crate::journal::cluster::state::ClusterState;
use crate::journal::stats::JournalStats;
use crate::stats::Counter;

/// A metric of a part that not every server has.
pub(super) struct OfPart<S: 'static> {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    counter: fn(&S) -> &Counter,
}

impl<S> OfPart<S> {
    pub(super) fn encode(&self, stats: &S, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let OfPart { name, kind, help, counter } = self;
        encoder.encode_descriptor(name, help, None, *kind)?.encode_gauge(&signed(counter(stats).value()))
    }
}

pub(super) const OF_JOURNAL: [OfPart<JournalStats>; 7] = [
    OfPart {
        name: "esper_journal_publishes_total",
        kind: MetricType::Counter,
        help: "Publishes written to the journal.",
        counter: |journal| &journal.publishes,
    },
    OfPart {
        name: "esper_journal_batches_total",
        kind: MetricType::Counter,
        help: "Batches that they were written in.",
        counter: |journal| &journal.batches,
    },
    OfPart {
        name: "esper_journal_event_bytes_total",
        kind: MetricType::Counter,
        help: "Bytes of events written to the journal.",
        counter: |journal| &journal.event_bytes,
    },
    OfPart {
        name: "esper_journal_refused_publishes_total",
        kind: MetricType::Counter,
        help: "Publishes that the journal had no room for.",
        counter: |journal| &journal.refused,
    },
    OfPart {
        name: "esper_journal_segments",
        kind: MetricType::Gauge,
        help: "Segment files of the journal.",
        counter: |journal| &journal.segments,
    },
    OfPart {
        name: "esper_journal_bytes",
        kind: MetricType::Gauge,
        help: "Bytes of the journal's segment files.",
        counter: |journal| &journal.bytes,
    },
    OfPart {
        name: "esper_journal_recovered_events",
        kind: MetricType::Gauge,
        help: "Events that the start read back from the journal.",
        counter: |journal| &journal.recovered_events,
    },
];

pub(super) const OF_BACKEND: [OfPart<BackendStats>; 9] = [
    OfPart {
        name: "esper_brokers",
        kind: MetricType::Gauge,
        help: "Connections to brokers that are wanted: one for each URL.",
        counter: |backend| &backend.brokers_configured,
    },
    OfPart {
        name: "esper_brokers_connected",
        kind: MetricType::Gauge,
        help: "Connections to brokers that are there.",
        counter: |backend| &backend.brokers_connected,
    },
    OfPart {
        name: "esper_queues",
        kind: MetricType::Gauge,
        help: "Queues that are delivered to clients at this moment.",
        counter: |backend| &backend.consumers,
    },
    OfPart {
        name: "esper_queue_refused_requests_total",
        kind: MetricType::Counter,
        help: "Clients that asked for a queue and did not get it.",
        counter: |backend| &backend.refused,
    },
    OfPart {
        name: "esper_queue_delivered_messages_total",
        kind: MetricType::Counter,
        help: "Messages of queues handed to clients' streams, again when they had to be.",
        counter: |backend| &backend.delivered,
    },
    OfPart {
        name: "esper_queue_redelivered_messages_total",
        kind: MetricType::Counter,
        help: "Messages of queues that a broker sent once more.",
        counter: |backend| &backend.redelivered,
    },
    OfPart {
        name: "esper_queue_acknowledged_messages_total",
        kind: MetricType::Counter,
        help: "Messages of queues acknowledged.",
        counter: |backend| &backend.acknowledged,
    },
    OfPart {
        name: "esper_queue_acknowledged_unsent_messages_total",
        kind: MetricType::Counter,
        help: "Those of them that a client which came back had already.",
        counter: |backend| &backend.acknowledged_unsent,
    },
    OfPart {
        name: "esper_exchange_published_messages_total",
        kind: MetricType::Counter,
        help: "Messages of exchanges published to topics.",
        counter: |backend| &backend.published,
    },
];

pub(super) const OF_CLUSTER: [OfPart<ClusterState>; 12] = [
    OfPart {
        name: "esper_cluster_connected",
        kind: MetricType::Gauge,
        help: "1 while the stream's leader answers; 0 while publishes are refused.",
        counter: |cluster| &cluster.connected,
    },
    OfPart {
        name: "esper_cluster_nodes",
        kind: MetricType::Gauge,
        help: "Nodes that were heard of lately, this one included.",
        counter: |cluster| &cluster.nodes,
    },
    OfPart {
        name: "esper_cluster_applied_messages",
        kind: MetricType::Gauge,
        help: "Number of the newest message of the stream that was applied.",
        counter: |cluster| &cluster.applied,
    },
    OfPart {
        name: "esper_cluster_tail_messages",
        kind: MetricType::Gauge,
        help: "Number of the newest message that the stream has, as its leader last said.",
        counter: |cluster| &cluster.tail,
    },
    OfPart {
        name: "esper_cluster_sent_messages_total",
        kind: MetricType::Counter,
        help: "Messages sent to the stream, each with the publishes that gathered meanwhile.",
        counter: |cluster| &cluster.messages,
    },
    OfPart {
        name: "esper_cluster_resent_messages_total",
        kind: MetricType::Counter,
        help: "Messages sent again because no answer came.",
        counter: |cluster| &cluster.resent,
    },
    OfPart {
        name: "esper_cluster_applied_publishes_total",
        kind: MetricType::Counter,
        help: "Publishes applied, of all nodes.",
        counter: |cluster| &cluster.publishes,
    },
    OfPart {
        name: "esper_cluster_unconfirmed_publishes_total",
        kind: MetricType::Counter,
        help: "Publishes answered 504 because nobody knows whether the stream has them.",
        counter: |cluster| &cluster.unconfirmed,
    },
    OfPart {
        name: "esper_cluster_reconnects_total",
        kind: MetricType::Counter,
        help: "Times that the connection to a NATS server was made again.",
        counter: |cluster| &cluster.reconnects,
    },
    OfPart {
        name: "esper_cluster_missed_total",
        kind: MetricType::Counter,
        help: "Times that messages were gone before this node had read them.",
        counter: |cluster| &cluster.missed,
    },
    OfPart {
        name: "esper_cluster_resets_total",
        kind: MetricType::Counter,
        help: "Times that the order began anew because the stream had lost what it had.",
        counter: |cluster| &cluster.resets,
    },
    OfPart {
        name: "esper_cluster_malformed_messages_total",
        kind: MetricType::Counter,
        help: "Messages of the stream that are not esper's, or of a version it cannot read.",
        counter: |cluster| &cluster.malformed,
    },
];
