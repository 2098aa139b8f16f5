"""/etc/esper/config.yml of a package: docs/config.yml with every key commented out. It is the administrator's; what the
package needs otherwise than by default is in /usr/lib/esper/config.yml, below it."""

from build import ROOT

HEAD = """\
# The configuration of esper. Every key is commented out, with its default. `esper config check` says whether a change is
# right, `systemctl restart esper` brings it about, and `esper config dump` prints what is in force: this file overrides
# /usr/lib/esper/config.yml, which is the package's, and variables (ESPER_PORT=3000) and flags (--port 3000) override this
# file. Every flag is a key, by its name without the leading dashes: esper(1).
#
# Secrets are not allowed here: write each into a file of its own that the group esper may read, and give its path.
#
# TIME is a number and its unit: 500ms, 15s, 10m, 2h, 30d. SIZE is bytes, or 64KiB, 1MiB, 2GiB.
"""


def commented():
    """Returns the file's text. A key of a section needs the section's line as well."""
    _, body = (ROOT / "docs" / "config.yml").read_text().split("\n\n", 1)
    lines = (line if not line or line.startswith("#") else f"#{line}" for line in body.splitlines())
    return HEAD + "\n" + "\n".join(lines) + "\n"
