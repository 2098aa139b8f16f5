//! Processes and folders of this program's making: gone with it, whatever way it ends.

use crate::process::children;
use core_affinity::CoreId;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt::Display;
use std::io::{BufReader, Write, stdin};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time a process may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same after Ctrl-C, when somebody waits.
const PATIENCE_INTERRUPTED: Duration = Duration::from_secs(1);
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// Cleared away when a signal ends this process.
static MADE: Mutex<Made> = Mutex::new(Made { processes: Vec::new(), folders: Vec::new() });

struct Made {
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

/// Makes a signal that ends this process end what it has started first.
pub(crate) fn clear_away_when_interrupted() -> Result<(), String> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.map_err(|error| format!("no signals: {error}"))?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let made = made();
            end(&made.processes, PATIENCE_INTERRUPTED);
            for folder in &made.folders {
                let _ = std::fs::remove_dir_all(folder);
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
}

impl Child {
    /// Starts it, on that CPU alone if one is given: what it starts in turn inherits this.
    pub(crate) fn start(command: &mut Command, cpu: Option<usize>) -> Result<Child, String> {
        let mut made = made();
        let process = spawn(command, cpu)?;
        made.processes.push(process.id());
        Ok(Child { process })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it by SIGKILL.
    #[cfg(feature = "cluster")]
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.process.kill().map_err(|error| format!("it could not be killed ({error})"))
    }

    /// Returns how it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }
}

/// A process of this program which is told what to do in lines on its standard input, and answers so.
#[derive(Debug)]
pub(crate) struct Helper {
    #[cfg_attr(not(feature = "queues"), expect(dead_code, reason = "it ends with this value"))]
    pub(crate) child: Child,
    pub(crate) to: ChildStdin,
    pub(crate) from: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts it with that word on its command line and gives it its job as JSON: a command line is for everybody to see.
    pub(crate) fn start(word: &str, job: &impl Serialize, cpu: Option<usize>) -> Result<Helper, String> {
        let failed = |why: &dyn Display| format!("the {word} process failed: {why}");
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        let mut child = Child::start(command.arg(word).stdin(Stdio::piped()).stdout(Stdio::piped()), cpu)?;
        let pipes = child.process.stdin.take().zip(child.process.stdout.take());
        let (mut to, from) = pipes.ok_or_else(|| failed(&"no pipes"))?;
        let text = serde_json::to_string(job).map_err(|error| failed(&error))?;
        writeln!(to, "{text}").map_err(|error| failed(&error))?;
        Ok(Helper { child, to, from: BufReader::new(from) })
    }

    /// Returns the job, in the process itself.
    pub(crate) fn job<T: DeserializeOwned>() -> Result<T, String> {
        let mut line = String::new();
        stdin().read_line(&mut line).map_err(|error| format!("no job: {error}"))?;
        serde_json::from_str(&line)
            .map_err(|error| format!("this is started by the load generator alone: {error}"))
    }
}

/// Starts a process, on that CPU alone if one is given: what it starts in turn inherits this.
pub(crate) fn spawn(command: &mut Command, cpu: Option<usize>) -> Result<std::process::Child, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // A new process inherits the affinity of the thread that starts it, so a thread is made and pinned for that.
    let start = || {
        if let Some(id) = cpu {
            core_affinity::set_for_current(CoreId { id });
        }
        command.spawn()
    };
    let started = std::thread::scope(|scope| scope.spawn(start).join());
    let started = started.map_err(|_| format!("{name} could not be started"))?;
    started.map_err(|error| format!("{name} could not be started ({error})"))
}

impl Drop for Child {
    fn drop(&mut self) {
        let pid = self.pid();
        end(&[pid], PATIENCE);
        let _ = self.process.wait();
        made().processes.retain(|other| *other != pid);
    }
}

/// Ends processes, and what they have started where they do not end in time.
fn end(processes: &[u32], patience: Duration) {
    let all = || processes.iter().flat_map(|pid| children(*pid).into_iter().chain([*pid]));
    processes.iter().for_each(|pid| signal(*pid, Signal::TERM));
    let deadline = Instant::now() + patience;
    while all().any(is_running) && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    all().filter(|pid| is_running(*pid)).for_each(|pid| signal(pid, Signal::KILL));
}

/// Tells whether it runs: one that has ended and was not waited for does not.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, behind_name)| !behind_name.starts_with('Z'))
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// An empty folder that goes with this value, and all in it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes one among the system's temporary files.
    pub(crate) fn temporary() -> Result<Folder, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("esper-loadtest-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("no folder {} ({error})", path.display()))?;
        made().folders.push(path.clone());
        Ok(Folder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        made().folders.retain(|other| *other != self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_value_even_one_that_will_not() {
        let mut polite = Command::new("sleep");
        let polite = Child::start(polite.arg("100"), None).unwrap();
        let mut stubborn = Command::new("sh");
        let stubborn =
            Child::start(stubborn.args(["-c", "trap '' TERM; while :; do sleep 100; done"]), None).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let pids = [polite.pid(), stubborn.pid()];
        drop((polite, stubborn));
        assert!(!pids.into_iter().any(is_running));
    }

    #[test]
    fn a_folder_goes_with_what_is_in_it() {
        let folder = Folder::temporary().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("a"), "b").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let error = Child::start(&mut Command::new("/no/such/program"), None).unwrap_err();
        assert!(error.contains("/no/such/program"), "{error}");
    }
}
