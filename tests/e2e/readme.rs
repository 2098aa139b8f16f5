//! What the documents say: the README's commands are run as they stand there, and files around the code are held to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::support::{Server, TempDir, esper, eventually};

const README: &str = include_str!("../../README.md");
const JOURNAL: &str = include_str!("../../docs/journal.md");

/// The fenced block behind `<!-- test: NAME -->`.
pub(crate) fn block(name: &str) -> &'static str {
    block_of(README, name)
}

fn block_of(document: &'static str, name: &str) -> &'static str {
    fence_of(document, &format!("<!-- test: {name} -->\n"))
}

/// The fenced block that comes next after some text.
pub(crate) fn fence(before: &str) -> &'static str {
    fence_of(README, before)
}

fn fence_of(document: &'static str, before: &str) -> &'static str {
    let (_, rest) = document.split_once(before).unwrap_or_else(|| panic!("the document has no {before:?}"));
    let (_, rest) = rest.split_once("```").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_walk_through_prints_what_the_readme_shows() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let here = |name: &str| block(name).replace("127.0.0.1:3000", &address);

    let subscriber = Background::start(&here("subscribe"));
    eventually("curl is subscribed", || (server.stats()["clients"] == 1).then_some(()));
    let answer = without_run(&bash(&here("publish"), &[]));
    assert!(README.contains(&format!("`{}`", answer.replace("RUN", "14695981039346656037"))), "{answer}");
    let printed = fence("and the subscriber prints:").replace("14695981039346656037", "RUN") + "\n";
    let got = eventually("curl prints the event", || {
        let got = subscriber.printed();
        got.ends_with("\n\n").then_some(got)
    });
    assert_eq!(without_run(&got), printed);

    assert_eq!(without_run(&bash(&here("publish-json"), &[])), r#"{"id":"RUN-2","events":1}"#);
    let again = "event:testing\ndata:{\"some\":\"data\"}\nid:RUN-2\n\n";
    let got = eventually("curl prints both events", || {
        Some(without_run(&subscriber.printed())).filter(|got| got.matches("\n\n").count() == 2)
    });
    assert_eq!(got, format!("{printed}{again}"));

    let replayed = without_run(&bash(&here("replay"), &[]));
    let gap = "event:gap\ndata:{\"from\":\"0\",\"reason\":\"unknown\"}\n\n";
    assert_eq!(replayed, format!("{gap}{printed}{again}"));
}

#[test]
fn with_namespaces_a_parent_and_a_stream_of_several_topics_get_what_the_readme_publishes() {
    let server = Server::start(&["--namespaces"]);
    let address = server.address.to_string();
    let here = |name: &str| block(name).replace("127.0.0.1:3000", &address);

    let streams = [Background::start(&here("subscribe-namespace")), Background::start(&here("several"))];
    eventually("both are subscribed", || (server.stats()["clients"] == 2).then_some(()));
    assert_eq!(without_run(&bash(&here("publish-namespace"), &[])), r#"{"id":"RUN-1","events":1}"#);
    let [parent, several] = streams.map(|stream| {
        let got = eventually("curl prints the event", || {
            Some(stream.printed()).filter(|printed| printed.ends_with("\n\n"))
        });
        without_run(&got)
    });
    assert_eq!(parent, "event:new-dog\ndata:Corgi\nid:RUN-1\n\n");
    // A position: which CPUs are in it depends on where the topics are.
    let position = several.strip_prefix("event:new-dog\ndata:Corgi\nid:RUN-").expect("a position");
    assert!(position.contains(".1"), "{several}");
}

#[test]
fn what_the_journals_guide_publishes_outlives_its_kill_and_is_in_its_backup() {
    let dir = TempDir::new();
    let data = dir.0.join("data");
    let (_, command) = block_of(JOURNAL, "start").trim_end().split_once('\n').unwrap();
    assert_eq!(command, "esper --data-dir data");
    let start = || Server::start(&["--data-dir", data.to_str().unwrap()]);
    let run = |server: &Server, name: &str| {
        let script = block_of(JOURNAL, name).replace("127.0.0.1:3000", &server.address.to_string());
        without_run(&bash(&format!("cd '{}'\n{script}", dir.0.display()), &[]))
    };
    let kept = "event:gap\ndata:{\"from\":\"0\",\"reason\":\"unknown\"}\n\ndata: hello\nid:RUN-1\n\n";

    let mut server = start();
    assert_eq!(run(&server, "kill"), r#"{"id":"RUN-1","events":1}"#);
    assert_eq!(server.wait().signal(), Some(9));
    let mut server = start();
    assert_eq!(run(&server, "resume"), kept);

    run(&server, "copy");
    assert_eq!(run(&server, "kill"), r#"{"id":"RUN-2","events":1}"#);
    server.wait();
    run(&server, "restore");
    assert_eq!(run(&start(), "resume"), kept);
}

/// That example is compiled and run, as a doctest.
#[test]
fn the_readme_embeds_as_the_page_of_the_crate_does() {
    let lines = include_str!("../../src/lib.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let page: String = lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    assert!(page.contains(&format!("```\n{}", block("embed"))), "{page}");
}

#[test]
fn a_token_made_in_a_shell_publishes_and_subscribes() {
    let script = format!(
        "{}\nprintf '%s %s' \"$ESPER_SUBSCRIBER_SECRET\" \"$ESPER_PUBLISHER_SECRET\"",
        block("secrets")
    );
    let secrets = bash(&script, &[]);
    let (subscriber, publisher) = secrets.split_once(' ').unwrap();
    assert!(subscriber.len() == 64 && publisher.len() == 64 && subscriber != publisher, "{secrets}");
    let variables = [("ESPER_SUBSCRIBER_SECRET", subscriber), ("ESPER_PUBLISHER_SECRET", publisher)];
    let server = Server::start_with(&[], &variables);

    let script = block("authenticated").replace("127.0.0.1:3000", &server.address.to_string());
    let answer = bash(&script, &variables);
    assert_eq!(without_run(&answer), r#"{"id":"RUN-1","events":1}"#);

    let token = bash("esper token --sub abcdef123", &variables);
    let path = format!("/subscribe/abcdef123?token={}", token.trim());
    let head = server.request("HEAD", &path, &[], "");
    assert_eq!((head.status, head.field("Content-Type")), (200, Some("text/event-stream")));
    // One made for the one side is none for the other.
    assert_eq!(server.post(&path.replace("subscribe", "publish"), "data: x").status, 401);

    let token = bash(block("admin-token"), &variables);
    let with_token = |path: &str| format!("{path}?token={}", token.trim());
    assert_eq!(server.get(&with_token("/admin/status.json")).status, 200);
    assert_eq!(server.post(&with_token("/publish/abcdef123"), "data: x").status, 403);
}

#[test]
fn the_five_commands_of_a_session_print_what_the_readme_shows() {
    let script = block("sessions").replace("\\\n", " ");
    let [start, mint, subscribe, emit, list] = script.lines().collect::<Vec<_>>().try_into().expect("five");
    let start = start.replace("127.0.0.1:8000", "127.0.0.1:0").replace("127.0.0.1:8001", "127.0.0.1:0");
    let flags = start.strip_prefix("esper ").and_then(|line| line.strip_suffix(" &")).unwrap();
    let server = Server::spawn(esper(&flags.split(' ').collect::<Vec<_>>(), &[]));
    let (public, control) = (server.address.to_string(), server.control().to_string());
    let here = |command: &str| command.replace("127.0.0.1:8000", &public).replace("127.0.0.1:8001", &control);

    let token = bash(&format!("{}; printf %s \"$token\"", here(mint)), &[]);
    let subscribe = subscribe.strip_suffix(" &").unwrap().replace("$token", &token);
    let subscriber = Background::start(&here(&subscribe));
    let listed = || serde_json::from_str::<Value>(&bash(&here(list), &[])).unwrap();
    let listed = eventually("curl is subscribed", || Some(listed()).filter(|all| all["streams"] == 1));
    assert_eq!((&listed["channel"], &listed["users"][0]["userId"]), (&"chat".into(), &"alex".into()));

    let answer = without_run(&bash(&here(emit), &[]));
    assert!(README.contains(&format!("`{}`", answer.replace("RUN", "14695981039346656037"))), "{answer}");
    let printed = fence("with which the third prints").replace("14695981039346656037", "RUN") + "\n";
    let got = eventually("curl prints the event", || {
        Some(subscriber.printed()).filter(|got| got.ends_with("\n\n"))
    });
    assert_eq!(without_run(&got), printed);
}

/// Name, value's name and default of every flag, as `--help` and docs/flags.md have them.
#[test]
fn docs_flags_md_has_every_flag_of_help_with_its_value_and_default() {
    let helped = helped_flags();
    assert!(helped.len() > 20, "--help could be read: {helped:?}");
    let mut told = BTreeMap::new();
    for [name, default, meaning] in table_rows(include_str!("../../docs/flags.md")) {
        let name = name.replace('`', "");
        if !name.starts_with('-') {
            continue;
        }
        assert!(!meaning.is_empty(), "{name} says what it means");
        let words = name.rsplit_once(", ").map_or(&*name, |(_, long)| long);
        let (flag, value) = words.split_once(' ').unwrap_or((words, ""));
        told.insert(flag.to_owned(), (value.to_owned(), code(&default)));
    }
    for (flag, (value, default)) in &helped {
        let (told_value, told_default) =
            told.remove(flag).unwrap_or_else(|| panic!("{flag} is not in docs/flags.md"));
        assert_eq!(&told_value, value, "the value of {flag}");
        // What has no fixed default is told in words.
        let fixed = default.clone().filter(|default| !default.contains(' '));
        assert_eq!(told_default, fixed, "the default of {flag}");
    }
    assert!(told.is_empty(), "docs/flags.md has flags that --help has not: {told:?}");
}

#[test]
fn the_readme_names_flags_that_are_there_with_their_defaults() {
    let helped = helped_flags();
    let (_, section) = README.split_once("\n## Flags\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut flags = 0;
    for [names, defaults, _] in table_rows(section) {
        let names = names.split(", ").map(|name| name.replace('`', ""));
        let mut defaults = defaults.split(", ").map(code);
        for name in names.filter(|name| name.starts_with("--")) {
            let (_, default) = helped.get(&name).unwrap_or_else(|| panic!("there is no {name}"));
            if let Some(told) = defaults.next().flatten() {
                assert_eq!(Some(told), *default, "{name}");
            }
            flags += 1;
        }
    }
    assert!(flags > 10, "{flags} flags in the README's tables");
}

#[test]
fn every_file_that_the_documents_link_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for document in [
        "README.md",
        "PERFORMANCE.md",
        "docs/deploy.md",
        "docs/flags.md",
        "docs/http.md",
        "docs/journal.md",
        "docs/metrics.md",
        "docs/queues.md",
        "docs/sessions.md",
        "docs/sseserver.md",
    ] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.starts_with("http")) {
            let path = root.join(document).with_file_name(target.split('#').next().unwrap_or_default());
            assert!(path.exists(), "{document} links to {target}");
            links += 1;
        }
    }
    assert!(links > 10, "{links} links");
}

#[test]
fn docs_http_md_has_the_lines_that_a_bad_topic_is_refused_with() {
    let (plain, spaces) = (Server::start(&[]), Server::start(&["--namespaces"]));
    let long = "x".repeat(65);
    let many: String = (0..65).map(|n| format!("&topic=t{n}")).collect();
    let sent: BTreeSet<String> = [
        plain.get("/subscribe/short"),
        plain.get("/subscribe/two%20words"),
        spaces.get("/subscribe/1/2/3/4/5/6/7/8/9"),
        spaces.get(&format!("/subscribe/{long}")),
        spaces.get("/subscribe/two%20words"),
        spaces.get("/subscribe/pets/.."),
        spaces.post("/publish/", "data: x"),
        spaces.get("/subscribe/pets?topic=time"),
        spaces.get(&format!("/subscribe?{many}")),
    ]
    .into_iter()
    .map(|answer| format!("| {} | `{}` |", answer.status, answer.body.trim_end()))
    .collect();
    let lines = include_str!("../../docs/http.md").lines().filter(|line| line.starts_with("| 400 | `"));
    assert_eq!(sent, lines.map(str::to_owned).collect());
}

/// Docker refuses a profile that is no JSON only when somebody starts a container.
#[test]
fn the_seccomp_profile_refuses_by_default_and_allows_the_calls_of_io_uring_and_the_journal() {
    let profile: Value = serde_json::from_str(include_str!("../../scripts/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let io_uring = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
    let journal =
        ["fallocate", "fdatasync", "flock", "fstatfs", "fsync", "ftruncate", "pwritev", "rename", "unlink"];
    for call in io_uring.into_iter().chain(journal) {
        let is_allowed = profile["syscalls"].as_array().unwrap().iter().any(|entry| {
            let has_conditions = ["args", "includes", "excludes"].iter().any(|name| !is_empty(&entry[*name]));
            entry["action"] == "SCMP_ACT_ALLOW"
                && !has_conditions
                && entry["names"].as_array().unwrap().contains(&Value::from(call))
        });
        assert!(is_allowed, "{call}");
    }
}

#[test]
fn systemd_takes_the_unit_and_esper_its_variables() {
    let unit = include_str!("../../deploy/esper.service");
    let variables: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .flat_map(|line| line.split(' '))
        .map(|pair| pair.split_once('=').unwrap())
        .collect();
    assert_eq!(variables.len(), 2);
    drop(Server::start_with(&[], &variables));

    let dir = TempDir::new();
    let path = dir.0.join("esper.service");
    // It looks whether the program is there.
    let start = "ExecStart=/usr/local/bin/esper";
    assert!(unit.contains(start));
    let here = format!("ExecStart={}", env!("CARGO_BIN_EXE_esper"));
    std::fs::write(&path, unit.replace(start, &here)).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    let output = output.expect("systemd-analyze is installed (Debian's and Ubuntu's package systemd)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("esper.service"), "{said}");
}

/// Runs a script as the README has it, and returns what it printed.
pub(crate) fn bash(script: &str, variables: &[(&str, &str)]) -> String {
    let output = shell(&format!("set -euo pipefail\n{script}")).envs(variables.iter().copied()).output();
    let output = output.expect("bash is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("bash");
    // As if it were installed.
    let binary = Path::new(env!("CARGO_BIN_EXE_esper")).parent().unwrap();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = [binary.to_owned()].into_iter().chain(std::env::split_paths(&paths));
    command.args(["-c", script]).env("PATH", std::env::join_paths(paths).unwrap()).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy")) {
        command.env_remove(name);
    }
    command
}

/// A command that goes on until this is dropped.
pub(crate) struct Background {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Background {
    pub(crate) fn start(command: &str) -> Background {
        let mut child = shell(&format!("exec {command}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash is installed");
        let mut stdout = child.stdout.take().unwrap();
        let printed = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&printed);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(bytes @ 1..) = stdout.read(&mut buffer) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..bytes]));
            }
        });
        Background { child, printed }
    }

    pub(crate) fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text with RUN for the first part of ids, which is another at each run of the server.
fn without_run(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(at);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let is_run = end == 20 && digits[end..].starts_with('-');
        out.push_str(before);
        out.push_str(if is_run { "RUN" } else { &digits[..end] });
        rest = &digits[end..];
    }
    out + rest
}

/// Each flag of `--help`: the name of its value, empty for a switch, and its default.
fn helped_flags() -> BTreeMap<String, (String, Option<String>)> {
    let output = esper(&["--help"], &[]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let mut entries: Vec<String> = Vec::new();
    for line in help.lines() {
        let text = line.trim_start();
        // Flags are set in by up to 6 columns, and what is said of them by more.
        if text.starts_with('-') && line.len() - text.len() <= 6 {
            entries.push(String::new());
        }
        if let Some(entry) = entries.last_mut() {
            entry.push_str(text);
            entry.push(' ');
        }
    }
    let flags = entries.iter().map(|entry| {
        let long = &entry[entry.find("--").unwrap()..];
        let (flag, rest) = long.split_once(' ').unwrap();
        let value = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')).map_or("", |(name, _)| name);
        let default = rest.split_once("[default: ").and_then(|(_, rest)| rest.split_once(']'));
        (flag.to_owned(), (value.to_owned(), default.map(|(default, _)| default.to_owned())))
    });
    flags.filter(|(flag, _)| !["--help", "--version"].contains(&&**flag)).collect()
}

/// The rows of three cells in a document's tables, without their heads.
fn table_rows(text: &str) -> impl Iterator<Item = [String; 3]> {
    text.lines().filter_map(|line| {
        // `\|` is a bar within a cell.
        let line = line.replace("\\|", "\0");
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let cells: Vec<_> = cells.split(" | ").map(|cell| cell.replace('\0', "|")).collect();
        cells.try_into().ok()
    })
}

/// What stands in backquotes, if the cell begins with that.
fn code(cell: &str) -> Option<String> {
    Some(cell.strip_prefix('`')?.split_once('`')?.0.to_owned())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
