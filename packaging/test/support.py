"""What the steps share: the packages under test, the tools from PyPI, and commands that have to succeed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIREMENTS = ROOT / "packaging" / "test" / "requirements.txt"


class StepError(Exception):
    """Says what was expected and what was there."""


def step(text):
    print(f"\n== {text}", flush=True)


def expect(condition, text):
    if not condition:
        raise StepError(text)


def run(*command, status=0, **options):
    """Returns what a command printed, both streams unless told otherwise; it must end with `status` within ten minutes."""
    command = [str(part) for part in command]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    done = subprocess.run(
        command, **{"cwd": ROOT, "timeout": 600, "text": True, "errors": "replace", **both, **options}
    )
    expect(done.returncode == status, f"{' '.join(command)}: {done.returncode}, not {status}\n{done.stdout}")
    return done.stdout


def until(what, seconds, condition):
    """Waits until a condition returns something true, which is returned."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        expect(time.monotonic() < end, f"not within {seconds} s: {what}")
        time.sleep(0.2)


def child_of(process, name):
    """Returns the number of a process's child that is the program `name`, or None while there is none."""
    try:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
    except FileNotFoundError:
        pass
    return None


def may_isolate():
    """Returns whether this machine lets root make namespaces and mount; says so loudly if it does not."""
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        print(f"NOT TESTED: namespaces and mounts are forbidden here, as in a container: {tried.stderr.strip()}")
    return tried.returncode == 0


@dataclass
class Packages:
    """What scripts/package made of one pair of programs."""

    # Of the crate, in Cargo.toml.
    version: str
    target: Path
    built: Path
    # Everything that is made goes here, and away at the end.
    folder: Path
    deb: Path
    # The same program as a later version.
    later_deb: Path
    tar: Path
    image: Path
    bill: Path

    @staticmethod
    def make(built, folder):
        metadata = json.loads(run("cargo", "metadata", "--format-version", "1", "--no-deps", "--locked", stderr=None))
        target = Path(metadata["target_directory"])
        version = next(package["version"] for package in metadata["packages"] if package["name"] == "esper")
        if built is None:
            step("cargo build --bin esper --example man")
            run("cargo", "build", "--locked", "--package", "esper", "--bin", "esper", "--example", "man", timeout=3000)
            built = target / "debug"
        # A debug build is large: what takes the time is its compression, and the package of its debug information.
        fast = {
            "DPKG_DEB_COMPRESSOR_TYPE": "gzip",
            "DPKG_DEB_COMPRESSOR_LEVEL": "1",
            "DEB_BUILD_OPTIONS": "noautodbgsym",
        }
        variables = {**os.environ, **fast}
        step("scripts/package, twice: the same bytes")
        sums = []
        for _ in range(2):
            print(run("scripts/package", "--built", built, env=variables), end="")
            made = target / "package"
            sums.append((made / "SHA256SUMS").read_text())
        expect(sums[0] == sums[1], f"two runs differ:\n{sums[0]}{sums[1]}")
        names = [line.split()[1] for line in sums[0].splitlines()]
        for line in sums[0].splitlines():
            digest, name = line.split()
            expect(hashlib.sha256((made / name).read_bytes()).hexdigest() == digest, f"SHA256SUMS has another {name}")
            shutil.copy(made / name, folder)
        run("scripts/package", "deb", "--version", "99.0.0", "--built", built, env=variables)
        later = next(made.glob("esper_99.0.0-1_*.deb"))
        later = Path(shutil.move(later, folder))
        print("and a later version of the Debian package, for an upgrade")

        def one(ending):
            found = [name for name in names if name.endswith(ending)]
            expect(len(found) == 1, f"one {ending}: {names}")
            return folder / found[0]

        return Packages(
            version, target, built, folder, one(".deb"), later, one(".tar.gz"), one("-oci.tar"), one(".cdx.json")
        )


@dataclass
class Tools:
    """Programs and modules of PyPI, below target/tmp."""

    folder: Path

    def program(self, name):
        return self.folder / "bin" / name

    @property
    def env(self):
        return {**os.environ, "PYTHONPATH": str(self.folder)}


def install_tools(target):
    """Installs them, unless those of these versions are there already."""
    folder = target / "tmp" / "packages"
    wanted, noted = REQUIREMENTS.read_text(), folder / "installed.txt"
    if not noted.exists() or noted.read_text() != wanted:
        step("installing tools of PyPI")
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", folder]
        run(*pip, "--requirement", REQUIREMENTS)
        noted.write_text(wanted)
    sys.path.insert(0, str(folder))
    return Tools(folder)
