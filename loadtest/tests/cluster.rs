//! `cluster` from end to end: a tiny round of everything against NATS servers that are started for it. Needs the feature
//! `cluster`, and esper beside the load generator, where `cargo test --workspace` puts it.

#![cfg(feature = "cluster")]

#[cfg(test)]
mod suite;

#[cfg(test)]
mod tests {
    use crate::suite::{command, text};
    use serde_json::Value;
    use std::process::Command;

    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/nats");

    fn cluster() -> Command {
        let (mut command, first, last) = command("cluster");
        command.args(["--nats", SCRIPT, "--server-cpu", &first, "--load-cpu", &last, "--scale-down", "50"]);
        // Not what it is about here, and the temporary files of a machine may be in memory.
        command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
        command
    }

    #[test]
    fn all_take_turns_and_their_figures_become_tables() {
        let out =
            std::env::temp_dir().join(format!("esper-loadtest-test-cluster-{}.json", std::process::id()));
        let flags = "--rounds 1 --duration 1s --cases";
        let cases =
            "cluster-paced-r1,cluster-publishes-r1,cluster-flood-r1,cluster-dies,verify-cluster-flood-r1";
        let output = cluster().args(flags.split(' ')).args([cases, "--out"]).arg(&out).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        let results: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
        std::fs::remove_file(&out).unwrap();
        let records = results["records"].as_array().unwrap();
        let turns: Vec<_> = records.iter().map(|record| record["peer"].as_str().unwrap()).collect();
        let publishes = ["esper", "async-nats", "async-nats-batches"];
        let paced = &publishes[..2];
        assert_eq!(turns, [paced, &publishes, &["esper", "memory"], &["esper"], &["esper"]].concat());
        for record in records {
            assert!(record["report"]["passed"] == true, "{record}");
            assert!(record["report"]["deliveries"]["received"].as_u64().unwrap() >= 20, "{record}");
        }
        let died = &records[7]["report"];
        assert_eq!(
            (&died["resumed"]["subscribers"], &died["verified"]),
            (&died["subscribers"], &true.into())
        );
        let tables = text(&output.stdout);
        for row in [
            "| cluster-paced-r1 | latency p50, ms: at most 1.25 times async-nats's |",
            "| cluster-publishes-r1 | publishes/s: at least 0.8 times async-nats-batches's |",
            "|  | esper | memory |",
            "| from the kill until all had resumed, ms |",
        ] {
            assert!(tables.contains(row), "{row}: {tables}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_told_in_a_line() {
        let wrong = cluster().args(["--cases", "pased"]).output().unwrap();
        let nowhere = cluster().env("TMPDIR", "/proc/self/none").output().unwrap();
        for (output, hint) in [(wrong, "known are cluster-paced-r1"), (nowhere, "set TMPDIR")] {
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
            assert!(said.contains(hint), "{said}");
        }
    }
}
