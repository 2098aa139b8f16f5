"""The Debian package, in a fresh Debian that systemd boots in a container: installed, asked, configured, upgraded, removed
and purged, by apt and systemctl as an administrator would."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from client import Client
from support import ROOT, child_of, expect, may_isolate, run, step, until


def check(packages, tools):
    step("lintian")
    # Errors fail; warnings are shown, since each release of lintian has others.
    said = run("lintian", "--fail-on", "error", packages.deb)
    print(said.replace("running with root privileges is not recommended!", "").strip() or "says nothing")
    step("a fresh Debian")
    if not may_isolate():
        return
    root = packages.folder / "root"
    bootstrap(root)
    shutil.copy(packages.deb, root / "root" / "esper.deb")
    shutil.copy(packages.later_deb, root / "root" / "later.deb")
    with Machine(root, packages.folder) as machine:
        step("install, ask, configure, upgrade, remove, purge")
        install(machine)
        data = configure(machine)
        upgrade(machine, data)
        listen_for_it(machine)
        remove(machine)
    step("the tar, on the same Debian")
    unpacked(packages, root)


def bootstrap(root):
    """Makes the smallest Debian that boots, of this machine's release and from its mirrors."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    kind = {"debian": "debian", "ubuntu": "ubuntu"}[release["ID"]]
    sources = [f"/etc/apt/sources.list.d/{kind}.sources", "/etc/apt/sources.list"]
    sources = next(path for path in sources if os.path.exists(path) and os.path.getsize(path))
    # The last two are there to read what the package has for them.
    include = "--include=systemd-sysv,man-db,bash-completion"
    codename = release["VERSION_CODENAME"]
    said = run("mmdebstrap", "--variant=minbase", include, codename, root, sources)
    print(said.strip().splitlines()[-1])
    # Such as a policy of the container that this runs in, which would forbid starting anything.
    (root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)


class Machine:
    """A booted container, with a network of its own that has nothing but loopback. Ends with the block."""

    def __init__(self, root, folder):
        self.root, self.log = root, open(folder / "boot.log", "w+")

    def __enter__(self):
        # Neither machined nor a slice of systemd's is asked for, so that it works without systemd on this machine.
        command = ["systemd-nspawn", "--quiet", "--directory", self.root, "--boot", "--private-network"]
        command += ["--register=no", "--keep-unit", "--machine", f"esper-{os.getpid()}", "--console=read-only"]
        self.nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            self.leader = until("the container's first process", 30, self.find_leader)
            until(
                "Debian boots", 120, lambda: self.try_run("systemctl", "is-system-running") in ("running", "degraded")
            )
        except Exception:
            self.log.seek(0)
            print(self.log.read())
            self.__exit__()
            raise
        return self

    def __exit__(self, kind=None, *_):
        if kind is not None:
            print(self.try_run("journalctl", "--no-pager", "--unit", "esper"))
        if self.nspawn.poll() is None:
            self.nspawn.terminate()
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
        self.log.close()

    def find_leader(self):
        expect(self.nspawn.poll() is None, f"systemd-nspawn ended with {self.nspawn.poll()}")
        return child_of(self.nspawn, "systemd")

    def command(self, command):
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = ["env", "-i", path, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TERM=dumb"]
        return ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "--root", "--wd", *variables, *command]

    def run(self, *command, status=0):
        return run(*self.command(command), status=status, timeout=120)

    def try_run(self, *command):
        command = self.command(command)
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
        return done.stdout.strip()

    def client(self, port=3000):
        return Client(self.leader, port)

    def main_process(self):
        return self.run("systemctl", "show", "--property=MainPID", "--value", "esper").strip()

    def until_up(self, what, port=3000):
        client = self.client(port)
        until(what, 30, client.is_up)
        return client


def install(machine):
    said = machine.run("apt-get", "install", "-y", "--no-install-recommends", "/root/esper.deb")
    expect("error" not in said.lower() and "warning" not in said.lower(), f"the install complains:\n{said}")
    client = machine.until_up("the service answers once it is installed")
    expect(machine.run("systemctl", "is-enabled", "esper").strip() == "enabled", "it starts at the next boot")
    state = machine.try_run("systemctl", "is-enabled", "esper.socket")
    expect(state == "disabled", f"the sockets are for those who enable them, and are {state}")
    owner = machine.run("stat", "-c", "%U:%G %a", "/var/lib/esper").strip()
    expect(owner == "esper:esper 700", f"/var/lib/esper is {owner}")
    owner = machine.run("stat", "-c", "%U:%G", f"/proc/{machine.main_process()}").strip()
    expect(owner == "esper:esper", f"the service runs as {owner}")
    machine.run("esper", "health")
    machine.run("esper", "config", "check")
    client.publish_and_subscribe()
    # What is commented out is the default: of the two files, only the package's own says anything.
    mine = machine.run("esper", "config", "dump")
    expect(
        "data-dir: /var/lib/esper" in mine and "drain-delay: 5s" in mine, f"the service's own file is not read:\n{mine}"
    )
    machine.run("mv", "/etc/esper/config.yml", "/root/config.yml")
    others = machine.run("esper", "config", "dump")
    machine.run("mv", "/root/config.yml", "/etc/esper/config.yml")
    expect(others == mine, f"/etc/esper/config.yml changes something:\n{mine}\n{others}")

    # Documents where people look for them.
    page = machine.run("man", "--warnings", "-P", "cat", "esper")
    expect("SYNOPSIS" in page and "--data-dir" in page, f"the man page is\n{page}")
    for name in ("token", "health", "journal", "config", "completions"):
        page = machine.run("man", "-P", "cat", f"esper-{name}")
        expect("SYNOPSIS" in page, f"esper-{name}(1) is\n{page}")
    complete = ". /usr/share/bash-completion/bash_completion; _completion_loader esper; complete -p esper"
    expect("esper" in machine.run("bash", "-c", complete), "bash completes it")
    for name in ("zsh/vendor-completions/_esper", "fish/vendor_completions.d/esper.fish"):
        machine.run("grep", "-q", "journal", f"/usr/share/{name}")
    # Each library that the program needs belongs to a package that this one depends on.
    expect("not found" not in machine.run("ldd", "/usr/bin/esper"), "a library is missing")
    score = machine.run("systemd-analyze", "security", "--no-pager", "esper")
    print(score.strip().splitlines()[-1])
    print("installed: enabled, started, answers")


def configure(machine):
    """Sets a port in the file, as an administrator would; returns the id of an event that has to survive, and the port."""
    first = machine.client().publish("kept")
    # The file's comment becomes a key. Neither the unit nor the package's file is over it.
    file = machine.root / "etc/esper/config.yml"
    text = file.read_text()
    edited = text.replace("# bind: 127.0.0.1 ", "bind: 127.0.0.1:3100 #")
    expect(text != edited, "the file has a line for the address")
    file.write_text(edited)
    machine.run("esper", "config", "check")
    machine.run("systemctl", "restart", "esper")
    client = machine.until_up("the service is at the port of the file", 3100)
    client.publish("later")
    expect("data: later\n" in client.replay(first), "what was published before the restart is resumed from")
    print("configured: the file's address holds")
    return first


def upgrade(machine, first):
    old = machine.main_process()
    machine.run("apt-get", "install", "-y", "--no-install-recommends", "/root/later.deb")
    client = machine.until_up("the service answers after the upgrade", 3100)
    expect(machine.main_process() != old, "the upgrade starts the new program")
    version = machine.run("dpkg-query", "-W", "-f", "${Version}", "esper")
    expect(version == "99.0.0-1", f"the version is {version}")
    expect("data: later\n" in client.replay(first), "events outlive the upgrade")
    # One whose administrator stopped it for good stays so.
    machine.run("systemctl", "disable", "--now", "esper")
    machine.run("apt-get", "install", "-y", "--reinstall", "--no-install-recommends", "/root/later.deb")
    state = machine.try_run("systemctl", "is-enabled", "esper")
    expect(state == "disabled", f"a disabled service is {state} after an upgrade")
    print("upgraded: the edited file and the events stay, the new program runs")


def listen_for_it(machine):
    """Lets systemd listen in place of esper, over an upgrade too."""
    machine.run("systemctl", "enable", "--now", "esper.socket")
    machine.run("systemctl", "enable", "--now", "esper")
    machine.until_up("the service answers at the socket's address")
    machine.run("apt-get", "install", "-y", "--reinstall", "--no-install-recommends", "/root/later.deb")
    machine.until_up("it does after an upgrade")
    expect(machine.try_run("systemctl", "is-active", "esper.socket") == "active", "an upgrade leaves the socket open")
    print("esper.socket: answers, and stays open over an upgrade")


def remove(machine):
    machine.run("apt-get", "remove", "-y", "esper")
    for unit in ("esper.service", "esper.socket"):
        expect(machine.try_run("systemctl", "is-active", unit) != "active", f"removing stops {unit}")
    expect(not machine.client().is_up(), "and nothing listens")
    for path in ("/usr/bin/esper", "/lib/systemd/system/esper.service"):
        machine.run("test", "!", "-e", path)
    for path in ("/etc/esper/config.yml", "/var/lib/esper"):
        machine.run("test", "-e", path)
    print("removed: the file and the events stay")
    machine.run("apt-get", "purge", "-y", "esper")
    left = machine.run("find", "/", "-xdev", "-iname", "*esper*").split()
    left = [path for path in left if not re.match("/(proc|sys|run|root|var/log|var/cache|tmp)/", path)]
    expect(not left, f"a purge leaves {left}")
    # As Debian's packages do: its number may stand in a backup.
    machine.run("id", "esper")
    print("purged: nothing is left but the user")


def unpacked(packages, root):
    """Unpacks the tar as docs/install.md says, on a machine that has no package, and starts its program."""
    name = packages.tar.name.removesuffix(".tar.gz")
    run("tar", "-xzf", packages.tar, "-C", root / "root")
    inside = root / "root" / name
    run("sha256sum", "--check", "--quiet", "share/doc/esper/SHA256SUMS", cwd=inside)
    script = (ROOT / "docs" / "install.md").read_text().split("<!-- test: tar -->\n```bash\n")[1].split("```")[0]
    script = script.replace(f"esper-{packages.version}-x86_64-linux", name)
    boot = [line for line in script.splitlines() if line.startswith("systemctl ")]
    expect(len(boot) == 1, "it ends with starting the service")
    script = "set -e\ncd /root\n" + "\n".join(line for line in script.splitlines() if not line.startswith("systemctl "))
    shutil.copy(packages.tar, root / "root")
    run("chroot", root, "bash", "-c", script)
    with Machine(root, packages.folder) as machine:
        machine.run("bash", "-c", boot[0])
        machine.until_up("the service of the tar answers").publish_and_subscribe()
        machine.run("man", "-P", "cat", "esper")
        dump = machine.run("esper", "config", "dump")
        expect("data-dir: /var/lib/esper" in dump, f"the file of the tar is not read:\n{dump}")
        # It becomes a package: the unit and the program of the package are under those of /usr/local.
    print("unpacked: answers")
