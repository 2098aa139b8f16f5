//! The libraries, installed below `target` once for all tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const PACKAGE_JSON: &str = include_str!("../../clients/package.json");
const PACKAGE_LOCK: &str = include_str!("../../clients/package-lock.json");
const REQUIREMENTS: &str = include_str!("../../clients/requirements.txt");

/// What runs a library.
#[derive(Clone, Copy)]
pub(super) enum Program {
    Node,
    Python,
}

impl Program {
    /// Returns the program of tests/clients, which takes the name of a library, once all are installed.
    ///
    /// # Panics
    /// When they could not be installed, with the reason.
    pub(super) fn command(self) -> Command {
        static NODE: LazyLock<Result<PathBuf, String>> = LazyLock::new(install_node);
        static PYTHON: LazyLock<Result<PathBuf, String>> = LazyLock::new(install_python);
        let folder = match self {
            Program::Node => &*NODE,
            Program::Python => &*PYTHON,
        };
        let folder = folder.as_ref().unwrap_or_else(|why| panic!("{why}"));
        match self {
            Program::Node => {
                let mut command = Command::new("node");
                command.arg(folder.join("client.mjs"));
                command
            }
            Program::Python => {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.py");
                let mut command = Command::new("python3");
                command.arg(program).env("PYTHONPATH", folder.join("packages"));
                command
            }
        }
    }

    /// Returns the name and the version of a library, of its key in the file of versions.
    pub(super) fn package(self, key: &str) -> (String, String) {
        match self {
            Program::Node => {
                let packages: serde_json::Value = serde_json::from_str(PACKAGE_JSON).unwrap();
                let version = packages["dependencies"][key].as_str().unwrap_or_else(|| panic!("no {key}"));
                // Several versions of one library have keys of their own.
                match version.strip_prefix("npm:").and_then(|package| package.rsplit_once('@')) {
                    Some((name, version)) => (name.to_owned(), version.to_owned()),
                    None => (key.to_owned(), version.to_owned()),
                }
            }
            Program::Python => {
                let start = format!("{key}==");
                let version = REQUIREMENTS.lines().find_map(|line| line.strip_prefix(&start));
                let version = version.unwrap_or_else(|| panic!("no {key}"));
                (key.to_owned(), version.trim_end_matches(" \\").to_owned())
            }
        }
    }
}

fn install_node() -> Result<PathBuf, String> {
    install("node", "node_modules", PACKAGE_LOCK, |folder| {
        // Node looks for packages beside the program.
        fs::write(folder.join("client.mjs"), include_str!("../../clients/client.mjs")).unwrap();
        fs::write(folder.join("package.json"), PACKAGE_JSON).unwrap();
        fs::write(folder.join("package-lock.json"), PACKAGE_LOCK).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        npm
    })
}

fn install_python() -> Result<PathBuf, String> {
    let version = Command::new("python3").arg("--version").output().map_err(|error| error.to_string())?;
    let what = format!("{REQUIREMENTS}{}", String::from_utf8_lossy(&version.stdout));
    install("python", "packages", &what, |folder| {
        fs::write(folder.join("requirements.txt"), REQUIREMENTS).unwrap();
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target"]);
        pip.args(["packages", "--requirement", "requirements.txt"]);
        pip
    })
}

/// Installs packages in a folder of their own with the command that `prepare` returns, unless `what` is installed already.
/// Returns the folder, or why there are none.
fn install(
    name: &str,
    packages: &str,
    what: &str,
    prepare: impl Fn(&Path) -> Command,
) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
    fs::create_dir_all(&folder).unwrap();
    // Another run of the tests may do the same now.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut command = prepare(&folder);
    let packages = folder.join(packages);
    let installed = packages.join(".installed");
    if fs::read_to_string(&installed).is_ok_and(|text| text == what) {
        return Ok(folder);
    }
    let _ = fs::remove_dir_all(&packages);
    let program = command.get_program().display().to_string();
    let output = command.current_dir(&folder).output().map_err(|error| {
        format!("the libraries of tests/clients need {program}, as scripts/test installs: {error}")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().find(|line| line.to_lowercase().contains("error")).unwrap_or(&said);
        return Err(format!("{program} could not install tests/clients from its registry: {why}"));
    }
    fs::write(installed, what).unwrap();
    Ok(folder)
}
