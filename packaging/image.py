"""The OCI image, written without a container engine: the program, the shared libraries that it is linked with, the
certificates of authorities, and a configuration. No shell, and nothing else to keep up to date.

It is linked with glibc as it is: a static glibc would look for the same glibc at run time to resolve names."""

import gzip
import hashlib
import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import bill
import configuration
from archive import Archive
from build import ROOT, output, size, step

USER = 65532
OCI = "application/vnd.oci.image"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def make(build):
    """Makes target/package/esper-VERSION-MACHINE-oci.tar, which podman, skopeo and Docker load."""
    step("the OCI image")
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    # What rarely changes is a layer of its own.
    layers = [layer.tar() for layer in (libraries(build), program(build))]
    packed = [{"mediaType": f"{OCI}.layer.v1.tar+gzip", **blob(gzip.compress(layer, 9, mtime=0))} for layer in layers]
    diffs = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = blob(encode(config_of(build, diffs)))
    manifest = blob(
        encode(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": {"mediaType": f"{OCI}.config.v1+json", **config},
                "layers": packed,
            }
        )
    )
    name = f"esper:{build.version.replace('~', '-').replace('+', '-')}"
    index = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.index.v1+json",
        "manifests": [
            {
                "mediaType": f"{OCI}.manifest.v1+json",
                **manifest,
                "platform": {"os": "linux", "architecture": build.debian_machine},
                "annotations": {
                    "org.opencontainers.image.ref.name": name.split(":")[1],
                    "io.containerd.image.name": f"docker.io/library/{name}",
                },
            }
        ],
    }
    path_of = lambda part: "blobs/sha256/" + part["digest"].split(":")[1]
    # The form of `docker save`, for a Docker older than 25.
    saved = [{"Config": path_of(config), "RepoTags": [name], "Layers": [path_of(part) for part in packed]}]

    layout = Archive(build.epoch)
    layout.file("oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
    layout.file("index.json", encode(index))
    layout.file("manifest.json", encode(saved))
    for digest, data in blobs.items():
        layout.file(f"blobs/sha256/{digest}", data)
    path = build.out / f"esper-{build.version}-{build.machine}-oci.tar"
    path.write_bytes(layout.tar())
    print(f"{path}: {size(path)}")
    return [path]


def libraries(build):
    """Returns the layer of what Debian made: the libraries with their licences, and the certificates."""
    layer = Archive(build.epoch)
    files = {Path(CERTIFICATES)}
    for line in output("ldd", build.stripped).splitlines():
        # Such as `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x7f...)`, and the loader without an arrow.
        path = line.split("=> ")[-1].split()[0]
        if path.startswith("/"):
            files.add(Path(path))
    packages = {"ca-certificates"}
    for path in files:
        layer.file(str(path).lstrip("/"), path.read_bytes(), 0o644 if str(path) == CERTIFICATES else 0o755)
        packages |= package_of(path)
    for package in packages:
        copyright = Path(f"/usr/share/doc/{package}/copyright")
        if copyright.exists():
            layer.file(str(copyright).lstrip("/"), copyright.read_bytes())
    return layer


def package_of(path):
    """Returns the Debian package of a library, if one has it: by the path it has once /lib is a link to /usr/lib, or
    had before."""
    for name in {path, path.resolve(), Path("/usr") / str(path).lstrip("/")}:
        found = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True)
        if found.returncode == 0:
            return {found.stdout.split(":")[0]}
    return set()


def program(build):
    layer = Archive(build.epoch)
    layer.file("usr/bin/esper", build.stripped.read_bytes(), 0o755)
    layer.file("usr/lib/esper/config.yml", (ROOT / "deploy/container.yml").read_bytes())
    layer.file("etc/esper/config.yml", configuration.commented().encode())
    layer.file("etc/passwd", f"root:x:0:0:root:/:/sbin/nologin\nesper:x:{USER}:{USER}:esper:/:/sbin/nologin\n".encode())
    layer.file("etc/group", f"root:x:0:\nesper:x:{USER}:\n".encode())
    layer.file("etc/nsswitch.conf", b"hosts: files dns\n")
    # A volume that is made from the image gets the owner it has here.
    layer.folder("var/lib/esper", 0o700, USER)
    layer.file("usr/share/doc/esper/copyright", (ROOT / "LICENSE").read_bytes())
    layer.file("usr/share/doc/esper/THIRD-PARTY.txt", bill.licences().encode())
    layer.file("usr/share/doc/esper/esper.cdx.json", bill.cyclonedx(build).encode())
    return layer


def config_of(build, diffs):
    created = datetime.fromtimestamp(build.epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    second = 1_000_000_000
    return {
        "created": created,
        "architecture": build.debian_machine,
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {"3000/tcp": {}},
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": ["/usr/bin/esper"],
            "Volumes": {"/var/lib/esper": {}},
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            # Docker's addition to OCI, which others pass over.
            "Healthcheck": {
                "Test": ["CMD", "/usr/bin/esper", "health"],
                "Interval": 10 * second,
                "Timeout": 5 * second,
                "StartPeriod": 5 * second,
                "Retries": 3,
            },
            "Labels": {
                "org.opencontainers.image.title": "esper",
                "org.opencontainers.image.description": "A Server-Sent Events broker",
                "org.opencontainers.image.version": build.version,
                "org.opencontainers.image.created": created,
                "org.opencontainers.image.licenses": "MIT",
                "org.opencontainers.image.source": "https://github.com/esper-sse/esper",
                "org.opencontainers.image.documentation": "https://github.com/esper-sse/esper/blob/main/docs/install.md",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [
            {"created": created, "created_by": "scripts/package: shared libraries and certificates"},
            {"created": created, "created_by": "scripts/package: esper"},
        ],
    }


def encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
