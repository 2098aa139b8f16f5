//! Results as Markdown: readable as it stands, and fit to be put into a page.

use crate::compare::case::{Case, of_compare, of_sweep};
use crate::compare::metric::{Metric, Spread};
use crate::compare::results::Results;
use crate::report::Report;
use crate::report_table::thousands;
use std::fmt::Write;

/// Results of this peer are what the kernel alone costs.
const FLOOR: &str = "floor";
/// Shown where there is no figure.
const NONE: &str = "–";

/// All tables.
pub(crate) fn tables(results: &Results) -> String {
    let mut out = String::new();
    let machine = &results.machine;
    let _ = writeln!(
        out,
        "{}, {} CPUs, Linux {}, {}. Median of {} rounds of {} s (least to most); servers in turn, each in a new process.",
        machine.cpu, machine.cpus, machine.kernel, machine.date, results.rounds, results.seconds
    );
    if results.scale_down > 1 {
        let _ = writeln!(out, "Numbers of connections divided by {}.", results.scale_down);
    }
    let cases = [of_compare(), of_sweep()].concat();
    let measured = |case: &&Case| results.records.iter().any(|record| record.case == case.name);
    for case in cases.iter().filter(|case| !case.proof).filter(measured) {
        case_table(&mut out, results, case);
    }
    let proofs: Vec<_> = cases.iter().filter(|case| case.proof).filter(measured).collect();
    if !proofs.is_empty() {
        proof_table(&mut out, results, &proofs);
    }
    out
}

fn case_table(out: &mut String, results: &Results, case: &Case) {
    let has = |peer: &&String| results.records.iter().any(|r| r.case == case.name && r.peer == **peer);
    let peers: Vec<&str> = results.peers.iter().filter(has).map(String::as_str).collect();
    let Some(first) = results.peers.first() else { return };
    let _ = writeln!(out, "\n**{}**\n", case.title);
    let mut row = |name: &str, cell: &dyn Fn(&str) -> String| {
        let cells: Vec<_> = peers.iter().map(|peer| cell(peer)).collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    };
    row("", &str::to_owned);
    row("---", &|_| "---:".to_owned());
    for &metric in case.metrics {
        row(metric.title(), &|peer| spread(results, case, peer, metric));
        // The floor has nothing to remember of a subscriber, so no memory to compare with.
        let to_floor = metric != Metric::Memory && first != FLOOR && peers.contains(&FLOOR);
        for base in [first.as_str()].into_iter().chain(to_floor.then_some(FLOOR)) {
            if peers.len() > 1 {
                let ratio = |peer: &str| results.ratio(&case.name, peer, base, metric);
                row(&format!("… against {base}"), &|peer| {
                    ratio(peer).map_or(NONE.to_owned(), |ratio| format!("{ratio:.2}"))
                });
            }
        }
    }
    row("lost / doubled / gaps / cut", &|peer| faults(results, case, peer));
    let percent = |peer: &str, of: &dyn Fn(&Report) -> Option<f64>| {
        let all = Spread::of(results.reports(&case.name, peer).filter_map(of));
        all.map_or(NONE.to_owned(), |all| format!("{:.0} %", all.median * 100.0))
    };
    let connecting = case.metrics.contains(&Metric::Connects);
    if !connecting {
        row("CPU in use by the server", &|peer| {
            percent(peer, &|report| report.server.as_ref().map(|server| server.cpu_share))
        });
    }
    // Where it says 100 %, the load generator is what was measured.
    row("… by the load generator", &|peer| {
        let share = |Report { tool, .. }: &Report| {
            Some(if connecting { tool.connect_cpu_share } else { tool.cpu_share })
        };
        percent(peer, &share)
    });
    if !connecting {
        row("… by other programs", &|peer| percent(peer, &|report| report.others_cpus));
    }
}

fn spread(results: &Results, case: &Case, peer: &str, metric: Metric) -> String {
    match results.spread(&case.name, peer, metric) {
        Some(all) if all.min == all.max => metric.show(all.median),
        Some(all) => {
            format!("{} ({}–{})", metric.show(all.median), metric.show(all.min), metric.show(all.max))
        }
        None => NONE.to_owned(),
    }
}

/// Of all rounds together.
fn faults(results: &Results, case: &Case, peer: &str) -> String {
    if let Some(error) = results.error(case, peer) {
        return format!("failed: {}", in_cell(error));
    }
    let sum = |of: &dyn Fn(&Report) -> u64| -> u64 { results.reports(&case.name, peer).map(of).sum() };
    let counts = [
        sum(&|report| report.deliveries.lost + report.deliveries.missed_by_cut),
        sum(&|report| report.deliveries.doubled),
        sum(&|report| report.deliveries.gaps),
        sum(&|report| report.deliveries.cut),
    ];
    counts.map(|count| thousands(count as f64)).join(" / ")
}

/// What would end a table's cell is taken out.
fn in_cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

fn proof_table(out: &mut String, results: &Results, proofs: &[&Case]) {
    let Some(first) = results.peers.first() else { return };
    let _ = writeln!(out, "\n**Every byte of every event read, {first}**\n");
    let _ = writeln!(
        out,
        "| scenario | deliveries | lost | doubled | reordered | corrupt | gaps | cut | besides |"
    );
    let _ = writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    for case in proofs {
        let Some(report) = results.reports(&case.name, first).next() else {
            let why = results.error(case, first).unwrap_or("not measured");
            let _ = writeln!(out, "| {} | failed: {} |", case.title, in_cell(why));
            continue;
        };
        let seen = &report.deliveries;
        let besides = match (&report.churn, &report.stalled) {
            (Some(churn), _) => format!(
                "{} stays: {} refused, {} cut, {} missed within",
                thousands(churn.stays as f64),
                churn.failed,
                churn.cut,
                churn.missed
            ),
            (_, Some(stalled)) => format!("{} stalled, {} of them cut", stalled.subscribers, stalled.cut),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {besides} |",
            case.title,
            thousands((seen.received + report.churn.map_or(0, |churn| churn.deliveries)) as f64),
            seen.lost + seen.missed_by_cut,
            seen.doubled,
            seen.reordered.unwrap_or(0),
            seen.corrupt.unwrap_or(0),
            seen.gaps,
            seen.cut
        );
    }
}
