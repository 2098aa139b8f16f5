//! `queues` from end to end: a tiny round of everything against a RabbitMQ, that of ESPER_TEST_AMQP_URL or one which is
//! started for it. Needs the feature `queues`, and esper beside the load generator, where `cargo test --workspace` puts it.

#![cfg(feature = "queues")]

#[cfg(test)]
mod suite;

#[cfg(test)]
mod tests {
    use crate::suite::{command, text};
    use serde_json::Value;
    use std::process::{Command, Output};

    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/rabbitmq");

    fn queues() -> Command {
        let (mut command, first, last) = command("queues");
        command.args([
            "--rabbitmq",
            SCRIPT,
            "--server-cpu",
            &first,
            "--load-cpu",
            &first,
            "--broker-cpu",
            &last,
        ]);
        if let Some(url) = std::env::var_os("ESPER_TEST_AMQP_URL").filter(|url| !url.is_empty()) {
            command.env("ESPER_LOADTEST_AMQP_URL", url);
        }
        command
    }

    fn succeeded(output: &Output) {
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    }

    #[test]
    fn both_take_turns_and_their_figures_become_tables() {
        let out =
            std::env::temp_dir().join(format!("esper-loadtest-test-queues-{}.json", std::process::id()));
        let flags = "--queues 5 --sweep 1,20 --rate 200 --rounds 1 --duration 100ms --out";
        let output = queues().args(flags.split(' ')).arg(&out).output().unwrap();
        succeeded(&output);
        let results: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let turns = |case: &str| {
            let records =
                results["records"].as_array().unwrap().iter().filter(|record| record["case"] == case);
            records
                .map(|record| format!("{} {}", record["peer"].as_str().unwrap(), record["round"]))
                .collect::<Vec<_>>()
        };
        for case in ["drain", "drain-ids", "paced", "prefetch-1", "prefetch-20"] {
            assert_eq!(turns(case), ["esper 0", "bare 0"], "{case}");
        }
        for record in results["records"].as_array().unwrap() {
            let report = &record["report"];
            let messages = report["publishes"]["acknowledged"].as_u64().unwrap();
            assert_eq!(messages, if record["case"] == "paced" { 20 } else { messages.max(100) }, "{record}");
            assert!(report["server"]["cpu_us_per_delivery"].as_f64().unwrap() > 0.0, "{record}");
            let latency = &report["latency_us"];
            assert!(latency["p50"].as_f64().unwrap() <= latency["p999"].as_f64().unwrap(), "{record}");
        }
        let tables = text(&output.stdout);
        for row in [
            "| drain | messages/s: at least 0.8 times the bare consumer's |",
            "| all | every message once, in order and as it was sent | 0 of 5 runs failed | yes |",
            "with a message_id; prefetch 200**",
            "| latency p99.9, ms |",
            "| prefetch | ack window | esper | bare | esper against bare |",
            "| 1 | 0 |",
            "| 20 | 10 |",
        ] {
            assert!(tables.contains(row), "{row}: {tables}");
        }
        let again = queues().arg("--from").arg(&out).output().unwrap();
        std::fs::remove_file(&out).unwrap();
        assert_eq!(text(&again.stdout), tables);
    }

    #[test]
    fn what_cannot_be_measured_is_told_in_a_line() {
        for (flags, hint) in [
            ("--cases drian", "known are drain"),
            ("--queues 0", "--queues"),
            ("--sweep 0", "prefetch"),
            ("--esper /no/esper", "--esper /no/esper"),
            (
                "--amqp-url amqp://guest:secret@127.0.0.1:1/ --cases paced --queues 1",
                "no connection to RabbitMQ",
            ),
        ] {
            let mut command = queues();
            if flags.starts_with("--esper") {
                command = Command::new(env!("CARGO_BIN_EXE_esper-loadtest"));
                command.arg("queues");
            }
            let output = command.args(flags.split(' ')).output().unwrap();
            let said = text(&output.stderr);
            let line = said.lines().last().unwrap_or_default();
            assert_eq!(output.status.code(), Some(2), "{flags}: {said}");
            assert!(line.starts_with("error: ") && line.contains(hint) && !said.contains("secret"), "{said}");
        }
    }
}
