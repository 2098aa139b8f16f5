//! Commands that run the binary, and what they end with.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::machine::PATIENCE;

/// The binary with these flags and variables, and no other variable of its own.
pub(crate) fn esper(flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esper"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ESPER_")) {
        command.env_remove(name);
    }
    command.args(flags).envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

/// A command that runs esper with these flags by `launcher`, on a free port.
pub(crate) fn launched(launcher: &[&str], flags: &[&str]) -> Command {
    let binary = esper(&[], &[]);
    let mut command = Command::new(launcher[0]);
    command.args(&launcher[1..]).arg(binary.get_program()).args(["--port", "0"]).args(flags);
    for (name, _) in binary.get_envs() {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a run that ends by itself said.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command that is expected to end by itself; one that goes on has no code.
pub(crate) fn run(mut command: Command) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Ended { code: output.status.code(), stdout, stderr }
}

/// Sends a process a signal, by its name without `SIG`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill is installed").success());
}

/// Runs a command under a seccomp filter that answers a system call with an error number.
pub(crate) const WITHOUT_CALL: &str = "
import ctypes, os, struct, sys
call, errno = map(int, sys.argv[1:3])
load, jump_if, give = 0x20, 0x15, 0x06
steps = [(load, 0, 0, 0), (jump_if, 0, 1, call), (give, 0, 0, 0x00050000 | errno), (give, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack('@HP', len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
long = ctypes.c_ulong
assert libc.prctl(38, long(1), long(0), long(0), long(0)) == 0  # no new privileges
assert libc.prctl(22, long(2), program, long(0), long(0)) == 0, os.strerror(ctypes.get_errno())  # filter
os.execv(sys.argv[3], sys.argv[3:])
";
