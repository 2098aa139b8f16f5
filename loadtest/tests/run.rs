//! The load generator against a server that makes every mistake on purpose: it must see each, and nothing where all is well.

#[cfg(test)]
mod server;

#[cfg(test)]
mod tests {
    use super::server::{Habit, start};
    use serde_json::Value;
    use std::process::{Command, Output};

    fn loadtest(url: &str, flags: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esper-loadtest"));
        command.args(["run", url]).args(flags.split_whitespace()).output().unwrap()
    }

    /// Ten events, one after the other, to three subscribers: every habit is met on the first of them.
    fn ten_events(habit: Habit, flags: &str) -> (i32, Value) {
        let in_flight = if flags.contains("--in-flight") { "" } else { "--in-flight 1" };
        let fixed = "--subscribers 3 --events 10 --rate 1000 --drain 1s --json";
        let flags = format!("{fixed} {in_flight} {flags}");
        let output = loadtest(&start(habit), &flags);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{habit:?}: {stderr}"));
        (output.status.code().unwrap(), report)
    }

    fn refused(habit: Habit, flags: &str) -> String {
        let output = loadtest(&start(habit), flags);
        assert_eq!(output.status.code(), Some(2), "{habit:?}: {output:?}");
        assert!(output.stdout.is_empty());
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    #[test]
    fn a_good_server_passes_in_whatever_form_it_sends() {
        use Habit::*;
        let check = |habit: Habit, flags: &str| {
            let (code, report) = ten_events(habit, flags);
            assert_eq!(code, 0, "{habit:?} {flags}: {report}");
            let expected = if flags.contains("topics") { 15 } else { 30 };
            assert_eq!(report["deliveries"]["received"], expected, "{habit:?} {flags}: {report}");
            assert_eq!(report["publishes"]["acknowledged"], 10);
            assert!(report["latency_us"]["samples"].as_u64().unwrap() > 0, "{habit:?} {flags}: {report}");
        };
        std::thread::scope(|scope| {
            for habit in [Good, SmallChunks, Unframed, Talkative, ClosesEachAnswer] {
                scope.spawn(move || {
                    check(habit, "");
                    check(habit, "--verify");
                    check(habit, "--verify --threads 2");
                    check(habit, "--verify --topics 2 --publishers 2 --in-flight 5");
                });
            }
        });
    }

    #[test]
    fn verifying_sees_each_fault_and_calls_it_by_its_name() {
        use Habit::*;
        for (habit, faults) in [
            (Loses, &[("lost", 1)][..]),
            (LosesLast, &[("lost", 1)]),
            (Doubles, &[("doubled", 1)]),
            (DoublesLast, &[("doubled", 1)]),
            (Reorders, &[("reordered", 1)]),
            (Gaps, &[("gaps", 1), ("lost", 1)]),
            (Corrupts, &[("corrupt", 1), ("lost", 1)]),
            (Cuts, &[("cut", 1), ("missed_by_cut", 7)]),
            (Ends, &[("cut", 1), ("missed_by_cut", 7)]),
            (RefusesYetDelivers, &[("refused_yet_delivered", 3)]),
        ] {
            let (code, report) = ten_events(habit, "--verify");
            assert_eq!((code, &report["passed"]), (1, &Value::Bool(false)), "{habit:?}: {report}");
            for name in [
                "lost",
                "doubled",
                "reordered",
                "gaps",
                "corrupt",
                "cut",
                "missed_by_cut",
                "refused_yet_delivered",
            ] {
                let expected = faults.iter().find(|(fault, _)| *fault == name).map_or(0, |(_, count)| *count);
                assert_eq!(report["deliveries"][name], expected, "{habit:?} {name}: {report}");
            }
        }
    }

    #[test]
    fn counting_sees_what_numbers_can_tell() {
        use Habit::*;
        for (habit, name, count) in [
            (Loses, "lost", 1),
            (LosesLast, "lost", 1),
            (Doubles, "doubled", 1),
            (DoublesLast, "doubled", 1),
            (Gaps, "gaps", 1),
            (Cuts, "cut", 1),
            (Ends, "cut", 1),
        ] {
            let (code, report) = ten_events(habit, "");
            assert_eq!((code, &report["deliveries"][name]), (1, &Value::from(count)), "{habit:?}: {report}");
            assert_eq!(report["deliveries"]["reordered"], Value::Null);
        }
    }

    #[test]
    fn an_event_of_another_topic_is_corrupt() {
        let (code, report) = ten_events(Habit::Misroutes, "--verify --topics 4");
        assert_eq!((code, &report["deliveries"]["corrupt"]), (1, &Value::from(1)), "{report}");
    }

    #[test]
    fn a_refused_publish_is_counted_and_not_lost() {
        for flags in ["", "--verify"] {
            let (code, report) = ten_events(Habit::Refuses, flags);
            assert_eq!(code, 0, "{report}");
            assert_eq!(report["publishes"]["refused_by_status"]["503"], 5);
            assert_eq!(
                (&report["publishes"]["acknowledged"], &report["deliveries"]["lost"]),
                (&5.into(), &0.into())
            );
        }
    }

    #[test]
    fn a_publish_without_an_answer_fails_the_run() {
        let (code, report) = ten_events(Habit::HangsUp, "--verify");
        assert_eq!((code, &report["publishes"]["unanswered"]), (1, &Value::from(1)), "{report}");
        assert_eq!(report["publishes"]["unsent"], 7);
        let (code, report) = ten_events(Habit::Stalls, "--verify");
        assert_eq!((code, &report["publishes"]["unanswered"]), (1, &Value::from(1)), "{report}");
    }

    #[test]
    fn a_flood_is_answered_in_full_and_arrives_in_order() {
        let flags = "--subscribers 5 --flood --events 20000 --publishers 2 --verify --json";
        let output = loadtest(&start(Habit::Good), flags);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{report}");
        assert_eq!(report["deliveries"]["received"], 100_000);
    }

    #[test]
    fn a_flood_does_not_count_the_time_it_stands_still_for_lost_events() {
        let flags = "--subscribers 3 --flood --events 2000 --behind-max 1 --drain 1s --json";
        let report = |habit: Habit| -> Value {
            serde_json::from_slice(&loadtest(&start(habit), flags).stdout).unwrap()
        };
        let (good, loses) = (report(Habit::Good), report(Habit::LosesForAll));
        assert_eq!(
            (&good["publishes"]["waited_for_lost_s"], &good["deliveries"]["lost"]),
            (&0.0.into(), &0.into())
        );
        let waited_s = loses["publishes"]["waited_for_lost_s"].as_f64().unwrap();
        assert!(waited_s >= 0.25 && loses["deliveries"]["lost"] == 3, "{loses}");
    }

    #[test]
    fn subscribers_come_from_as_many_addresses_as_they_need() {
        let (code, report) = ten_events(Habit::Good, "--verify --connections-per-address 1");
        assert_eq!(code, 0, "{report}");
    }

    #[test]
    fn readers_may_be_processes_and_see_the_same() {
        let (code, report) = ten_events(Habit::Good, "--verify --processes 2 --topics 2");
        assert_eq!((code, &report["deliveries"]["received"]), (0, &Value::from(15)), "{report}");
        assert!(report["latency_us"]["p50"].as_f64().unwrap() < 1e6, "one clock for all: {report}");
        let (code, report) = ten_events(Habit::Doubles, "--verify --processes 3");
        assert_eq!((code, &report["deliveries"]["doubled"]), (1, &Value::from(1)), "{report}");
        assert!(refused(Habit::RefusesSubscribers, "--processes 2").contains("503: too many subscribers"));
    }

    #[test]
    fn those_who_come_and_go_are_counted_apart_and_the_others_get_everything() {
        let flags = "--subscribers 10 --churning 5 --churn-rate 100 --rate 200 --events 200 --verify --json";
        let output = loadtest(&start(Habit::Good), flags);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{report}");
        assert_eq!(report["deliveries"]["received"], 1_000);
        let churn = &report["churn"];
        assert!(
            churn["stays"].as_u64().unwrap() > 50 && churn["deliveries"].as_u64().unwrap() > 0,
            "{churn}"
        );
    }

    #[test]
    fn those_who_come_and_go_must_get_all_that_is_published_after_their_200() {
        // Each stays for longer than a second, and what is due more than a second before it leaves must have come.
        let flags =
            "--subscribers 10 --churning 5 --churn-rate 4 --rate 100 --events 300 --drain 1s --verify --json";
        let churn = |habit: Habit, flags: &str| {
            let output = loadtest(&start(habit), flags);
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let count = |name: &str| report["churn"][name].as_u64().unwrap();
            assert_eq!(report["deliveries"]["lost"], 0, "the others get everything: {report}");
            (output.status.code().unwrap(), count("due"), count("missed"), count("failed"))
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (code, due, missed, failed) = churn(Habit::Good, flags);
                assert!((code, missed, failed) == (0, 0, 0) && due > 100, "{code} {due} {missed} {failed}");
            });
            scope.spawn(|| {
                let flags = format!("{flags} --topics 5 --processes 2");
                let (code, due, missed, failed) = churn(Habit::Good, &flags);
                assert!((code, missed, failed) == (0, 0, 0) && due > 20, "{code} {due} {missed} {failed}");
            });
            scope.spawn(|| {
                let (code, due, missed, failed) = churn(Habit::ForgetsLatecomers, flags);
                assert!((code, failed) == (1, 0) && missed > due / 2, "{code} {due} {missed} {failed}");
            });
            scope.spawn(|| {
                let (code, due, missed, failed) = churn(Habit::JoinsLatecomersLate, flags);
                assert!(
                    (code, failed) == (1, 0) && (5..15).contains(&missed),
                    "{code} {due} {missed} {failed}"
                );
            });
            scope.spawn(|| {
                let flags = format!("{flags} --connect-timeout 500ms");
                let (code, _, missed, failed) = churn(Habit::LeavesLatecomersWaiting, &flags);
                assert!(code == 1 && missed == 0 && failed >= 5, "{code} {missed} {failed}");
            });
        });
    }

    #[test]
    fn a_stalled_subscriber_is_not_read_and_the_others_get_everything() {
        let (code, report) = ten_events(Habit::Good, "--stalled 1 --verify");
        assert_eq!((code, &report["deliveries"]["received"]), (0, &Value::from(20)), "{report}");
        assert_eq!((&report["stalled"]["subscribers"], &report["stalled"]["cut"]), (&1.into(), &0.into()));
        // The first subscriber, whom this server cuts, is the stalled one: that is the server's good right.
        let (code, report) = ten_events(Habit::Cuts, "--stalled 1 --connect-batch 1 --verify");
        assert_eq!((code, &report["stalled"]["cut"]), (0, &Value::from(1)), "{report}");
        assert_eq!(report["deliveries"]["cut"], 0);
    }

    #[test]
    fn a_protocol_of_lines_is_measured_as_http_is() {
        // The same server, of whose answers only lines are looked at.
        let wire = serde_json::json!({
            "subscribe": "GET /subscribe/x HTTP/1.1\r\n\r\n",
            "subscribed": "text/event-stream",
            "open": "POST /publish/nobody{publisher} HTTP/1.1\r\nContent-Length: 1\r\n\r\n-",
            "opened": "Content-Length: 2",
            "publish": "POST /publish/x HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}",
            "acknowledged": "Content-Length: 2",
            "refused": ["HTTP/1.1 503", "{}HTTP/1.1 503"],
        });
        let run = |habit: Habit, publishers: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_esper-loadtest"));
            command.args(["run", &start(habit), "--wire", &wire.to_string(), "--publishers", publishers]);
            let flags = "--subscribers 3 --events 10 --rate 1000 --drain 1s --verify --json";
            command.args(flags.split(' ')).output().unwrap()
        };
        let output = run(Habit::Good, "2");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&report["deliveries"]["received"], &report["publishes"]["acknowledged"]),
            (&30.into(), &10.into())
        );
        assert!(report["publishes"]["answer_us"]["p50"].as_f64().unwrap() > 0.0, "{report}");
        // The first publish is its second request.
        let refused = run(Habit::Refuses, "1");
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && why.contains("503 Busy"), "{why}");
        let unwelcome = run(Habit::Stalls, "3");
        let why = String::from_utf8(unwelcome.stderr).unwrap();
        assert!(unwelcome.status.code() == Some(2) && why.contains("was not let in"), "{why}");
    }

    #[test]
    fn the_server_s_process_is_measured() {
        let (_, report) = ten_events(Habit::Good, &format!("--pid {}", std::process::id()));
        assert!(report["server"]["rss_bytes"].as_u64().unwrap() > 0, "{report}");
    }

    #[test]
    fn the_table_shows_the_same_result() {
        let output =
            loadtest(&start(Habit::Loses), "--subscribers 2 --events 10 --rate 1000 --drain 500ms --verify");
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{table}");
        let row =
            |name: &str| table.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("missing").trim();
        assert_eq!((row("lost"), row("deliveries "), row("result")), ("1", "19 of 20", "FAILED"), "{table}");
        assert!(output.stderr.is_empty(), "no progress bar outside a terminal");
    }

    #[test]
    fn what_cannot_be_measured_is_one_line_and_exit_code_2() {
        assert!(refused(Habit::RefusesSubscribers, "").contains("503: too many subscribers"));
        assert!(refused(Habit::WebPage, "").contains("text/event-stream"));
        assert!(refused(Habit::Silent, "--connect-timeout 300ms").contains("only 0 of 1000 subscribers"));
        assert!(refused(Habit::Unauthorized, "--subscribers 1 --events 3").contains("answered 401 not now"));
        assert!(refused(Habit::Good, "--subscribers 100000000").contains("--subscribers"));
        assert!(refused(Habit::Good, "--pid 4294967295").contains("--pid"));
        assert!(refused(Habit::Good, "--cpus 4000").contains("--cpus"));
        assert!(refused(Habit::Good, "--size 5").contains("--size"));
    }

    #[test]
    fn an_unreachable_server_is_named() {
        let output = loadtest("http://127.0.0.1:1", "");
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.contains("cannot connect to 127.0.0.1:1"), "{line}");
    }
}
