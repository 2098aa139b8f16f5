//! The load generator as the tests of its suites call it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the command `name` with the esper that stands beside the load generator, and the first and the last CPU.
pub(crate) fn command(name: &str) -> (Command, String, String) {
    let loadtest = Path::new(env!("CARGO_BIN_EXE_esper-loadtest"));
    let esper = std::env::var_os("ESPER_TEST_ESPER").map(PathBuf::from);
    let esper = esper.unwrap_or_else(|| loadtest.with_file_name("esper"));
    assert!(esper.is_file(), "{}: run cargo build first, or set ESPER_TEST_ESPER", esper.display());
    let cpus = core_affinity::get_core_ids().unwrap();
    let mut command = Command::new(loadtest);
    command.arg(name).arg("--esper").arg(esper);
    (command, cpus.first().unwrap().id.to_string(), cpus.last().unwrap().id.to_string())
}

pub(crate) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}
