"""The manifests of Kubernetes against its schemas, and compose.yml against docker-compose; and what each of them gives
esper and NATS against these programs themselves."""

import json
import os
import re
import stat

from support import ROOT, expect, run, step

KUBERNETES = ROOT / "deploy" / "kubernetes"


def check(packages, tools):
    import yaml

    esper = packages.built / "esper"
    step("Kubernetes")
    run(tools.program("kubernetes-validate"), "--strict", *sorted(KUBERNETES.glob("*.yaml")), env=tools.env)
    for name in ("statefulset.yaml", "cluster.yaml"):
        documents = {document["kind"]: document for document in yaml.safe_load_all((KUBERNETES / name).read_text())}
        written = documents["ConfigMap"]["data"]["config.yml"]
        path = packages.folder / "config.yml"
        path.write_text(written)
        run(esper, "config", "check", path)
        workload = documents.get("StatefulSet") or documents["Deployment"]
        pod = workload["spec"]["template"]["spec"]
        container = pod["containers"][0]
        drain = yaml.safe_load(written)
        seconds = sum(int(drain[key].removesuffix("s")) for key in ("drain-delay", "drain-time"))
        expect(pod["terminationGracePeriodSeconds"] > seconds, f"{name}: a drain takes {seconds} s, and is cut short")
        image = container["image"]
        expect(image.endswith(f"/esper:{packages.version}"), f"{name}: the version is {packages.version}, not {image}")
        port = container["ports"][0]
        expect((port["name"], port["containerPort"]) == ("http", 3000), f"{name}: the port is {port}")
        for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz"), ("startupProbe", "/healthz")):
            asked = container[probe]["httpGet"]
            expect(asked == {"path": path, "port": "http"}, f"{name}: {probe} asks {asked}")
        user = pod["securityContext"]["runAsUser"]
        expect(user == 65532 and pod["securityContext"]["runAsNonRoot"], f"{name}: the image's user is 65532")
        expect(pod["enableServiceLinks"] is False, f"{name}: a Service named esper would set ESPER_PORT")
        service = documents["Service"]["spec"]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        expect(service["selector"] == labels, f"{name}: the Service has no pod")
        expect(service["ports"][0]["targetPort"] == "http", f"{name}: the Service has no port")
        profile = pod["securityContext"]["seccompProfile"]["localhostProfile"]
        expect(f"/seccomp/{profile}" in (KUBERNETES / "seccomp.yaml").read_text(), f"{name}: nobody installs {profile}")
    print("valid")

    step("compose.yml")
    deploy = ROOT / "deploy"
    variables = {**os.environ, "NATS_PASSWORD": "secret"}
    config = run("docker-compose", "--file", "compose.yml", "config", cwd=deploy, env=variables)
    services = yaml.safe_load(config)["services"]
    version = re.search('VERSION = "(.*)"', (ROOT / "scripts" / "nats").read_text())[1]
    for number in (1, 2, 3):
        nats, node = services[f"nats-{number}"], services[f"esper-{number}"]
        expect(nats["image"] == f"nats:{version}-alpine", f"the NATS under test is {version}, not {nats['image']}")
        expect(node["image"] == f"esper:{packages.version}", f"the version is {packages.version}, not {node['image']}")
        expect(f"nats-{number}.example" in nats["networks"]["default"]["aliases"], "nats.conf has other names")
        expect(node["environment"]["ESPER_CLUSTER"].count("secret@nats-") == 3, "the nodes are given three servers")
        expect(node["security_opt"] == ["seccomp:../scripts/seccomp.json"], "the profile is in scripts")

    # The certificates, as the container makes them, in a folder that stands for the volume.
    volume = packages.folder / "certificates"
    volume.mkdir()
    made = services["certificates"]["entrypoint"]
    expect(made[:2] == ["sh", "-euc"], "the certificates are made by sh")
    for _ in range(2):
        run(*made, cwd=volume)
    kept = sorted(path.name for path in volume.iterdir())
    expect({"ca.crt", "server.crt", "server.key"} <= set(kept) and "ca.key" not in kept, f"the volume has {kept}")
    expect((volume / "ca.crt").stat().st_mode & stat.S_IROTH, "esper may not read the authority")
    run("openssl", "verify", "-CAfile", volume / "ca.crt", "-verify_hostname", "nats-2.example", volume / "server.crt")

    # What each program is started with, by the program itself.
    server = run("scripts/nats", "install", stderr=None).strip()
    conf = packages.folder / "nats.conf"
    conf.write_text((deploy / "nats.conf").read_text().replace("/etc/nats/", f"{volume}/"))
    run(server, "-t", "--config", conf, env={**tools.env, **services["nats-1"]["environment"]})
    node = packages.folder / "compose-esper.yml"
    node.write_text((deploy / "compose-esper.yml").read_text().replace("/etc/nats/", f"{volume}/"))
    variables = {name: str(value) for name, value in services["esper-1"]["environment"].items()}
    run(esper, "config", "check", node, env={**tools.env, **variables})
    seccomp = json.loads((ROOT / "scripts" / "seccomp.json").read_text())
    expect(seccomp["defaultAction"] == "SCMP_ACT_ERRNO", "the profile forbids by default")
    print("valid")
