"""The tar for any Linux: laid out as below /usr/local, to be looked at first, or unpacked there."""

import hashlib

import bill
import configuration
import stage
from archive import Archive
from build import ROOT, size, step


INSTALLED = {
    "lib/esper/config.yml": "config.yml",
    "lib/systemd/system/esper.service": "esper.service",
    "lib/systemd/system/esper.socket": "esper.socket",
    "lib/sysusers.d/esper.conf": "esper.sysusers",
}


def make(build):
    """Makes target/package/esper-VERSION-MACHINE-linux.tar.gz. The same sources and programs make the same bytes."""
    step("the tar")
    name = f"esper-{build.version}-{build.machine}-linux"
    files = {"bin/esper": build.stripped.read_bytes()}
    files["etc/esper/config.yml"] = configuration.commented().encode()
    for path, source in INSTALLED.items():
        files[path] = (ROOT / "deploy" / source).read_bytes()
    files |= {f"share/{path}": data for path, data in stage.completions(build).items()}
    files |= {f"share/man/man1/{page}": data for page, data in stage.man_pages(build).items()}
    files |= {f"share/doc/esper/{path}": data for path, data in stage.documents().items()}
    files |= {f"share/doc/esper/examples/{path}": data for path, data in stage.examples().items()}
    for document in ("LICENSE", "CHANGELOG.md"):
        files[f"share/doc/esper/{document}"] = (ROOT / document).read_bytes()
    files["share/doc/esper/THIRD-PARTY.txt"] = bill.licences().encode()
    files["share/doc/esper/esper.cdx.json"] = bill.cyclonedx(build).encode()
    sums = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())]
    files["share/doc/esper/SHA256SUMS"] = "".join(sums).encode()

    archive = Archive(build.epoch)
    for path, data in files.items():
        archive.file(f"{name}/{path}", data, 0o755 if path == "bin/esper" else 0o644)
    path = build.out / f"{name}.tar.gz"
    path.write_bytes(archive.tar_gz())
    print(f"{path}: {size(path)}")
    return [path]
