//! Comparison as Markdown: readable as it stands, and fit to be put into a page.

use super::Comparison;
use super::case::Case;
use crate::bench::NONE;
use crate::bench::metric::{Spread, show};
use crate::bench::must::must_table;
use crate::bench::results::{FAILED, Record, in_cell};
use crate::report::Report;
use crate::report_table::thousands;
use std::fmt::Write;

/// Comparison of this peer are what the kernel alone costs.
const FLOOR: &str = "floor";

/// Writes all tables.
pub(crate) fn tables(results: &Comparison, cases: &[Case]) -> String {
    let about = &results.about;
    let mut out = format!(
        "{}. Median of {} rounds of {} s (least to most); servers in turn, each in a new process.\n",
        results.machine, about.rounds, about.seconds
    );
    if about.scale_down > 1 {
        let _ = writeln!(out, "Numbers of connections divided by {}.", about.scale_down);
    }
    let Some(first) = about.peers.first() else { return out };
    let (figures, proofs): (Vec<_>, Vec<_>) =
        cases.iter().filter(|case| results.has(&case.name)).partition(|case| case.figures);
    let musts: Vec<_> = figures
        .iter()
        .flat_map(|case| case.musts.iter().map(move |must| (case.name.as_str(), must)))
        .collect();
    if !musts.is_empty() {
        let (text, none) = mistakes(results, first);
        let all = ("lost / doubled / reordered / gaps / cut: 0", text, none);
        must_table(&mut out, results, (&format!("What {first}"), first), &musts, all);
    }
    for case in &figures {
        case_table(&mut out, results, case, first);
    }
    if !figures.is_empty() {
        footnotes(&mut out, results);
    }
    if !proofs.is_empty() {
        proof_table(&mut out, results, &proofs, first);
    }
    out
}

/// Counts the mistakes of every run of one server, of all cases together; tells whether there are none.
fn mistakes(results: &Comparison, peer: &str) -> (String, bool) {
    let (mut runs, mut proofs, mut failed, mut counts) = (0, 0, 0, [0; 5]);
    for record in results.records.iter().filter(|record| record.peer == peer) {
        runs += 1;
        failed += usize::from(!record.passed());
        let Some(report) = &record.report else { continue };
        proofs += usize::from(report.verified);
        let (seen, churn) = (&report.deliveries, report.churn.unwrap_or_default());
        let lost = seen.lost + seen.missed_by_cut + churn.missed;
        let reordered = seen.reordered.unwrap_or(0);
        for (count, more) in
            counts.iter_mut().zip([lost, seen.doubled, reordered, seen.gaps, seen.cut + churn.cut])
        {
            *count += more;
        }
    }
    let told = if failed > 0 { format!("; {failed} FAILED") } else { String::new() };
    let all = counts.map(|count| count.to_string()).join(" / ");
    let text = format!("{all} in {runs} runs, {proofs} of which read every event{told}");
    (text, failed == 0 && counts == [0; 5])
}

/// Writes what has to be known to read the figures above.
fn footnotes(out: &mut String, results: &Comparison) {
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

fn case_table(out: &mut String, results: &Comparison, case: &Case, first: &str) {
    let name = case.name.as_str();
    let has = |peer: &&str| results.records.iter().any(|of| of.case == name && of.peer == **peer);
    let peers: Vec<_> = results.about.peers.iter().map(String::as_str).filter(has).collect();
    let shows = |metric: &str| case.metrics.iter().any(|shown| shown.name == metric);
    let _ = writeln!(out, "\n**{}**\n", case.title);
    let mut row = |name: &str, cell: &dyn Fn(&str) -> String| {
        let cells: Vec<_> = peers.iter().map(|peer| cell(peer)).collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    };
    row("", &str::to_owned);
    row("---", &|_| "---:".to_owned());
    for metric in &case.metrics {
        row(metric.title, &|peer| results.cell(name, peer, metric));
        // The floor has nothing to remember of a subscriber and as good as no request to read.
        let to_floor = !shows("connects") && first != FLOOR && peers.contains(&FLOOR);
        for base in [first].into_iter().chain(to_floor.then_some(FLOOR)).filter(|_| peers.len() > 1) {
            row(&format!("… against {base}"), &|peer| {
                let mark = [peer, base].map(|peer| results.mark(name, peer)).into_iter().max();
                let ratio = results.ratio((name, peer), (name, base), metric);
                ratio.map_or(NONE.to_owned(), |ratio| {
                    format!("{:.2}{}", ratio.median, mark.unwrap_or_default())
                })
            });
        }
    }
    row("lost / doubled / gaps / cut", &|peer| faults(results, name, peer));
    let all = |peer: &str, of: &dyn Fn(&Report) -> Option<f64>| {
        Spread::of(results.reports(name, peer).filter_map(of))
    };
    let most =
        |peer: &str, of: &dyn Fn(&Report) -> f64| all(peer, &|report| Some(of(report))).map(|all| all.max);
    let waited_s = |report: &Report| report.publishes.waited_for_lost_s;
    if peers.iter().any(|peer| most(peer, &waited_s) > Some(0.0)) {
        row("stood still for lost events at most, s", &|peer| {
            most(peer, &waited_s).map_or(NONE.to_owned(), |s| format!("{s:.2}"))
        });
    }
    let percent = |peer: &str, of: &dyn Fn(&Report) -> Option<f64>| {
        all(peer, of).map_or(NONE.to_owned(), |all| format!("{:.0} %", all.median * 100.0))
    };
    // Where the load generator uses 100 %, it is what was measured.
    if shows("connects") {
        row("CPU in use while connecting: server / load generator", &|peer| {
            let server = percent(peer, &connect_cpu_share);
            format!("{server} / {}", percent(peer, &|report| Some(report.tool.connect_cpu_share)))
        });
        return;
    }
    let paced = |peer: &&str| results.reports(name, peer).any(|report| report.rate_per_second.is_some());
    if shows("p99") && peers.iter().any(paced) {
        // What is published late arrives late: not the server's doing, unless it made the publisher wait.
        row("latest publish, ms behind its time", &|peer| {
            most(peer, &|report| report.publishes.late_us_max / 1e3).map_or(NONE.to_owned(), show)
        });
    }
    row("CPU in use by the server", &|peer| percent(peer, &|report| Some(report.server.as_ref()?.cpu_share)));
    row("CPU in use by the load generator", &|peer| percent(peer, &|report| Some(report.tool.cpu_share)));
    row("CPU in use by other programs", &|peer| percent(peer, &|report| report.others_cpus));
}

/// Returns the share of one CPU that the server used while its subscribers connected.
fn connect_cpu_share(report: &Report) -> Option<f64> {
    let used_s = report.server.as_ref()?.cpu_us_per_connect * report.subscribers as f64 / 1e6;
    (report.connect.seconds > 0.0).then(|| used_s / report.connect.seconds)
}

/// Counts those of all rounds together.
fn faults(results: &Comparison, case: &str, peer: &str) -> String {
    if let Some(error) = results.error(case, peer) {
        return format!("failed: {}", in_cell(error));
    }
    let mut counts = [0; 4];
    for seen in results.reports(case, peer).map(|report| &report.deliveries) {
        let more = [seen.lost + seen.missed_by_cut, seen.doubled, seen.gaps, seen.cut];
        counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
    }
    counts.map(|count| thousands(count as f64)).join(" / ")
}

fn proof_table(out: &mut String, results: &Comparison, proofs: &[&Case], first: &str) {
    let _ = writeln!(out, "\n**Every byte of every event read, {first}**\n");
    let _ = writeln!(
        out,
        "| scenario | deliveries | lost | doubled | reordered | corrupt | gaps | cut | besides |"
    );
    let _ = writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    for case in proofs {
        let Some(report) = results.reports(&case.name, first).next() else {
            let why = results.error(&case.name, first).unwrap_or("not measured");
            let _ = writeln!(out, "| {} | failed: {} |", case.title, in_cell(why));
            continue;
        };
        let seen = &report.deliveries;
        let whole = |count: u64| thousands(count as f64);
        let besides = match (&report.churn, &report.stalled) {
            (Some(churn), _) => format!(
                "{} stays: {} not let in, {} cut; {} missed of {} due in them",
                whole(churn.stays),
                churn.failed,
                churn.cut,
                whole(churn.missed),
                whole(churn.due)
            ),
            (_, Some(stalled)) => format!("{} stalled, {} of them cut", stalled.subscribers, stalled.cut),
            _ => String::new(),
        };
        let received = whole(seen.received + report.churn.map_or(0, |churn| churn.deliveries));
        let (reordered, corrupt) = (seen.reordered.unwrap_or(0), seen.corrupt.unwrap_or(0));
        let counts = [seen.lost + seen.missed_by_cut, seen.doubled, reordered, corrupt, seen.gaps, seen.cut];
        let counts = counts.map(|count| count.to_string()).join(" | ");
        let _ = writeln!(out, "| {} | {received} | {counts} | {besides} |", case.title);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Machine;
    use crate::compare::Asked;
    use crate::report::Deliveries;

    #[test]
    fn a_single_mistake_is_not_none() {
        let of = |outcome: Result<Report, String>| {
            let about = Asked { peers: vec!["a".to_owned()], rounds: 1, seconds: 1.0, scale_down: 1 };
            let records = vec![Record::new("paced", "a", 0, outcome)];
            mistakes(&Comparison { machine: Machine::here(), about, records }, "a")
        };
        let seen = |deliveries: Deliveries| Report { passed: true, deliveries, ..Report::default() };
        let none = Deliveries::default;
        assert!(of(Ok(seen(none()))).1);
        assert!(!of(Ok(seen(Deliveries { lost: 1, ..none() }))).1);
        assert!(!of(Ok(seen(Deliveries { reordered: Some(1), ..none() }))).1);
        let (text, is_none) = of(Err("no luck".to_owned()));
        let told = "0 / 0 / 0 / 0 / 0 in 1 runs, 0 of which read every event; 1 FAILED";
        assert_eq!((&*text, is_none), (told, false));
    }
}
