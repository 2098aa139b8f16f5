"""What is in the program: a bill of materials in CycloneDX's form, and the licences of all crates that it is made of,
also of those that only build it. Both follow what `cargo tree` says of the program with its default features on this machine."""

import functools
import json
import re
import uuid
from datetime import datetime, timezone
from pathlib import Path

from build import ROOT, output, size, step

LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE).*", re.IGNORECASE)


def make(build):
    """Makes target/package/esper-VERSION.cdx.json."""
    step("the bill of materials")
    path = build.out / f"esper-{build.version}.cdx.json"
    path.write_text(cyclonedx(build))
    print(f"{path}: {len(crates()[0])} crates, {size(path)}")
    return [path]


@functools.cache
def crates():
    """Returns the crates of the program as (name, version), and which of them each depends on."""
    tree = output(
        "cargo", "tree", "--locked", "--package", "esper", "--edges", "no-dev", "--prefix", "depth", "--format", " {p}"
    )
    above, found, edges = [], set(), {}
    for line in tree.splitlines():
        depth, name, version = re.match(r"(\d+) (\S+) v(\S+)", line).groups()
        crate = (name, version)
        del above[int(depth) :]
        if above:
            edges.setdefault(above[-1], set()).add(crate)
        above.append(crate)
        found.add(crate)
    return found, edges


@functools.cache
def packages():
    """Returns what cargo knows of each crate, by (name, version)."""
    metadata = json.loads(output("cargo", "metadata", "--format-version", "1", "--locked"))
    return {(package["name"], package["version"]): package for package in metadata["packages"]}


@functools.cache
def sums():
    """Returns the sum of each crate that comes from a registry, by (name, version)."""
    lock = (ROOT / "Cargo.lock").read_text()
    found = re.findall(r'name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"', lock)
    return {(name, version): checksum for name, version, checksum in found}


def cyclonedx(build):
    """Returns the bill of materials, version 1.5 of CycloneDX's JSON."""
    found, edges = crates()
    esper = next(crate for crate in found if crate[0] == "esper")
    components = {crate: component(crate, sums().get(crate)) for crate in sorted(found)}
    # Of the same contents it is the same bill.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"esper {build.version} {sorted(found)}")
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(build.epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**components.pop(esper), "type": "application"},
        },
        "components": list(components.values()),
        "dependencies": [
            {"ref": purl(crate), "dependsOn": [purl(other) for other in sorted(edges.get(crate, ()))]}
            for crate in sorted(found)
        ],
    }
    return json.dumps(bill, indent=1) + "\n"


def component(crate, checksum):
    package = packages()[crate]
    component = {
        "type": "library",
        "bom-ref": purl(crate),
        "name": crate[0],
        "version": crate[1],
        "purl": purl(crate),
        # `/` is how old crates write OR.
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
    }
    if package["description"]:
        component["description"] = " ".join(package["description"].split())
    if package["repository"]:
        component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def purl(crate):
    return f"pkg:cargo/{crate[0]}@{crate[1]}"


@functools.cache
def licences():
    """Returns the texts of the crates' licences, each once, with the names of those that have it."""
    texts, named = {}, {}
    for crate in sorted(crates()[0]):
        package = packages()[crate]
        if package["source"] is None:
            continue
        folder = Path(package["manifest_path"]).parent
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and LICENCE_FILE.fullmatch(path.name)]
        called = f"{crate[0]} {crate[1]} ({package['license']})"
        if not files:
            named.setdefault(package["license"], []).append(f"{called}, {', '.join(package['authors'])}")
        for path in files:
            text = path.read_text(errors="replace").strip()
            # Copies that differ in how their lines break are one text.
            texts.setdefault(" ".join(text.split()), (text, []))[1].append(called)
    parts = ["The crates that esper is made of, and their licences."]
    for text, users in texts.values():
        parts.append(f"{'=' * 80}\n" + "\n".join(users) + f"\n{'-' * 80}\n{text}")
    if named:
        parts.append(
            f"{'=' * 80}\nThese name their licence and come without its text, which others have above:\n"
            + "\n".join(line for lines in named.values() for line in lines)
        )
    return "\n\n".join(parts) + "\n"
