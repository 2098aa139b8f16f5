//! File systems that are full, read-only or broken, which nobody else sees: they are mounted in a name space of their own.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::text;
use crate::support::wait_until;

/// A name space of mounts. It ends, and with it what is mounted, when the test process does, however that is.
pub(super) struct MountSpace {
    holder: Child,
    launcher: Vec<String>,
}

impl MountSpace {
    /// Makes one; none where that needs more rights than the test has, which is said.
    pub(super) fn new() -> Option<MountSpace> {
        let unshare = ["--mount", "--propagation", "private"];
        if !Command::new("unshare").args(unshare).arg("true").output().is_ok_and(|done| done.status.success())
        {
            println!("not tested: a file system of its own needs root");
            return None;
        }
        let mut holder = Command::new("unshare");
        holder.args(unshare).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = holder.spawn().expect("unshare is installed");
        let pid = holder.id().to_string();
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a process");
        let is_cat = || std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs") == "cat\n";
        wait_until("a name space", || is_cat() && of("self") != of(&pid));
        let launcher = ["nsenter", "--target", &pid, "--mount", "--"].map(str::to_owned).into();
        Some(MountSpace { holder, launcher })
    }

    /// What is put before a command to run it here.
    pub(super) fn launcher(&self) -> Vec<&str> {
        self.launcher.iter().map(String::as_str).collect()
    }

    /// Runs a line of shell here.
    #[track_caller]
    pub(super) fn run(&self, line: &str) {
        let [program, arguments @ ..] = &*self.launcher else { return };
        let done = Command::new(program).args(arguments).args(["sh", "-c", line]).output().expect("nsenter");
        assert!(done.status.success(), "{line}: {done:?}");
    }

    /// Mounts a file system in memory.
    #[track_caller]
    pub(super) fn mount_memory(&self, at: &Path, size: &str) {
        self.run(&format!("mount -t tmpfs -o size={size} tmpfs {}", text(at)));
    }

    /// Makes one larger or smaller.
    #[track_caller]
    pub(super) fn resize(&self, at: &Path, size: &str) {
        self.run(&format!("mount -o remount,size={size} {}", text(at)));
    }
}

impl Drop for MountSpace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
