//! `GET /metrics`: the counters of shards, journal and backend in Prometheus's format.
//!
//! Nothing is counted for it: a scrape reads existing counters, and a server that nobody scrapes pays nothing.

mod parts;

use std::fmt;
use std::sync::Arc;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Monitor;
#[cfg(feature = "cli")]
use crate::log;
use crate::stats::{Counter, ShardStats};
use parts::{OF_BACKEND, OF_CLUSTER, OF_JOURNAL};

/// The `Content-Type` of [`text`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns all metrics in Prometheus's text format 0.0.4.
pub(super) fn text(monitor: &Arc<Monitor>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(monitor))));
    // 2 KiB for each shard, most of it its histogram, and 2 KiB of descriptions; it takes 22 us for each shard.
    let mut text = String::with_capacity((monitor.common.shards + 1) * 2048);
    // Encodes the registry alone: the crate's `encode` adds the end mark of OpenMetrics.
    let written = encode_registry(&mut text, &registry);
    debug_assert!(written.is_ok(), "a String takes all that is written");
    text
}

/// A metric with one sample for each shard.
struct PerShard {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    counter: fn(&ShardStats) -> &Counter,
}

const PER_SHARD: [PerShard; 9] = [
    PerShard {
        name: "esper_subscribers",
        kind: MetricType::Gauge,
        help: "Open streams.",
        counter: |shard| &shard.clients,
    },
    PerShard {
        name: "esper_connections",
        kind: MetricType::Gauge,
        help: "Open connections that are not streams.",
        counter: |shard| &shard.connections,
    },
    PerShard {
        name: "esper_topics",
        kind: MetricType::Gauge,
        help: "Topics known, each on the shard that orders its events.",
        counter: |shard| &shard.topics,
    },
    PerShard {
        name: "esper_history_bytes",
        kind: MetricType::Gauge,
        help: "Bytes of events kept for replay.",
        counter: |shard| &shard.history_bytes,
    },
    PerShard {
        name: "esper_published_events_total",
        kind: MetricType::Counter,
        help: "Events published.",
        counter: |shard| &shard.published,
    },
    PerShard {
        name: "esper_delivered_events_total",
        kind: MetricType::Counter,
        help: "Events sent, once for each subscriber.",
        counter: |shard| &shard.delivered,
    },
    PerShard {
        name: "esper_sent_bytes_total",
        kind: MetricType::Counter,
        help: "Bytes of streams sent.",
        counter: |shard| &shard.bytes,
    },
    PerShard {
        name: "esper_evicted_subscribers_total",
        kind: MetricType::Counter,
        help: "Streams cut for being too slow.",
        counter: |shard| &shard.evicted,
    },
    PerShard {
        name: "esper_refused_requests_total",
        kind: MetricType::Counter,
        help: "Requests and streams refused.",
        counter: |shard| &shard.refused,
    },
];

/// Writes a histogram of the whole server.
fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    times_us: &Histogram<u64>,
) -> fmt::Result {
    let Latencies { sum_s, count, buckets } = Latencies::of(times_us);
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)
}

/// The collector of one scrape.
#[derive(Debug)]
struct Scrape(Arc<Monitor>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Monitor { common, request_memory, journal, cluster, backend, .. } = &*self.0;
        let (stats, memory) = (&common.stats, &common.memory);
        for PerShard { name, kind, help, counter } in PER_SHARD {
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (id, shard) in stats.shards().iter().enumerate() {
                // Counters are encoded as gauges too. The crate writes OpenMetrics, which declares a counter without
                // the `_total` of its samples, and promtool takes these for another metric. In Prometheus's own format
                // `_total` is part of the name, and `encode_counter` would add it once more.
                metric.encode_family(&[("shard", id)])?.encode_gauge(&signed(counter(shard).value()))?;
            }
        }

        let name = "esper_publish_to_send_seconds";
        let help = "From the last byte of a publish read to the kernel's taking a send of it.";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (id, shard) in stats.shards().iter().enumerate() {
            let Latencies { sum_s, count, buckets } = Latencies::of(&shard.latencies_us());
            metric
                .encode_family(&[("shard", id)])?
                .encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)?;
        }

        if let Some(backend) = backend {
            OF_BACKEND.iter().try_for_each(|metric| metric.encode(backend, &mut encoder))?;
        }
        if let Some(journal) = journal {
            OF_JOURNAL.iter().try_for_each(|metric| metric.encode(journal, &mut encoder))?;
            let (name, help) = ("esper_journal_sync_seconds", "What a sync of the journal took.");
            histogram(&mut encoder, name, help, &journal.syncs_us())?;
        }

        if let Some((cluster, _)) = cluster {
            OF_CLUSTER.iter().try_for_each(|metric| metric.encode(cluster, &mut encoder))?;
            let (name, help) =
                ("esper_cluster_ack_seconds", "From sending a message to the stream's answer.");
            histogram(&mut encoder, name, help, &cluster.acks_us())?;
        }

        if let Some(log) = &common.access_log {
            let name = "esper_access_log_lines_dropped_total";
            let help = "Lines of the access log that could not be written in time.";
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_gauge(&signed(log.lost()))?;
        }
        if !self.0.access.providers.is_empty() {
            let names = [
                ("esper_jwks_fetches_total", "Documents of keys fetched from identity providers."),
                ("esper_jwks_failed_fetches_total", "Attempts to fetch one that brought none."),
            ];
            for ((name, help), count) in names.into_iter().zip(self.0.key_fetches()) {
                encoder
                    .encode_descriptor(name, help, None, MetricType::Counter)?
                    .encode_gauge(&signed(count))?;
            }
        }

        // A program that embeds the server has its own log.
        #[cfg(feature = "cli")]
        if let Some(lost) = log::lines_lost() {
            let (name, help) =
                ("esper_log_lines_dropped_total", "Lines of the log that could not be written in time.");
            encoder.encode_descriptor(name, help, None, MetricType::Counter)?.encode_gauge(&signed(lost))?;
        }

        let (gauge, held) = (MetricType::Gauge, memory.total() as u64);
        let help = "Bytes of events held: for replay, for subscribers that are behind, and in sends; without what an event costs beside them.";
        encoder.encode_descriptor("esper_held_bytes", help, None, gauge)?.encode_gauge(&signed(held))?;
        let held = request_memory.bytes() as u64;
        let help = "Bytes held by connections that are no streams: 4 KiB each, unfinished requests and unsent answers.";
        encoder.encode_descriptor("esper_request_bytes", help, None, gauge)?.encode_gauge(&signed(held))?;
        let (name, help) = ("esper_start_time_seconds", "When the server started, in Unix time.");
        encoder.encode_descriptor(name, help, None, gauge)?.encode_gauge(&signed(common.started_s))?;
        let (name, help) = ("esper_build_info", "Always 1; its labels say what runs.");
        let mut metric = encoder.encode_descriptor(name, help, None, gauge)?;
        metric.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_i64)
    }
}

/// Returns `n` in the type of the crate's gauges.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Upper bounds of the buckets, in microseconds: 25 us to 10 s, three to a decade.
const BOUNDS_US: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// A histogram in the form that Prometheus reads.
struct Latencies {
    sum_s: f64,
    count: u64,
    /// Upper bound in seconds, and how many are between it and the bound before. The crate adds them up.
    buckets: Vec<(f64, u64)>,
}

impl Latencies {
    fn of(latencies_us: &Histogram<u64>) -> Self {
        let mut counts = [0; BOUNDS_US.len() + 1];
        // Summed as a whole number: a sum of fractions may come out less than at the last scrape, which Prometheus
        // takes for a restart.
        let mut sum_us = 0_u64;
        for step in latencies_us.iter_recorded() {
            // A bin is 1 % wide; one that contains a bound counts as above it.
            let (highest, count) = (step.value_iterated_to(), step.count_at_value());
            counts[BOUNDS_US.partition_point(|bound| *bound < highest)] += count;
            let us = latencies_us.median_equivalent(highest).saturating_mul(count);
            sum_us = sum_us.saturating_add(us);
        }
        let bounds = BOUNDS_US.iter().map(|us| seconds(*us)).chain([f64::INFINITY]);
        let buckets = bounds.zip(counts).collect();
        Latencies { sum_s: seconds(sum_us), count: counts.iter().sum(), buckets }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;
    use crate::monitor::tests::monitor;

    fn two_shards() -> Arc<Monitor> {
        let mut config = Config::default();
        config.cpus.ids = vec![0, 1];
        Arc::new(monitor(config))
    }

    fn with_backend() -> Arc<Monitor> {
        Arc::new(Monitor { backend: Some(Arc::default()), ..monitor(Config::default()) })
    }

    /// Returns name and labels, which stand before the value.
    fn sample(text: &str, series: &str) -> String {
        let start = format!("{series} ");
        let mut found = text.lines().filter_map(|line| line.strip_prefix(&start));
        let value = found.next().unwrap_or_else(|| panic!("no {series} in {text}"));
        assert_eq!(found.next(), None, "{series} is there once");
        value.to_owned()
    }

    #[test]
    fn each_shard_has_its_own_samples_under_one_declaration() {
        let shared = two_shards();
        shared.common.stats.shard(1).clients.add(3);
        shared.common.stats.shard(0).published.add(7);
        let text = text(&shared);
        for part in [
            "# HELP esper_subscribers Open streams.\n# TYPE esper_subscribers gauge\n\
             esper_subscribers{shard=\"0\"} 0\nesper_subscribers{shard=\"1\"} 3\n",
            "# TYPE esper_published_events_total counter\nesper_published_events_total{shard=\"0\"} 7\n\
             esper_published_events_total{shard=\"1\"} 0\n",
            "# TYPE esper_publish_to_send_seconds histogram\n",
            "# TYPE esper_held_bytes gauge\nesper_held_bytes 0\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let build = format!("esper_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        assert_eq!(sample(&text, &build), "1");
        let started: u64 = sample(&text, "esper_start_time_seconds").parse().unwrap();
        assert!(started.abs_diff(crate::clock::unix_s()) < 60);
    }

    /// Prometheus reads a sample apart from its declaration as one of another, untyped metric.
    #[test]
    fn every_sample_stands_under_the_declaration_of_its_name() {
        for (shared, metrics) in [(two_shards(), 0), (with_backend(), OF_BACKEND.len())] {
            assert_eq!(declared(&text(&shared)).len(), PER_SHARD.len() + metrics + 5);
        }
    }

    /// Returns the names of all metrics; panics when a sample does not stand under its declaration.
    fn declared(text: &str) -> BTreeSet<&str> {
        let mut declared = BTreeSet::new();
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(declared.insert(current), "{current} is declared once");
            } else if !line.starts_with("# HELP ") {
                let name = line.split(['{', ' ']).next().unwrap();
                let suffix = name.strip_prefix(current).unwrap_or_else(|| panic!("{line} under {current}"));
                assert!(["", "_sum", "_count", "_bucket"].contains(&suffix), "{line}");
            }
        }
        declared
    }

    #[test]
    fn what_the_backend_counts_is_there_once_there_is_one() {
        let shared = with_backend();
        let stats = shared.backend.as_ref().unwrap();
        stats.brokers_configured.set(3);
        stats.delivered.add(5);
        let told = text(&shared);
        assert_eq!(sample(&told, "esper_brokers"), "3");
        assert_eq!(sample(&told, "esper_queue_delivered_messages_total"), "5");
        assert!(told.contains("# TYPE esper_queue_delivered_messages_total counter\n"), "{told}");
        assert!(!text(&two_shards()).contains("esper_broker"));
    }

    #[test]
    fn latencies_are_counted_up_to_each_bound() {
        let shared = two_shards();
        for us in [0, 25, 26, 100, 101, 2_000, 10_000_000, 30_000_000] {
            shared.common.stats.shard(1).record_latency_us(us);
        }
        let text = text(&shared);
        let bucket = |le: &str| {
            sample(&text, &format!("esper_publish_to_send_seconds_bucket{{le=\"{le}\",shard=\"1\"}}"))
        };
        for (le, count) in [
            ("0.000025", "2"),
            ("0.00005", "3"),
            ("0.0001", "4"),
            ("0.00025", "5"),
            ("0.001", "5"),
            ("0.0025", "6"),
            ("5.0", "6"),
            // Its bin reaches beyond the bound.
            ("10.0", "6"),
            ("+Inf", "8"),
        ] {
            assert_eq!(bucket(le), count, "{le}");
        }
        assert_eq!(sample(&text, "esper_publish_to_send_seconds_count{shard=\"1\"}"), "8");
        assert_eq!(sample(&text, "esper_publish_to_send_seconds_count{shard=\"0\"}"), "0");
        let sum: f64 = sample(&text, "esper_publish_to_send_seconds_sum{shard=\"1\"}").parse().unwrap();
        assert!((sum / 40.002_252 - 1.0).abs() < 0.01, "{sum}");
    }

    /// A counter that decreases is taken for one that restarted.
    #[test]
    fn the_sum_of_latencies_never_goes_back() {
        let shared = two_shards();
        let stats = shared.common.stats.shard(0);
        let mut last = 0.0;
        for n in 0..2_000_u64 {
            stats.record_latency_us(n.pow(3) % 50_000_000);
            let sum = Latencies::of(&stats.latencies_us()).sum_s;
            assert!(sum >= last, "{sum} after {last}");
            last = sum;
        }
        assert!(last > 1.0);
    }
}
