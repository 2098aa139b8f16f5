"""The image: read by another program than wrote it, unpacked, and run as Kubernetes would: as its user, on a read-only
file system, with a network of its own."""

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile

from client import Client
from support import StepError, child_of, expect, may_isolate, run, step, until

# Everything that is mounted is so within this process alone. The file system is read-only but for the volume.
ENTRY = """
set -e
ip link set lo up
mount --bind "$1" "$1"
mkdir -p "$1/proc"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=700,uid=65532,gid=65532 tmpfs "$1/var/lib/esper"
mount -o remount,bind,ro "$1"
shift
exec env -i "$@"
"""


def check(packages, tools):
    step("the OCI image")
    image = packages.image
    for transport in ("oci-archive", "docker-archive"):
        config = json.loads(run("skopeo", "inspect", "--config", f"{transport}:{image}"))
        expect(config["config"]["User"] == "65532:65532", f"{transport}: its user is {config['config'].get('User')}")
    with tarfile.open(image) as layout:
        read = lambda name: layout.extractfile(name).read()
        blob = lambda part: read("blobs/sha256/" + part["digest"].split(":")[1])
        for name in layout.getnames():
            if name.startswith("blobs/sha256/") and layout.getmember(name).isfile():
                expect(
                    hashlib.sha256(read(name)).hexdigest() == name.split("/")[2], f"{name} is not what its name says"
                )
        manifest = json.loads(blob(json.loads(read("index.json"))["manifests"][0]))
        config = json.loads(blob(manifest["config"]))
        layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    expect(config["rootfs"]["diff_ids"] == digests, "the layers are not those of the configuration")
    container = config["config"]
    expect(not any(pair.startswith("ESPER_") for pair in container["Env"]), "a variable would stand over the files")
    expect("Cmd" not in container, "a flag would stand over the files")
    expect(container["Healthcheck"]["Test"] == ["CMD", "/usr/bin/esper", "health"], "its health check is another")

    if not may_isolate():
        return
    root = packages.folder / "image"
    root.mkdir()
    for layer in layers:
        path = packages.folder / "layer.tar"
        path.write_bytes(layer)
        run("tar", "-x", "--same-owner", "--same-permissions", "-f", path, "-C", root)
    volume = (root / "var/lib/esper").stat()
    expect((volume.st_uid, volume.st_mode & 0o777) == (65532, 0o700), "the volume would not be the user's")

    entry = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", ENTRY, "sh", root]
    chroot = [shutil.which("chroot"), "--userspec=65532:65532", root]
    command = [*entry, *container["Env"], *chroot, *container["Entrypoint"]]
    server = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    try:
        inside = until("a process of the image", 20, lambda: leader(server))
        client = Client(inside)
        until("the image answers", 30, lambda: client.is_up())
        client.publish_and_subscribe()
        enter = ["nsenter", "-t", inside, "-m", "-n", "-p"]
        run(*enter, *chroot, "/usr/bin/esper", "health")
        files = run(*enter, *chroot, "/usr/bin/esper", "config", "dump")
        expect("data-dir: /var/lib/esper" in files, f"the image's own file is not read:\n{files}")
        run("kill", "-TERM", inside)
        expect(server.wait(30) == 0, f"SIGTERM ends it with {server.returncode}")
    finally:
        server.kill()
        server.wait()
    print("answers, and its own health check does")


def leader(server):
    """Returns the process id of the image's own process, once it is esper."""
    if server.poll() is not None:
        raise StepError(f"the image ended: {server.stderr.read()}")
    return child_of(server, "esper")
