//! What was measured of queues as Markdown, fit to be put into a page.

use crate::compare::metric::show;
use crate::queues::case::{Case, Kind};
use crate::queues::results::{Contender, Figure, Results};
use crate::report_table::thousands;
use std::fmt::Write;

/// What esper has to reach of the bare consumer's messages a second, over 100 queues.
const RATIO_MIN: f64 = 0.8;
/// Shown where there is no figure.
const NONE: &str = "–";

/// All tables.
pub(crate) fn tables(results: &Results) -> String {
    let mut out = String::new();
    let machine = &results.machine;
    let broker = match (results.own_broker, results.broker_cpu) {
        (true, Some(cpu)) => format!("RabbitMQ alone on CPU {cpu}, so that neither takes anything from it"),
        (true, None) => "RabbitMQ on whatever CPU is free".to_owned(),
        (false, _) => "a RabbitMQ that was there".to_owned(),
    };
    let _ = writeln!(
        out,
        "{}, {} CPUs, Linux {}, {}. Medians of the rounds (least to most); esper and the bare consumer in turn, each in a \
         new process on CPU {}, with new queues and one connection to the same RabbitMQ; publisher and HTTP clients on CPU \
         {}; {broker}. {} queues; durable; persistent messages of {} bytes.",
        machine.cpu,
        machine.cpus,
        machine.kernel,
        machine.date,
        results.server_cpu,
        results.load_cpu,
        thousands(results.queues as f64),
        results.size
    );
    must_table(&mut out, results);
    let measured = |case: &&Case| results.records.iter().any(|record| record.case == case.name);
    let (sweep, cases): (Vec<_>, Vec<_>) =
        results.cases.iter().filter(measured).partition(|case| case.kind == Kind::Sweep);
    for case in cases {
        case_table(&mut out, results, case);
    }
    if !sweep.is_empty() {
        sweep_table(&mut out, results, &sweep);
    }
    out
}

const PER_SECOND: Figure = |figures| Some(figures.per_second);

fn must_table(out: &mut String, results: &Results) {
    let _ = writeln!(out, "\n**What esper's queues must reach**\n\n| row | must | measured | reached |");
    let _ = writeln!(out, "| --- | --- | --- | --- |");
    for name in ["drain", "drain-ids"] {
        let Some(case) = results.cases.iter().find(|case| case.name == name) else { continue };
        let median = |contender| cell(results, case, contender, PER_SECOND, false);
        let (measured, reached) = match results.ratio(name, PER_SECOND) {
            Some(ratio) => (
                format!(
                    "{ratio:.2} times ({} against {})",
                    median(Contender::Esper),
                    median(Contender::Bare)
                ),
                if ratio >= RATIO_MIN { "yes" } else { "**no**" },
            ),
            None => (NONE.to_owned(), "not measured"),
        };
        let _ = writeln!(
            out,
            "| {name} | messages/s: at least {RATIO_MIN} times the bare consumer's | {measured} | {reached} |"
        );
    }
    let (runs, failed) = results.runs(Contender::Esper);
    let reached = if failed == 0 { "yes" } else { "**no**" };
    let _ = writeln!(
        out,
        "| all | every message once, in order and as it was sent | {failed} of {runs} runs failed | {reached} |"
    );
}

fn case_table(out: &mut String, results: &Results, case: &Case) {
    let ids = if case.message_ids { ", with a message_id" } else { "" };
    let (prefetch, seconds) = (case.prefetch, case.seconds);
    let title = match case.kind {
        Kind::Paced => format!("Queues, paced: {} messages/s in all, {seconds} s", thousands(results.rate)),
        _ => format!("Queues, drained: full before the first consume{ids}"),
    };
    let _ = writeln!(out, "\n**{title}; prefetch {prefetch}**\n\n|  | esper | bare | esper against bare |");
    let _ = writeln!(out, "| --- | ---: | ---: | ---: |");
    let mut row = |name: &str, figure: Figure, compared: bool| {
        let ratio = if compared { against(results, case, figure) } else { String::new() };
        let [esper, bare] = Contender::ALL.map(|contender| cell(results, case, contender, figure, true));
        let _ = writeln!(out, "| {name} | {esper} | {bare} | {ratio} |");
    };
    if case.kind == Kind::Paced {
        row("latency p50, ms", |figures| Some(figures.p50_ms), true);
        row("latency p99, ms", |figures| Some(figures.p99_ms), true);
        row("latency p99.9, ms", |figures| Some(figures.p999_ms), true);
        row("latest publish, ms behind its time", |figures| Some(figures.late_ms_max), false);
    } else {
        row("messages/s", PER_SECOND, true);
        row("messages of a round", |figures| Some(figures.messages as f64), false);
    }
    row("CPU per message, us", |figures| Some(figures.cpu_us), true);
    row("CPUs in use by the consumer", |figures| Some(figures.consumer_cpus), false);
    row("CPUs in use by RabbitMQ", |figures| figures.broker_cpus, false);
    row("CPUs in use by publisher and HTTP clients", |figures| Some(figures.load_cpus), false);
    row("CPUs in use by other programs", |figures| figures.others_cpus, false);
    failures(out, results, case);
}

/// By which the default of `queue.prefetch` is chosen.
fn sweep_table(out: &mut String, results: &Results, cases: &[&Case]) {
    let _ = writeln!(
        out,
        "\n**Queues, drained, by prefetch: messages/s**\n\n| prefetch | ack window | esper | bare | esper against bare |"
    );
    let _ = writeln!(out, "| ---: | ---: | ---: | ---: | ---: |");
    for case in cases {
        let [esper, bare] = Contender::ALL.map(|contender| cell(results, case, contender, PER_SECOND, true));
        let (prefetch, window) = (case.prefetch, case.ack_window());
        let ratio = against(results, case, PER_SECOND);
        let _ = writeln!(out, "| {prefetch} | {window} | {esper} | {bare} | {ratio} |");
    }
    for case in cases {
        failures(out, results, case);
    }
}

fn against(results: &Results, case: &Case, figure: Figure) -> String {
    results.ratio(&case.name, figure).map_or(NONE.to_owned(), |ratio| format!("{ratio:.2}"))
}

fn cell(results: &Results, case: &Case, contender: Contender, figure: Figure, spread: bool) -> String {
    match results.spread(&case.name, contender, figure) {
        Some(all) if spread && all.min != all.max => {
            format!("{} ({}–{})", show(all.median), show(all.min), show(all.max))
        }
        Some(all) => show(all.median),
        None => NONE.to_owned(),
    }
}

fn failures(out: &mut String, results: &Results, case: &Case) {
    for contender in Contender::ALL {
        if let Some(error) = results.error(&case.name, contender) {
            let error = error.replace('\n', " ");
            let _ = writeln!(
                out,
                "\n{}, {}: **failed** in at least one round: {error}",
                case.name,
                contender.name()
            );
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
        let reached = must(&[(Some(8_000.0), Some(10_000.0)), (Some(80_000.0), Some(100_000.0))]);
        assert_eq!(
            reached,
            "| drain | messages/s: at least 0.8 times the bare consumer's | 0.80 times (44,000 against 55,000) | yes |"
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
