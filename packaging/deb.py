"""The Debian package. Debian's own debhelper makes it, from packaging/debian: the maintainer scripts that enable, start,
restart and remove the service and make its user are Debian's, and so are the dependencies, the conffiles and the sums."""

import os
import shutil
from email.utils import formatdate

import bill
import configuration
import stage
from build import ROOT, run, size, step

CHANGELOG = """\
esper ({version}) unstable; urgency=medium

  * What changed stands in changelog.gz beside this file.

 -- {maintainer}  {date}
"""


def make(build):
    """Makes target/package/esper_VERSION_MACHINE.deb, and for a release one with its line numbers."""
    step("the Debian package")
    folder = build.folder("deb")
    debian = folder / "debian"
    shutil.copytree(ROOT / "packaging" / "debian", debian)
    control = (debian / "control").read_text()
    maintainer = next(line for line in control.splitlines() if line.startswith("Maintainer: ")).split(": ", 1)[1]
    # A snapshot is named as Debian names one: 0.1.0~20261129-1 comes before 0.1.0-1.
    version = build.version if "-" in build.version else f"{build.version}-1"
    date = formatdate(build.epoch)
    (debian / "changelog").write_text(CHANGELOG.format(version=version, maintainer=maintainer, date=date))
    for kind in ("service", "socket", "sysusers"):
        shutil.copy(ROOT / "deploy" / f"esper.{kind}", debian)
    (debian / "esper.tmpfiles").write_text("d /var/lib/esper 0700 esper esper -\n")

    files = {
        "stage/etc/esper/config.yml": configuration.commented().encode(),
        "stage/usr/lib/esper/config.yml": (ROOT / "deploy/config.yml").read_bytes(),
    }
    completions = stage.completions(build, stage.COMPLETIONS_OF_DEBIAN)
    files |= {f"stage/usr/share/{name}": data for name, data in completions.items()}
    files |= {f"man/{name}": data for name, data in stage.man_pages(build).items()}
    files |= {f"doc/{name}": data for name, data in stage.documents().items()}
    files |= {f"examples/{name}": data for name, data in stage.examples().items()}
    files["doc/THIRD-PARTY.txt"] = bill.licences().encode()
    files["doc/esper.cdx.json"] = bill.cyclonedx(build).encode()
    files["CHANGELOG.md"] = (ROOT / "CHANGELOG.md").read_bytes()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    program = folder / "stage/usr/bin/esper"
    program.parent.mkdir()
    # With its debug information, which becomes a package of its own.
    shutil.copy(build.binary, program)

    run("dh", "binary", cwd=folder, env={**os.environ, "DH_QUIET": "1"})
    made = []
    for path in sorted(build.work.glob("*.deb")):
        made.append(path.replace(build.out / path.name))
        print(f"{made[-1]}: {size(made[-1])}")
    return made
