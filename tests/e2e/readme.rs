//! What the documents say: the commands of the README and of the journal's page are run as they stand there, and files
//! around the code are held to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::guide::GUIDE;
use crate::support::proxy::replace;
use crate::support::{Server, TempDir, esper, free_port};

const README: &str = include_str!("../../README.md");
const JOURNAL: &str = include_str!("../../docs/journal.md");

/// The fenced block of a document behind `<!-- test: NAME -->`.
pub(crate) fn block(document: &'static str, name: &str) -> &'static str {
    fence(document, &format!("<!-- test: {name} -->\n"))
}

/// The fenced block of a document that comes next after some text.
pub(crate) fn fence(document: &'static str, before: &str) -> &'static str {
    let (_, rest) = document.split_once(before).unwrap_or_else(|| panic!("the document has no {before:?}"));
    let (_, rest) = rest.split_once("```").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0
}

/// Pasted into a shell, but for the build: with the binary under test, on a port of its own.
#[test]
fn the_walk_through_pasted_whole_prints_what_the_readme_shows_and_leaves_no_broker() {
    let (build, rest) = block(README, "walk-through").split_once('\n').unwrap();
    assert_eq!(build, "cargo build --release");
    let port = free_port();
    let script = replace(rest, "target/release/esper", "esper");
    let script = replace(&script, "127.0.0.1:3000", &format!("127.0.0.1:{port}"));
    // Its end is that of the last process that has its output, the broker's as well.
    let output = shell(&script).env("ESPER_PORT", &port).output().expect("bash is installed");

    let shown = without_run(fence(README, "publish:\n"));
    let printed = without_run(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(printed, shown, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "the broker has ended");
}

#[test]
fn the_readme_s_figures_are_those_of_performance_md() {
    let performance = include_str!("../../PERFORMANCE.md");
    let (_, section) = README.split_once("\n## Measured\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut figures = 0;
    for row in section.lines().filter(|line| line.starts_with("| ") && line.contains(char::is_numeric)) {
        let cells: Vec<_> = row.trim_matches('|').split('|').skip(1).map(str::trim).collect();
        // They stand in one row of one table there, each with its range, in the same order.
        let stands_there = performance.lines().any(|line| {
            let mut theirs = line.split(" | ").skip(1);
            let mut has =
                |cell: &&str| theirs.next().is_some_and(|their| their.starts_with(&format!("{cell} (")));
            cells.iter().all(&mut has)
        });
        assert!(stands_there, "PERFORMANCE.md has other figures: {row}");
        figures += cells.len();
    }
    assert!(figures > 20, "{figures} figures");
}

/// The names of the blocks that tests run, in the order of the document.
#[test]
fn every_example_of_the_readme_and_the_guide_is_run_by_a_test() {
    let guide = [
        "subscribe",
        "publish",
        "publish-json",
        "replay",
        "browser",
        "subscribe-namespace",
        "publish-namespace",
        "several",
        "secrets",
        "authenticated",
        "sessions",
        "apache",
        "nginx",
        "queues",
        "admin-token",
        "embed",
    ];
    for (document, names) in [(README, &["walk-through"][..]), (GUIDE, &guide)] {
        let lines: Vec<_> = document.lines().collect();
        // A fence without a language shows what is printed.
        let examples = lines.windows(2).filter(|pair| pair[1].starts_with("```") && pair[1].len() > 3);
        let run: Vec<_> = examples
            .map(|pair| {
                let name = pair[0].strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->"));
                name.unwrap_or_else(|| panic!("no test of the example that begins after {:?}", pair[0]))
            })
            .collect();
        assert_eq!(run, names);
    }
}

#[test]
fn what_the_journals_guide_publishes_outlives_its_kill_and_is_in_its_backup() {
    let dir = TempDir::new();
    let data = dir.0.join("data");
    let (_, command) = block(JOURNAL, "start").trim_end().split_once('\n').unwrap();
    assert_eq!(command, "esper --data-dir data");
    let start = || Server::start(&["--data-dir", data.to_str().unwrap()]);
    let run = |server: &Server, name: &str| {
        let script = block(JOURNAL, name).replace("127.0.0.1:3000", &server.address.to_string());
        without_run(&bash(&format!("cd '{}'\n{script}", dir.0.display()), &[]))
    };
    let kept =
        "retry:RANDOM\nevent:gap\ndata:{\"from\":\"0\",\"reason\":\"unknown\"}\n\ndata: hello\nid:RUN-1\n\n";

    let mut server = start();
    assert_eq!(run(&server, "kill"), "{\"id\":\"RUN-1\",\"events\":1}\n");
    assert_eq!(server.wait().signal(), Some(9));
    let mut server = start();
    assert_eq!(run(&server, "resume"), kept);

    run(&server, "copy");
    assert_eq!(run(&server, "kill"), "{\"id\":\"RUN-2\",\"events\":1}\n");
    server.wait();
    run(&server, "restore");
    assert_eq!(run(&start(), "resume"), kept);
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
fn the_guide_names_flags_that_are_there_with_their_defaults() {
    let helped = helped_flags();
    let (_, section) = GUIDE.split_once("\n## Flags\n").unwrap();
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
    assert!(flags > 10, "{flags} flags in the guide's tables");
}

#[test]
fn every_file_and_heading_that_the_documents_link_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = [root.to_owned(), root.join("docs")].into_iter().flat_map(|folder| {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    });
    let mut links = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.starts_with("http")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.clone() } else { document.with_file_name(file) };
            assert!(path.exists(), "{} links to {target}", document.display());
            if !heading.is_empty() {
                let there = headings(&std::fs::read_to_string(&path).unwrap());
                assert!(there.contains(heading), "{} links to {target}", document.display());
            }
            links += 1;
        }
    }
    assert!(links > 100, "{links} links");
}

/// Returns what links to the headings of a document say: their letters and digits in lower case, with `-` for spaces.
fn headings(document: &str) -> BTreeSet<String> {
    let titles =
        document.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    titles
        .map(|title| title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
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

/// A flag or a variable of the unit or of the image would silently stand over what a person writes into a file.
#[test]
fn nothing_that_is_shipped_stands_over_the_configuration_file() {
    let unit = include_str!("../../deploy/esper.service");
    assert!(unit.contains("\nExecStart=esper\n"));
    assert!(!unit.contains("\nEnvironment="));
    let dockerfile = include_str!("../../Dockerfile");
    assert!(dockerfile.contains("\nENTRYPOINT [\"esper\"]\n"));
    assert!(!dockerfile.contains("\nENV ") && !dockerfile.contains("\nCMD "));
}

#[test]
fn systemd_takes_the_units_and_esper_the_file_beside_them() {
    let dir = TempDir::new();
    let data = dir.0.join("data");
    let file = dir.write(
        "shipped.yml",
        &include_str!("../../deploy/config.yml").replace("/var/lib/esper", data.to_str().unwrap()),
    );
    drop(Server::start(&["--config", &file]));
    assert!(data.is_dir(), "the directory of the journal is that of the file");

    let unit = include_str!("../../deploy/esper.service");
    let path = dir.0.join("esper.service");
    // It looks whether the program is there.
    let here = format!("ExecStart={}", env!("CARGO_BIN_EXE_esper"));
    std::fs::write(&path, unit.replace("ExecStart=esper", &here)).unwrap();
    let socket = dir.write("esper.socket", include_str!("../../deploy/esper.socket"));
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).arg(socket).output();
    let output = verify.expect("systemd-analyze is installed (Debian's and Ubuntu's package systemd)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("esper.s"), "{said}");
}

/// Runs a script as a document has it, and returns what it printed.
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

/// The text with RUN for the first part of ids, which is another at each run of the server, and RANDOM for the time at
/// which a client is to come back.
pub(crate) fn without_run(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(at);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let is_run = end == 20 && digits[end..].starts_with('-');
        out.push_str(before);
        out.push_str(match before {
            _ if is_run => "RUN",
            before if before.ends_with("retry:") => "RANDOM",
            _ => &digits[..end],
        });
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
