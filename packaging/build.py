"""What every kind of package begins with: the version and the time, the programs, and the folder they go to."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class PackageError(Exception):
    """Says in one line what is wrong and what to do."""


@dataclass
class Build:
    """One run of scripts/package."""

    version: str
    # Seconds since 1970: the time of every file, so that the same sources give the same packages.
    epoch: int
    # Where finished packages go, and where they are made.
    out: Path
    work: Path
    # The program as it was built, with its debug information, and the one that writes the man pages.
    binary: Path
    man: Path
    # As Debian and OCI call the machine, amd64, and as Rust and tar files do, x86_64.
    debian_machine: str
    machine: str

    @property
    def stripped(self):
        return self.out / "esper"

    def folder(self, name):
        """Returns an empty folder to make something in."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


def prepare(version, built):
    """Builds the programs, unless they are in the folder `built`, and strips a copy of the first."""
    metadata = json.loads(output("cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"))
    target = Path(metadata["target_directory"])
    version = version or next(package["version"] for package in metadata["packages"] if package["name"] == "esper")
    if built is None:
        step("cargo build --profile dist (5 to 20 minutes, the first time)")
        run("cargo", "build", "--profile", "dist", "--locked", "--package", "esper", "--bin", "esper")
        step("cargo build --example man")
        run("cargo", "build", "--locked", "--package", "esper", "--example", "man")
        binary, man = target / "dist" / "esper", target / "debug" / "examples" / "man"
    else:
        binary, man = built / "esper", built / "examples" / "man"
    for path in (binary, man):
        if not path.exists():
            raise PackageError(f"{path} is missing: build it by cargo build --bin esper --example man")
    out = target / "package"
    out.mkdir(parents=True, exist_ok=True)
    build = Build(
        version=version,
        epoch=epoch(),
        out=out,
        work=out / "work",
        binary=binary,
        man=man,
        debian_machine=output("dpkg", "--print-architecture").strip(),
        machine=os.uname().machine,
    )
    os.environ["SOURCE_DATE_EPOCH"] = str(build.epoch)
    run("strip", "-o", build.stripped, build.binary)
    return build


def epoch():
    """Returns SOURCE_DATE_EPOCH, else the time of the last commit, else that of Cargo.lock."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    git = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return int(git.stdout) if git.returncode == 0 else int((ROOT / "Cargo.lock").stat().st_mtime)


# Each command, and the Debian package that has it.
NEEDED = {
    "cc": "build-essential",
    "make": "build-essential",
    "strip": "binutils",
    "dpkg-deb": "dpkg",
    "dpkg-shlibdeps": "dpkg-dev",
    "dh": "debhelper",
}


def check_needed():
    missing = sorted({package for command, package in NEEDED.items() if shutil.which(command) is None})
    if missing:
        raise PackageError(f"install what is missing: apt-get install {' '.join(missing)}")
    if shutil.which("cargo") is None:
        raise PackageError("cargo is missing: install Rust as https://rustup.rs says")


def step(text):
    print(f"\n== {text}", flush=True)


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], cwd=options.pop("cwd", ROOT), **options)
    if done.returncode != 0:
        raise PackageError(f"failed with {done.returncode}: {' '.join(str(part) for part in command)}")


def output(*command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise PackageError(f"failed with {done.returncode}: {' '.join(str(part) for part in command)}")
    return done.stdout


def size(path):
    return f"{path.stat().st_size / 1e6:.1f} MB"


def warn(text):
    print(f"scripts/package: {text}", file=sys.stderr, flush=True)
