//! A run's report as a table for people.

use crate::report::Report;
use indicatif::HumanCount;
use std::fmt::{Display, Formatter, Result as FmtResult};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<24}{value}");
        let (publishes, deliveries, latency) = (&self.publishes, &self.deliveries, &self.latency_us);
        let answer = &publishes.answer_us;
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        let whole = |count: u64| thousands(count as f64);
        let checked = |count: Option<u64>| count.map_or("not checked".to_owned(), |count| count.to_string());
        row("subscribers", format!("{} on {} topics", whole(self.subscribers as u64), self.topics))?;
        row("connects/s", thousands(self.connect.per_second))?;
        row("publishes acknowledged", whole(publishes.acknowledged))?;
        row("publishes/s", thousands(publishes.per_second))?;
        row("answer ms", format!("p50 {}  p99 {}  max {}", ms(answer.p50), ms(answer.p99), ms(answer.max)))?;
        if publishes.refused > 0 {
            let each = publishes.refused_by_status.iter().map(|(status, count)| format!("{status}: {count}"));
            row("publishes refused", each.collect::<Vec<_>>().join(", "))?;
        }
        if publishes.unanswered + publishes.unsent > 0 {
            row("publishes unanswered", format!("{}, unsent {}", publishes.unanswered, publishes.unsent))?;
        }
        if self.rate_per_second.is_some() {
            row("written late, ms max", ms(publishes.late_us_max))?;
        }
        if publishes.waited_for_lost_s > 0.0 {
            let seconds = publishes.waited_for_lost_s;
            row("stood still", format!("{seconds:.2} s for lost events, which no rate counts"))?;
        }
        row("deliveries", format!("{} of {}", whole(deliveries.received), whole(deliveries.expected)))?;
        row("deliveries/s", thousands(deliveries.per_second))?;
        let [p50, p99, p999, max] = [latency.p50, latency.p99, latency.p999, latency.max].map(ms);
        row("latency ms", format!("p50 {p50}  p99 {p99}  p99.9 {p999}  max {max}"))?;
        row("lost", deliveries.lost.to_string())?;
        row("doubled", deliveries.doubled.to_string())?;
        row("reordered", checked(deliveries.reordered))?;
        row("corrupt", checked(deliveries.corrupt))?;
        if deliveries.refused_yet_delivered.is_some_and(|count| count > 0) {
            row("refused yet delivered", checked(deliveries.refused_yet_delivered))?;
        }
        row("gaps", deliveries.gaps.to_string())?;
        let (cut, missed) = (deliveries.cut, deliveries.missed_by_cut);
        row("cut", format!("{cut} subscribers, {missed} events missed by it"))?;
        if let Some(server) = &self.server {
            let (cpu_us, share) = (server.cpu_us_per_delivery, server.cpu_share * 100.0);
            row("server CPU", format!("{cpu_us:.3} us/delivery, {share:.0} % of a CPU"))?;
            row("", format!("{:.1} us/connect", server.cpu_us_per_connect))?;
            row("server RSS", format!("{} bytes/subscriber", thousands(server.rss_bytes_per_subscriber)))?;
        }
        if let Some(churn) = &self.churn {
            let (stays, events) = (whole(churn.stays), whole(churn.deliveries));
            row("come and go", format!("{stays} stays, {events} events in them"))?;
            let missed = match self.verified {
                true => format!("{} missed of {} due in a stay", churn.missed, whole(churn.due)),
                false => "missed events not checked".to_owned(),
            };
            row("", format!("{} not let in, {} cut, {missed}", churn.failed, churn.cut))?;
        }
        if let Some(stalled) = &self.stalled {
            row("stalled", format!("{} subscribers, {} of them cut", stalled.subscribers, stalled.cut))?;
        }
        let (cpu_us, share) = (self.tool.cpu_us_per_delivery, self.tool.cpu_share * 100.0);
        row("tool CPU", format!("{cpu_us:.3} us/delivery, {share:.0} % of its CPU"))?;
        if let Some(others) = self.others_cpus {
            row("other programs", format!("{:.0} % of a CPU", others * 100.0))?;
        }
        for note in &self.notes {
            row("note", note.clone())?;
        }
        row("result", if self.passed { "passed" } else { "FAILED" }.to_owned())
    }
}

/// Writes a whole number with its thousands apart.
pub(crate) fn thousands(value: f64) -> String {
    let sign = if value <= -0.5 { "-" } else { "" };
    format!("{sign}{}", HumanCount(value.abs().round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        for (value, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (20_123_456.4, "20,123,456"),
            (-1500.0, "-1,500"),
            (-0.2, "0"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }
}
