"""The bill of materials against its schema, Cargo.lock and cargo; and the rules for dependencies."""

import json
import subprocess
from pathlib import Path

from support import ROOT, StepError, expect, run, step


def check(packages, tools):
    step("the bill of materials")
    bill = json.loads(packages.bill.read_text())
    validate(bill)

    # What cargo compiles for the program, by another command of cargo's than the one that the bill is made of.
    named = {component["purl"] for component in [bill["metadata"]["component"], *bill["components"]]}
    metadata = json.loads(run("cargo", "metadata", "--format-version", "1", "--locked", stderr=None))
    names = {package["id"]: f"pkg:cargo/{package['name']}@{package['version']}" for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    reached, unread = set(), [next(id for id, name in names.items() if name.startswith("pkg:cargo/esper@"))]
    while unread:
        package = unread.pop()
        if package not in reached:
            reached.add(package)
            deps = nodes[package]["deps"]
            unread += [dep["pkg"] for dep in deps if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
    # That one also counts what other systems need, and the features that the load generator turns on.
    unknown = named - {names[package] for package in reached}
    expect(not unknown, f"cargo metadata knows nothing of {sorted(unknown)}")
    flat = run("cargo", "tree", "--locked", "-p", "esper", "-e", "no-dev", "--prefix", "none", "-f", "{p}", stderr=None)
    compiled = {"pkg:cargo/{}@{}".format(*line.replace(" v", " ").split()[:2]) for line in flat.splitlines() if line}
    expect(named == compiled, f"cargo tree differs in {sorted(named ^ compiled)}")

    lock = (ROOT / "Cargo.lock").read_text()
    for component in bill["components"]:
        start, digest = (
            f'name = "{component["name"]}"\nversion = "{component["version"]}"\n',
            component["hashes"][0]["content"],
        )
        block = lock.partition(start)[2].partition("\n\n")[0]
        expect(f'checksum = "{digest}"' in block, f"Cargo.lock has another sum of {component['purl']}")
    for dependency in bill["dependencies"]:
        expect({dependency["ref"], *dependency["dependsOn"]} <= named, f"a dependency of none: {dependency['ref']}")
    print(f"{len(named)} crates")

    step("cargo deny")
    deny = tools.program("cargo-deny")
    run("cargo", "fetch", "--locked")
    print(run(deny, "--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources").splitlines()[-1])
    advisories = subprocess.run([deny, "check", "advisories"], cwd=ROOT, capture_output=True, text=True)
    if advisories.returncode == 0:
        print("advisories ok")
    elif "failed to fetch advisory database" in advisories.stderr:
        print(
            "NOT CHECKED: advisories, for the list of them (github.com/RustSec/advisory-db) cannot be reached from here"
        )
    else:
        raise StepError(f"cargo deny check advisories\n{advisories.stderr}")


def validate(bill):
    """Fails unless the bill is what CycloneDX's own schema says."""
    import cyclonedx.schema
    import jsonschema
    import referencing

    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    schemas = {}
    for name in ("bom-1.5", "spdx", "jsf-0.82"):
        schemas[name] = json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text())
    # They name each other by files beside them.
    resources = [
        (f"http://cyclonedx.org/schema/{name}.{kind}", referencing.Resource.from_contents(schema))
        for name, schema in schemas.items()
        for kind in ("schema.json", "SNAPSHOT.schema.json")
    ]
    registry = referencing.Registry().with_resources(resources)
    validator = jsonschema.validators.validator_for(schemas["bom-1.5"])(schemas["bom-1.5"], registry=registry)
    faults = [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(bill)]
    expect(not faults, "the bill of materials is not as CycloneDX 1.5 asks:\n" + "\n".join(faults[:20]))
