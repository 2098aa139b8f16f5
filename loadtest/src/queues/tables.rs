//! What was measured of queues as Markdown, fit to be put into a page.

use super::results::{CPUS, Kind, LATE, MESSAGES, PER_SECOND, QueueCase, QueueResults, QueuesAsked, cases};
use crate::bench::NONE;
use crate::bench::metric::Metric;
use crate::bench::must::{Beside, Bound, Must, must_table};
use crate::bench::results::{FAILED, in_cell};
use crate::report_table::thousands;
use std::fmt::Write;

/// The share that esper has to reach of the bare consumer's messages a second, over 100 queues.
const RATIO_MIN: f64 = 0.8;

/// Writes all tables.
pub(crate) fn tables(results: &QueueResults) -> String {
    let QueuesAsked { args, own_broker } = &results.about;
    let broker = match own_broker {
        true => format!("RabbitMQ alone on CPU {}, so that neither takes anything from it", args.broker_cpu),
        false => "a RabbitMQ that was there".to_owned(),
    };
    let cases = cases(args);
    let mut out = format!(
        "{}. Medians of the rounds (least to most); esper and the bare consumer in turn, each in a \
         new process on CPU {}, with new queues and one connection to the same RabbitMQ; publisher and HTTP clients on CPU \
         {}; {broker}. {} queues; durable; persistent messages of {} bytes.\n",
        results.machine,
        args.bench.server_cpu,
        args.load_cpu,
        thousands(args.queues as f64),
        args.size
    );
    let (metric, beside, bound) = (&PER_SECOND, Beside::Peer("bare".to_owned()), Bound::AtLeast(RATIO_MIN));
    let must = Must { metric, beside: Some(beside), bound, also: None };
    let known = |name: &&str| cases.iter().any(|case| case.name == **name);
    let musts: Vec<_> = ["drain", "drain-ids"].into_iter().filter(known).map(|name| (name, &must)).collect();
    let of_esper = || results.records.iter().filter(|record| record.peer == "esper");
    let (runs, failed) = (of_esper().count(), of_esper().filter(|record| !record.passed()).count());
    let told = format!("{failed} of {runs} runs failed");
    let all = ("every message once, in order and as it was sent", told, failed == 0);
    must_table(&mut out, results, ("What esper's queues", "esper"), &musts, all);
    let measured = cases.iter().filter(|case| results.has(&case.name));
    let (sweep, others): (Vec<_>, Vec<_>) = measured.partition(|case| case.kind == Kind::Sweep);
    for case in others {
        case_table(&mut out, results, case);
    }
    if !sweep.is_empty() {
        sweep_table(&mut out, results, &sweep);
    }
    out
}

fn case_table(out: &mut String, results: &QueueResults, case: &QueueCase) {
    let ids = if case.message_ids { ", with a message_id" } else { "" };
    let (prefetch, seconds, rate) = (case.prefetch, case.seconds, results.about.args.rate);
    let title = match case.kind {
        Kind::Paced => format!("Queues, paced: {} messages/s in all, {seconds} s", thousands(rate)),
        _ => format!("Queues, drained: full before the first consume{ids}"),
    };
    let _ = writeln!(out, "\n**{title}; prefetch {prefetch}**\n\n|  | esper | bare | esper against bare |");
    let _ = writeln!(out, "| --- | ---: | ---: | ---: |");
    let told = if case.kind == Kind::Paced { &LATE } else { &MESSAGES };
    let rows = case.metrics().into_iter().map(|metric| (metric, true));
    for (metric, compared) in rows.chain([told].into_iter().chain(&CPUS).map(|metric| (metric, false))) {
        let [esper, bare, ratio] = cells(results, case, metric);
        let ratio = if compared { ratio } else { String::new() };
        let _ = writeln!(out, "| {} | {esper} | {bare} | {ratio} |", metric.title);
    }
    failures(out, results, case);
}

/// Writes that by which the default of `queue.prefetch` is chosen.
fn sweep_table(out: &mut String, results: &QueueResults, cases: &[&QueueCase]) {
    let _ = writeln!(
        out,
        "\n**Queues, drained, by prefetch: messages/s**\n\n| prefetch | ack window | esper | bare | esper against bare |"
    );
    let _ = writeln!(out, "| ---: | ---: | ---: | ---: | ---: |");
    for case in cases {
        let [esper, bare, ratio] = cells(results, case, &PER_SECOND);
        let _ = writeln!(out, "| {} | {} | {esper} | {bare} | {ratio} |", case.prefetch, case.ack_window());
    }
    cases.iter().for_each(|case| failures(out, results, case));
}

/// Returns a figure of both contenders, and how many times the bare consumer's esper's is.
fn cells(results: &QueueResults, case: &QueueCase, metric: &Metric) -> [String; 3] {
    let name = case.name.as_str();
    let ratio = results.ratio((name, "esper"), (name, "bare"), metric);
    let ratio = ratio.map_or(NONE.to_owned(), |ratio| format!("{:.2}", ratio.median));
    [results.cell(name, "esper", metric), results.cell(name, "bare", metric), ratio]
}

fn failures(out: &mut String, results: &QueueResults, QueueCase { name, .. }: &QueueCase) {
    for contender in ["esper", "bare"] {
        if let Some(error) = results.error(name, contender) {
            let error = in_cell(error);
            let _ =
                writeln!(out, "\n{FAILED} {name}, {contender}: **failed** in at least one round: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::results::tests::results;

    #[test]
    fn the_must_is_a_ratio_within_each_round() {
        let must = |rounds: &[(Option<f64>, Option<f64>)]| {
            let text = tables(&results(rounds));
            text.lines().find(|line| line.starts_with("| drain |")).unwrap_or_default().to_owned()
        };
        let reached = must(&[(Some(8_000.0), Some(10_000.0)), (Some(82_000.0), Some(100_000.0))]);
        assert_eq!(
            reached,
            "| drain | messages/s: at least 0.8 times the bare consumer's | 0.81 times (0.80–0.82; 45,000 against 55,000) | yes |"
        );
        assert!(must(&[(Some(7_900.0), Some(10_000.0))]).ends_with("| **no** |"));
        assert!(must(&[(None, Some(10_000.0))]).ends_with("| – | not measured |"));
    }

    #[test]
    fn a_failed_round_is_told() {
        let text = tables(&results(&[(None, Some(10_000.0))]));
        assert!(text.contains("| 1 of 1 runs failed | **no** |"), "{text}");
        assert!(text.contains("drain, esper: **failed** in at least one round: 1 lost"), "{text}");
    }
}
