//! Servers to measure: how each is started and spoken to, from a small TOML entry.

use crate::bench::{Named, find_named};
use crate::child::{Child, Folder, LOOK};
use crate::features;
use crate::wire::Wire;
use rustix::process::{Resource, getrlimit};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Those that come with the program.
const BUILT_IN: &str = include_str!("../../peers.toml");
/// A server that does not listen by then will not.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// More than any case needs; servers such as nginx take memory for each.
const FILES_MAX: u64 = 100_000;

/// A server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    name: String,
    command: Vec<String>,
    subscribe_path: Option<String>,
    publish_path: Option<String>,
    /// `\n` is a line end here, as on the command line.
    publish_body: Option<String>,
    /// `Name: value` lines of both sides.
    #[serde(default)]
    headers: Vec<String>,
    /// Written into its folder, by name.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// It sends everything to everybody.
    #[serde(default)]
    pub(crate) one_topic: bool,
    /// It has one thread, whatever it is asked.
    #[serde(default)]
    pub(crate) one_worker: bool,
    /// It speaks this instead of HTTP, and has one topic.
    wire: Option<Wire>,
    /// Variables of its process.
    #[serde(skip)]
    variables: Vec<(&'static str, String)>,
    /// Said when its program is not there.
    missing: Option<String>,
}

impl Named for Peer {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerFile {
    peer: Vec<Peer>,
}

/// Returns the peers of these names, from the built-in ones and those of `files`, each of which can be started.
pub(crate) fn find(names: &[String], files: &[PathBuf], esper: &Path) -> Result<Vec<Peer>, String> {
    let known = known(files)?;
    names.iter().map(|name| pick(name, &known, esper)).collect()
}

/// Returns the built-in peer of this name, which can be started.
pub(crate) fn built_in(name: &str, esper: &Path) -> Result<Peer, String> {
    pick(name, &known(&[])?, esper)
}

fn known(files: &[PathBuf]) -> Result<Vec<Peer>, String> {
    let mut known = parse(BUILT_IN).map_err(|why| format!("peers.toml: {why}"))?;
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        // The later of one name stands.
        known.splice(0..0, parse(&text).map_err(|why| format!("{}: {why}", file.display()))?);
    }
    Ok(known)
}

fn parse(text: &str) -> Result<Vec<Peer>, String> {
    let file: PeerFile = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    match file.peer.iter().find(|peer| peer.command.is_empty()) {
        Some(peer) => Err(format!("{} has an empty command", peer.name)),
        None => Ok(file.peer),
    }
}

fn pick(name: &str, known: &[Peer], esper: &Path) -> Result<Peer, String> {
    let peer = find_named(known, name, "--peers")?;
    if cfg!(not(feature = "axum")) && peer.command.iter().any(|word| word == "serve-axum") {
        return Err(features::needed(&format!("--peers: {name}"), "axum"));
    }
    let mut peer = peer.clone();
    if let Some(program) = peer.command.first_mut() {
        if program == "{esper}" && !esper.is_file() {
            let path = esper.display();
            return Err(format!(
                "--esper {path} is not there; run cargo build --release, or say where it is"
            ));
        }
        if !program.contains('{') {
            let hint = peer.missing.as_deref().unwrap_or("install it");
            let path = find_program(program);
            *program =
                path.ok_or_else(|| format!("--peers: {name} needs {program}; {hint}, or leave it out"))?;
        }
    }
    Ok(peer)
}

/// Looks on the PATH, and where system programs live, which not everybody has on the PATH.
fn find_program(program: &str) -> Option<String> {
    if program.contains('/') {
        return Path::new(program).is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    found.map(|file| file.display().to_string())
}

/// A server that listens. It ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    port: u16,
    // Last, for it goes when the server has ended.
    _folder: Folder,
}

impl Peer {
    /// Adds words to its command line, and variables for what nobody else is to see.
    pub(crate) fn with(mut self, words: &[&str], variables: Vec<(&'static str, String)>) -> Peer {
        self.command.extend(words.iter().map(|&word| word.to_owned()));
        self.variables = variables;
        self
    }

    /// Replaces a text in all of its files.
    pub(crate) fn with_file_text(mut self, from: &str, to: &str) -> Peer {
        self.files.values_mut().for_each(|text| *text = text.replace(from, to));
        self
    }

    /// Starts it and waits until it listens. With one worker it is pinned to `cpu`, if that is given.
    pub(crate) fn start(&self, esper: &Path, workers: usize, cpu: Option<usize>) -> Result<Running, String> {
        let folder = Folder::temporary()?;
        let port = free_port()?;
        let program = std::env::current_exe().map_err(|error| format!("who am I? {error}"))?;
        let files = getrlimit(Resource::Nofile).maximum.unwrap_or(FILES_MAX).min(FILES_MAX);
        let fill = |text: &str| {
            text.replace("{port}", &port.to_string())
                .replace("{workers}", &workers.to_string())
                .replace("{files}", &files.to_string())
                .replace("{folder}", &folder.path().display().to_string())
                .replace("{self}", &program.display().to_string())
                .replace("{esper}", &esper.display().to_string())
        };
        for (name, text) in &self.files {
            let path = folder.path().join(name);
            std::fs::write(&path, fill(text)).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let log = folder.path().join("output.log");
        let output = std::fs::File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = output.map_err(|error| format!("{}: {error}", log.display()))?;
        let mut words = self.command.iter().map(|word| fill(word));
        let mut command = Command::new(words.next().unwrap_or_default());
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        command.args(words).envs(variables).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut child = Child::start(&mut command, cpu.filter(|_| workers == 1))?;
        let deadline = Instant::now() + START_TIMEOUT;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.ended() {
                return Err(format!("{} ended at once ({status}): {}", self.name, last_line(&log)));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not listen on port {port}: {}", self.name, last_line(&log)));
            }
            std::thread::sleep(LOOK);
        }
        Ok(Running { child, port, _folder: folder })
    }

    /// Returns the flags of a run that speak to it.
    pub(crate) fn flags(&self) -> Vec<String> {
        let wire = self.wire.as_ref().and_then(|wire| serde_json::to_string(wire).ok());
        let flags = [
            ("--subscribe-path", self.subscribe_path.clone()),
            ("--publish-path", self.publish_path.clone()),
            ("--publish-body", self.publish_body.clone()),
            ("--wire", wire),
        ];
        let headers = self.headers.iter().map(|header| ("--header", Some(header.clone())));
        let given = flags.into_iter().chain(headers).filter_map(|(flag, value)| Some((flag, value?)));
        given.flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

impl Running {
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Ends it at once, as a crash does.
    #[cfg(feature = "cluster")]
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.child.kill()
    }
}

/// Returns a port that was free a moment ago.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    const ENTRY: &str = r#"
        [[peer]]
        name = "mine"
        command = ["/bin/sh", "-c", "echo {port} no luck; exit 3"]
        publish_path = "/emit"
        headers = ["X-Key: 1"]
    "#;

    #[test]
    fn the_built_in_peers_can_be_read() {
        let names: Vec<_> = parse(BUILT_IN).unwrap().into_iter().map(|peer| peer.name).collect();
        assert_eq!(
            names,
            ["esper", "nchan", "axum", "floor", "esper-journal", "commit-floor", "nats", "redis"]
        );
    }

    #[test]
    fn a_small_entry_is_enough_and_the_rest_is_as_esper_has_it() {
        let peer = parse(ENTRY).unwrap().remove(0);
        let flags = peer.flags();
        assert_eq!(flags, ["--publish-path", "/emit", "--header", "X-Key: 1"]);
        let plan = Plan::of("http://127.0.0.1:3000", &flags).unwrap();
        assert_eq!((&*plan.flags.subscribe_path, &*plan.flags.publish_path), ("/subscribe/{topic}", "/emit"));
        assert_eq!(plan.publish_body, ["data:", "\n\n"]);
    }

    #[test]
    fn a_wrong_entry_is_refused_with_what_is_wrong() {
        assert!(parse("[[peer]]\nname = 'a'\ncommand = []").unwrap_err().contains("empty command"));
        assert!(parse("[[peer]]\nname = 'a'\ncommand = ['b']\nprot = 1").unwrap_err().contains("prot"));
        let find = |name: &str| built_in(name, Path::new("/no/esper")).unwrap_err();
        assert!(find("other").contains("known are esper, nchan"));
        assert!(find("esper").contains("--esper /no/esper"));
    }

    #[test]
    fn a_server_that_ends_at_once_says_why() {
        let peer = parse(ENTRY).unwrap().remove(0);
        let why = peer.start(Path::new("esper"), 1, Some(0)).unwrap_err();
        assert!(why.contains("mine ended at once") && why.contains("no luck"), "{why}");
    }
}
