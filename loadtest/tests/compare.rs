//! `compare`, `plot`, `tables` and `floor` from end to end, with small servers in the places of the large ones.

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Signal, kill_process};
    use serde_json::Value;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output, Stdio};
    use std::time::{Duration, Instant};

    const PEERS: &str = r#"
        [[peer]]
        name = "stub"
        command = ["{self}", "serve-floor", "--port", "{port}"]
        one_topic = true

        [[peer]]
        name = "broken"
        command = ["/bin/sh", "-c", "echo cannot open the database; exit 1"]
    "#;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("esper-loadtest-test-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("peers.toml"), PEERS).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str) -> String {
            self.0.join(name).display().to_string()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn loadtest(words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esper-loadtest"));
        command.args(words);
        command
    }

    /// `compare` on whatever CPUs there are, with a hundredth of the connections.
    fn compare(folder: &Folder, peers: &str, cases: &str, duration: &str) -> Command {
        let cpus = core_affinity::get_core_ids().unwrap();
        let (first, last) = (cpus.first().unwrap().id.to_string(), cpus.last().unwrap().id.to_string());
        let peer_file = folder.file("peers.toml");
        let mut command =
            loadtest(&["compare", "--peers", peers, "--peer-file", &peer_file, "--cases", cases]);
        command.args(["--server-cpu", &first, "--load-cpus", &last, "--scale-down", "100"]);
        command.args(["--rounds", "2", "--duration", duration]);
        command
    }

    fn text(output: &[u8]) -> String {
        String::from_utf8_lossy(output).into_owned()
    }

    fn succeeded(output: &Output) {
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    }

    #[test]
    fn servers_take_turns_and_their_figures_become_tables_and_pictures() {
        let folder = Folder::new("turns");
        let out = folder.file("out.json");
        let cases = "paced,flood,topics,shards-2,idle,verify-churn";
        let output = compare(&folder, "stub,floor", cases, "300ms").args(["--out", &out]).output().unwrap();
        succeeded(&output);

        let results: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let turns = |case: &str| {
            let records =
                results["records"].as_array().unwrap().iter().filter(|record| record["case"] == case);
            records
                .map(|record| format!("{} {}", record["peer"].as_str().unwrap(), record["round"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(turns("paced"), ["stub 0", "floor 0", "stub 1", "floor 1"]);
        assert_eq!(turns("verify-churn"), ["stub 0"], "the first alone, once");
        assert_eq!(turns("topics"), [""; 0], "neither has topics");
        assert_eq!(turns("shards-2"), ["stub 0", "stub 1"], "the floor has one worker");
        let churn = &results["records"].as_array().unwrap().last().unwrap()["report"]["churn"];
        assert!(churn["stays"].as_u64().unwrap() > 0 && churn["failed"] == 0, "{churn}");
        assert!(text(&output.stderr).contains("case 6 of 6, about"), "{}", text(&output.stderr));

        let tables = text(&output.stdout);
        for row in [
            "| row | must | measured | reached |",
            "| flood | deliveries/s: at least 10,000,000 |",
            "| paced | CPU per delivery, us: at most 1.15 times floor's |",
            "| paced | CPU per delivery, us: at most 0.6 times nchan's | – | not measured |",
            "0 / 0 / 0 / 0 / 0 in 9 runs, 1 of which read every event | yes |",
            "|  | stub | floor |",
            "| CPU per delivery, us |",
            "| … against stub | 1.00 |",
            "| CPU in use while connecting: server / load generator |",
            "| latest publish, ms behind its time |",
            "0 / 0 / 0 / 0",
            "The proofs (`verify-…`) check every event.",
        ] {
            assert!(tables.contains(row), "{row}: {tables}");
        }
        let again = loadtest(&["tables", &out]).output().unwrap();
        assert_eq!(text(&again.stdout), tables);

        let plots = folder.file("plots");
        succeeded(&loadtest(&["plot", &out, "--into", &plots]).output().unwrap());
        let picture = std::fs::read_to_string(Path::new(&plots).join("latency-1000.svg")).unwrap();
        assert!(picture.contains("stub") && picture.contains("99.9 %"), "{picture}");
    }

    #[test]
    fn a_server_that_cannot_be_measured_is_told_and_the_others_are_measured() {
        let folder = Folder::new("broken");
        let measured = compare(&folder, "stub,broken", "paced", "200ms").output().unwrap();
        succeeded(&measured);
        assert!(text(&measured.stdout).contains("cannot open the database"), "{}", text(&measured.stdout));
        let first = compare(&folder, "broken,stub", "paced", "200ms").output().unwrap();
        assert_eq!(first.status.code(), Some(1), "it is the one that counts");
    }

    #[test]
    fn wrong_names_are_refused_with_the_right_ones() {
        let folder = Folder::new("names");
        for (peers, cases, hint) in [("stab", "paced", "stub"), ("stub", "pacd", "paced")] {
            let output = compare(&folder, peers, cases, "1s").output().unwrap();
            let line = text(&output.stderr);
            assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
            assert!(line.contains("known are") && line.contains(hint), "{line}");
        }
    }

    #[test]
    fn an_interrupted_comparison_leaves_no_server_behind() {
        let folder = Folder::new("interrupted");
        let mut command = compare(&folder, "stub", "paced", "60s");
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let server = loop {
            if let Some(server) = child_of(running.id()) {
                break server;
            }
            assert!(Instant::now() < deadline, "no server was started");
            std::thread::sleep(Duration::from_millis(5));
        };
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_raw(running.id() as i32).unwrap(), Signal::INT).unwrap();
        assert_eq!(running.wait().unwrap().code(), Some(130));
        // Ended, though perhaps nobody has asked yet how.
        let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "the server is still there: {stat}");
    }

    #[test]
    fn a_commit_floor_answers_and_delivers_what_is_on_disk() {
        let cpus = core_affinity::get_core_ids().unwrap();
        let first = cpus.first().unwrap().id.to_string();
        let mut command =
            loadtest(&["journal", "--peers", "commit-floor", "--rounds", "1", "--duration", "200ms"]);
        command.args(["--server-cpu", &first, "--load-cpus", &first, "--scale-down", "100"]);
        // Not what it is about here, and the temporary files of a machine may be in memory.
        command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
        let output = command.args(["--cases", "durable,durable-200,verify-durable-1000"]).output().unwrap();
        succeeded(&output);
        let tables = text(&output.stdout);
        for row in [
            "| durable | publishes/s: at least 0.8 times commit-floor's | 1.00 times",
            "| durable-200 | publish to its answer p99, ms: at most 2 times commit-floor's |",
            "| publish to its answer p50, ms |",
            "0 / 0 / 0 / 0 / 0 in 3 runs, 1 of which read every event | yes |",
        ] {
            assert!(tables.contains(row), "{row}: {tables}");
        }
        let nowhere = loadtest(&["journal"]).env("TMPDIR", "/proc/self/none").output().unwrap();
        let why = text(&nowhere.stderr);
        assert!(nowhere.status.code() == Some(2) && why.contains("set TMPDIR"), "{why}");
    }

    fn child_of(pid: u32) -> Option<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
            .next()
    }

    #[test]
    fn the_floor_delivers_everything_once_and_in_order() {
        let first = core_affinity::get_core_ids().unwrap()[0].id.to_string();
        for flags in ["--rate 200", "--flood --publishers 2"] {
            let mut command = loadtest(&["floor", "--server-cpu", &first, "--verify", "--json"]);
            command.args(["--subscribers", "20", "--events", "500"]).args(flags.split(' '));
            let output = command.output().unwrap();
            succeeded(&output);
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["deliveries"]["received"], 10_000, "{report}");
            assert!(report["server"]["cpu_us_per_delivery"].is_f64(), "{report}");
        }
    }
}
