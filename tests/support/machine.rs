//! What a test takes of the machine: time, files, ports and directories.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything is waited for before a test fails: far longer than it takes, so that a slow machine fails nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The flags of a server on one CPU, which is home to all partitions, and of one on all CPUs there are.
pub(crate) const CPUS: [&[&str]; 2] = [&["--cores", "1"], &[]];

/// Asks again and again, and returns the first value there is.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// A free port below those that the kernel gives out by itself, so that no other test is given it in the moment between a
/// server and its successor.
pub(crate) fn free_port() -> String {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    eventually("a free port", || {
        let port = 20_000 + std::process::id() % 1000 * 10 + TRIED.fetch_add(1, Ordering::Relaxed);
        TcpListener::bind(("127.0.0.1", port as u16)).ok().map(|_| port.to_string())
    })
}

/// A directory of its own, which everybody may enter; removed when dropped.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("esper-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a fresh directory");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
        TempDir(path)
    }

    /// Writes a file into it; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("ours");
        path
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("our own name").to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A process that is just ending may write into it while it is removed.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Raises the limit on open files to what it may be: some tests open thousands of connections, and a shell's usual limit is
/// 1024.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit may be raised");
}
