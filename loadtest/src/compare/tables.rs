//! Results as Markdown: readable as it stands, and fit to be put into a page.

use crate::compare::case::{Case, of_compare, of_journal, of_sweep};
use crate::compare::metric::{Metric, Spread};
use crate::compare::must::Mistakes;
use crate::compare::results::{FAILED, Record, Results};
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
    let cases = [of_compare(), of_sweep(), of_journal()].concat();
    let measured = |case: &&Case| results.records.iter().any(|record| record.case == case.name);
    must_table(&mut out, results, cases.iter().filter(measured));
    let figures: Vec<_> = cases.iter().filter(|case| !case.proof).filter(measured).collect();
    for case in &figures {
        case_table(&mut out, results, case);
    }
    if !figures.is_empty() {
        footnotes(&mut out, results);
    }
    let proofs: Vec<_> = cases.iter().filter(|case| case.proof).filter(measured).collect();
    if !proofs.is_empty() {
        proof_table(&mut out, results, &proofs);
    }
    out
}

/// What the first server has to reach: every row of the cases that were measured.
fn must_table<'a>(out: &mut String, results: &Results, cases: impl Iterator<Item = &'a Case>) {
    let Some(first) = results.peers.first() else { return };
    let musts: Vec<_> = cases.flat_map(|case| case.musts.iter().map(move |must| (case, must))).collect();
    if musts.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n**What {first} must reach**\n\n| row | must | measured | reached |");
    let _ = writeln!(out, "| --- | --- | --- | --- |");
    let mut row = |name: &str, must: &str, measured: Option<(String, bool)>| {
        let (measured, enough) =
            measured.map_or((NONE.to_owned(), None), |(text, enough)| (text, Some(enough)));
        let reached = match enough {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let _ = writeln!(out, "| {name} | {must} | {measured} | {reached} |");
    };
    for (case, must) in musts {
        row(&case.name, &must.text(), must.measured(results, &case.name, first));
    }
    let mistakes = Mistakes::of(results, first);
    row("all", "lost / doubled / reordered / gaps / cut: 0", Some((mistakes.text(), mistakes.none())));
}

/// What has to be known to read the figures above.
fn footnotes(out: &mut String, results: &Results) {
    if !results.records.iter().all(Record::passed) {
        let _ = writeln!(
            out,
            "\n{FAILED} In one of the rounds at least it made a mistake or could not be measured; the figure is of all that \
             could be, and what a server does not deliver costs it nothing. A flood waits a quarter of a second before it \
             takes what is missing for lost; neither publishes/s nor deliveries/s counts that time."
        );
    }
    let _ = writeln!(
        out,
        "\nLost and doubled are net here: events are counted and not told apart, so that one lost and one doubled at the \
         same subscriber even out, and reordered ones are not seen. The proofs (`verify-…`) check every event."
    );
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
        // The floor has nothing to remember of a subscriber and as good as no request to read.
        let of_connections = matches!(metric, Metric::Memory | Metric::Connects | Metric::ConnectCpu);
        let to_floor = !of_connections && first != FLOOR && peers.contains(&FLOOR);
        for base in [first.as_str()].into_iter().chain(to_floor.then_some(FLOOR)) {
            if peers.len() > 1 {
                let ratio = |peer: &str| results.ratio((&case.name, peer), (&case.name, base), metric);
                row(&format!("… against {base}"), &|peer| {
                    let mark = [peer, base].map(|peer| results.mark(&case.name, peer)).into_iter().max();
                    let mark = mark.unwrap_or_default();
                    ratio(peer).map_or(NONE.to_owned(), |ratio| format!("{ratio:.2}{mark}"))
                });
            }
        }
    }
    row("lost / doubled / gaps / cut", &|peer| faults(results, case, peer));
    let most = |peer: &str, of: &dyn Fn(&Report) -> f64| -> Option<f64> {
        Spread::of(results.reports(&case.name, peer).map(of)).map(|all| all.max)
    };
    if peers.iter().any(|peer| most(peer, &|report| report.publishes.waited_for_lost_s) > Some(0.0)) {
        row("stood still for lost events at most, s", &|peer| {
            most(peer, &|report| report.publishes.waited_for_lost_s)
                .map_or(NONE.to_owned(), |s| format!("{s:.2}"))
        });
    }
    let percent = |peer: &str, of: &dyn Fn(&Report) -> Option<f64>| {
        let all = Spread::of(results.reports(&case.name, peer).filter_map(of));
        all.map_or(NONE.to_owned(), |all| format!("{:.0} %", all.median * 100.0))
    };
    // Where the load generator uses 100 %, it is what was measured.
    if case.metrics.contains(&Metric::Connects) {
        row("CPU in use while connecting: server / load generator", &|peer| {
            let server = percent(peer, &connect_cpu_share);
            format!("{server} / {}", percent(peer, &|report| Some(report.tool.connect_cpu_share)))
        });
        return;
    }
    if case.metrics.contains(&Metric::P99) && peers.iter().any(|peer| is_paced(results, case, peer)) {
        // What is published late arrives late: not the server's doing, unless it made the publisher wait.
        row("latest publish, ms behind its time", &|peer| {
            most(peer, &|report| report.publishes.late_us_max / 1e3)
                .map_or(NONE.to_owned(), |ms| Metric::P99.show(ms))
        });
    }
    row("CPU in use by the server", &|peer| {
        percent(peer, &|report| report.server.as_ref().map(|server| server.cpu_share))
    });
    row("CPU in use by the load generator", &|peer| percent(peer, &|report| Some(report.tool.cpu_share)));
    row("CPU in use by other programs", &|peer| percent(peer, &|report| report.others_cpus));
}

fn is_paced(results: &Results, case: &Case, peer: &str) -> bool {
    results.reports(&case.name, peer).any(|report| report.rate_per_second.is_some())
}

/// Of one CPU, while its subscribers connected.
fn connect_cpu_share(report: &Report) -> Option<f64> {
    let used_s = report.server.as_ref()?.cpu_us_per_connect * report.subscribers as f64 / 1e6;
    (report.connect.seconds > 0.0).then(|| used_s / report.connect.seconds)
}

fn spread(results: &Results, case: &Case, peer: &str, metric: Metric) -> String {
    let mark = results.mark(&case.name, peer);
    match results.spread(&case.name, peer, metric) {
        Some(all) if all.min == all.max => format!("{}{mark}", metric.show(all.median)),
        Some(all) => {
            format!("{}{mark} ({}–{})", metric.show(all.median), metric.show(all.min), metric.show(all.max))
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
                "{} stays: {} not let in, {} cut; {} missed of {} due in them",
                thousands(churn.stays as f64),
                churn.failed,
                churn.cut,
                thousands(churn.missed as f64),
                thousands(churn.due as f64)
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
