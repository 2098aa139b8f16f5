//! `crowd` from end to end: a tiny round of everything but nchan, which needs nginx. Needs esper beside the load generator,
//! where `cargo test --workspace` puts it.

#[cfg(test)]
mod suite;

#[cfg(test)]
mod tests {
    use crate::suite::{command, text};
    use serde_json::Value;

    const ROWS: [&str; 10] = [
        "connects: CPU, esper to floor",
        "connects: bytes of each, at once",
        "connects: bytes of each, one after another",
        "herd: 128 B: publishes' p99, meanwhile to quiet",
        "herd: 128 B: memory, a minute after to before",
        "herd: 4 KiB: publishes' p99, meanwhile to quiet",
        "herd: 4 KiB: memory, a minute after to before",
        "large: p99, meanwhile to quiet",
        "waves: memory, a minute after to before",
        "to reach",
    ];

    #[test]
    fn a_small_crowd_gets_all_it_is_due_and_every_row_has_a_figure() {
        let (mut command, server, load) = command("crowd");
        let out = std::env::temp_dir().join(format!("esper-loadtest-test-{}-crowd.json", std::process::id()));
        command.args(["--peers", "esper,floor", "--rounds", "1", "--scale-down", "50"]);
        command.args(["--server-cpu", &server, "--load-cpus", &load]).arg("--out").arg(&out);
        let output = command.output().unwrap();
        let (tables, why) = (text(&output.stdout), text(&output.stderr));
        // A debug build on a busy machine need not reach any row.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{tables}{why}");
        for row in ROWS {
            assert!(tables.contains(&format!("| {row} |")), "{row} in {tables}");
        }
        let written: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        std::fs::remove_file(&out).unwrap();
        assert_eq!(written["failures"], serde_json::json!([]), "{tables}{why}");
        let goals = written["goals"].as_array().unwrap();
        assert_eq!(goals.len(), ROWS.len() - 1);
        assert!(goals.iter().all(|goal| goal["measured"].is_f64()), "{tables}{why}");
    }

    #[test]
    fn what_cannot_be_measured_is_said_with_the_flag() {
        let (mut command, ..) = command("crowd");
        let output = command.args(["--server-cpu", "4095"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("--server-cpu"), "{}", text(&output.stderr));
    }
}
