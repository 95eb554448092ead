"""The files in config/: each fits its format's schema, and says only what is so in the code and in its neighbours."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from imgsim.cli import cli
from imgsim.settings import Settings, load_settings, masked_values
from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
MANIFESTS = sorted((CONFIG / "k8s").glob("*.yaml"))
PORTS = {"api": 8000, "embedder": 8001, "worker": 8002}
SETTINGS = masked_values(Settings.model_construct())
ONE_SHOT = {"migrate"}


def load(name: str) -> Json:
    loaded: Json = yaml.safe_load((CONFIG / name).read_text(encoding="utf-8"))
    return loaded


def resources(*kinds: str) -> list[Json]:
    """What the manifests describe, but for the kustomization."""
    found = [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [each for each in found if each["kind"] in kinds or (not kinds and each["kind"] != "Kustomization")]


def pods() -> dict[str, Json]:
    """The pod specification of each component, by its label."""
    templates = [each["spec"]["template"] for each in resources("Deployment", "Job")]
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"] for each in templates}


def containers() -> dict[str, Json]:
    return {name: pod["containers"][0] for name, pod in pods().items()}


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def compose() -> Json:
    return load("compose.yaml")


@pytest.fixture(scope="module")
def roles(compose: Json) -> Json:
    """The services of compose.yaml that are imgsim's own."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (CONFIG / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


# the formats


def test_the_dockerfile_passes_hadolint() -> None:
    linted = tool("hadolint", CONFIG / "Dockerfile")
    assert linted.returncode == 0, linted.stdout


def test_the_compose_file_fits_the_compose_specification() -> None:
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", CONFIG / "compose.yaml")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("resource", resources(), ids=lambda each: f"{each['kind'].lower()}-{each['metadata']['name']}")
def test_each_manifest_fits_the_schema_of_kubernetes(resource: Json) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


# settings


def test_cluster_toml_loads_and_names_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("IMGSIM_"):
            monkeypatch.delenv(name)
    settings = load_settings(CONFIG / "cluster.toml")
    parts = ("objects", "database", "vectors", "jobs", "embedder")
    schemes = {part: getattr(settings, part).url.partition(":")[0] for part in parts}
    assert schemes == {
        "objects": "s3",
        "database": "postgresql",
        "vectors": "http",
        "jobs": "redis",
        "embedder": "http",
    }


def test_cluster_toml_holds_no_secret() -> None:
    values = tomllib.loads((CONFIG / "cluster.toml").read_text(encoding="utf-8"))
    urls = [section["url"] for section in values.values() if isinstance(section, dict) and "url" in section]
    assert not [url for url in urls if re.search(r"://[^/]*:[^/]*@", url)]
    assert not {"keys", "api_key"} & {
        key for section in values.values() if isinstance(section, dict) for key in section
    }


def test_kubernetes_has_the_same_cluster_toml() -> None:
    assert (CONFIG / "k8s" / "cluster.toml").read_bytes() == (CONFIG / "cluster.toml").read_bytes()


@pytest.mark.parametrize(
    "path", [CONFIG / "Dockerfile", CONFIG / "compose.yaml", *MANIFESTS], ids=lambda path: path.name
)
def test_each_variable_names_a_setting(path: Path) -> None:
    for name in set(re.findall(r"\bIMGSIM_[A-Z0-9_]+", path.read_text(encoding="utf-8"))) - {"IMGSIM_CONFIG"}:
        assert name.removeprefix("IMGSIM_").replace("__", ".").lower() in SETTINGS, name


def test_variables_have_values_that_the_settings_take(roles: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, service in roles.items():
        for variable, value in service["environment"].items():
            if variable.startswith("IMGSIM_") and variable != "IMGSIM_CONFIG":
                monkeypatch.setenv(variable, interpolated(str(value)))
        load_settings(CONFIG / "cluster.toml")
        assert name in ONE_SHOT or load_settings().port == PORTS[name]


def interpolated(text: str) -> str:
    """As compose does it: the default, or ``filled`` where there is none."""
    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", lambda found: found[3] if found[2] == "-" else "filled", text)


# commands, routes, metrics


def test_each_command_is_one_of_imgsim(roles: Json) -> None:
    given = {name: service["command"] for name, service in roles.items()}
    given |= {f"k8s {name}": container["args"] for name, container in containers().items()}
    for name, (command, *options) in given.items():
        assert command in cli.commands, f"{name}: {command}"
        assert not options
        assert command == name.removeprefix("k8s ")


def test_each_probe_asks_a_route_that_exists(server: ImgsimServer) -> None:
    for name, container in containers().items():
        probes = {kind: container[kind]["httpGet"] for kind in container if kind.endswith("Probe")}
        assert name in ONE_SHOT or set(probes) == {"startupProbe", "readinessProbe", "livenessProbe"}
        with server.client() as client:
            for kind, probe in probes.items():
                assert client.get(probe["path"]).status_code == 200, f"{name}: {kind}"
        assert {probe["port"] for probe in probes.values()} <= {port["name"] for port in container.get("ports", [])}


def test_the_healthcheck_of_the_image_works(server: ImgsimServer, dockerfile: str) -> None:
    (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*\])", dockerfile)
    command = [sys.executable if word == "python" else word for word in json.loads(check)]

    def status(port: str) -> int:
        return subprocess.run(
            command, env=os.environ | {"IMGSIM_PORT": port}, capture_output=True, check=False
        ).returncode

    assert status(server.url.rpartition(":")[2]) == 0
    assert status("1") != 0


def test_the_healthcheck_of_qdrant_works(server: ImgsimServer, compose: Json) -> None:
    """Bash speaks HTTP there. Any server can stand in for Qdrant: only the port and the path differ."""
    command = compose["services"]["qdrant"]["healthcheck"]["test"][1:]
    script = command[-1].replace("$$", "$").replace("6333", server.url.rpartition(":")[2])

    def status(path: str) -> int:
        changed = [*command[:-1], script.replace("/readyz", path)]
        return subprocess.run(changed, capture_output=True, check=False, timeout=10).returncode

    assert status("/ready") == 0
    assert status("/nowhere") != 0


@pytest.fixture(scope="module")
def metrics(server: ImgsimServer, photos: list[Path]) -> str:
    """A real answer of /metrics, from a server that has taken an image through all stages."""
    with server.client() as client, photos[0].open("rb") as file:
        uploaded = client.post("/images/upload", files={"file": file}, data={"collection": "deploy"})
        wait_until_at_rest(client, uploaded.raise_for_status().json()["id"])
        client.get("/ready")
        return client.get("/metrics").raise_for_status().text


def expressions() -> Iterator[tuple[str, str]]:
    for group in load("alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads((CONFIG / "grafana" / "dashboards" / "imgsim.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(
    "expression", [expression for _, expression in expressions()], ids=[name for name, _ in expressions()]
)
def test_each_metric_exists(expression: str, metrics: str) -> None:
    # Names in PromQL: no function (a bracket follows), no label (in braces, or in brackets after by and on), no number.
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without) \([^)]*\)|\"[^\"]*\"", " ", expression)
    words = set(re.findall(r"\b([a-z_]\w*)\b(?!\s*\()", bare)) - {"and", "or", "unless", "bool"}
    assert words, expression
    assert words <= set(re.findall(r"^(\w+)", metrics, re.MULTILINE)) | {"up"}
    for matcher in re.findall(r'(?:state|stage|outcome|path)="[^"]*"', expression):
        assert matcher in metrics


# images


def test_each_image_is_pinned(compose: Json, dockerfile: str) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - set(stages)
    foreign = [service["image"] for service in compose["services"].values() if "image" in service]
    own = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in load("k8s/kustomization.yaml")["images"]}
    assert {container["image"] for container in containers().values()} == set(own)
    for image in (*bases, *foreign, *own.values()):
        assert re.search(r":[\w.-]*\d[\w.-]*$", image), image
        assert not image.endswith(":latest")


def test_the_images_targets_exist(dockerfile: str, roles: Json) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE)
    assert stages[-1] == "slim", "what is built when no target is named"
    for service in roles.values():
        assert (CONFIG / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert interpolated(service["build"]["target"]) in stages


def test_what_the_image_is_made_of_is_sent_to_the_builder(dockerfile: str) -> None:
    lines = (CONFIG / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)", dockerfile, re.MULTILINE)
        for source in shlex.split(line)[:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_runs_as_the_user_that_kubernetes_names(dockerfile: str) -> None:
    (user,) = set(re.findall(r"^USER (\d+):\d+", dockerfile, re.MULTILINE))
    for pod in pods().values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(pod["securityContext"]["runAsUser"]) == user


# compose


def test_each_service_is_watched_restarted_and_bounded(compose: Json) -> None:
    for name, service in compose["services"].items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert "container_name" not in service, name
        if name not in ONE_SHOT:
            assert service["healthcheck"].get("interval"), name
            assert service["restart"] == "unless-stopped", name


def test_ports_are_open_to_this_machine_alone_and_replicas_have_none(compose: Json) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not (service.get("ports") and "replicas" in service["deploy"]), name


def test_what_a_service_waits_for_can_come_true(compose: Json) -> None:
    for service in compose["services"].values():
        for other, needs in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert needs["condition"] == wanted, other
            assert not set(compose["services"][other].get("profiles", [])) - set(service.get("profiles", []))


def test_each_volume_and_mounted_file_is_there(compose: Json) -> None:
    used = set()
    for service in compose["services"].values():
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            if source.startswith("."):
                assert (CONFIG / source).exists(), source
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_the_example_names_every_variable_of_the_compose_file(compose: Json) -> None:
    text = (CONFIG / "compose.yaml").read_text(encoding="utf-8")
    example = (CONFIG / ".env.example").read_text(encoding="utf-8")
    required = set(re.findall(r"\$\{(\w+):\?", text)) | {each["environment"] for each in compose["secrets"].values()}
    assert set(re.findall(r"^(\w+)=", example, re.MULTILINE)) == required
    offered = dict(re.findall(r"^# ([A-Z_0-9]+)=(\S*)", example, re.MULTILINE))
    assert offered == dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


def test_the_example_holds_no_password() -> None:
    lines = (CONFIG / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"\w+=.", line)] == ["S3_ACCESS_KEY=imgsim"]


def test_processes_are_given_the_time_to_drain(roles: Json) -> None:
    drain = tomllib.loads((CONFIG / "cluster.toml").read_text(encoding="utf-8"))["jobs"]["drain_seconds"]
    for name, service in roles.items():
        assert int(service["stop_grace_period"].removesuffix("s")) > drain + 10, name
    for name in PORTS:
        assert pods()[name]["terminationGracePeriodSeconds"] > drain + 10, name


# Prometheus and Grafana


def test_prometheus_asks_every_role_where_it_listens(compose: Json) -> None:
    scraped = {job["job_name"]: job for job in load("prometheus.yml")["scrape_configs"]}
    assert set(scraped) == set(PORTS)
    (secret,) = compose["services"]["prometheus"]["secrets"]
    for name, job in scraped.items():
        (found,) = job["dns_sd_configs"]
        assert (found["names"], found["port"]) == ([name], PORTS[name])
        assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret['target']}"
        assert compose["services"][name]["environment"]["IMGSIM_PORT"] == PORTS[name]


def test_prometheus_and_grafana_find_their_files(compose: Json) -> None:
    mounted = dict(
        reversed(volume.removesuffix(":ro").split(":"))
        for name in ("prometheus", "grafana")
        for volume in compose["services"][name]["volumes"]
    )
    assert load("prometheus.yml")["rule_files"] == ["alerts.yml"]
    assert mounted["/etc/prometheus/alerts.yml"] == "./alerts.yml"
    (provider,) = load("grafana/provisioning/dashboards/imgsim.yaml")["providers"]
    home = Path(compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (CONFIG / mounted[str(home.parent)] / home.name).is_file()
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_the_dashboards_panels_do_not_overlap() -> None:
    dashboard = json.loads((CONFIG / "grafana" / "dashboards" / "imgsim.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


# Kubernetes


def test_the_kustomization_takes_everything_but_the_examples() -> None:
    kustomization = load("k8s/kustomization.yaml")
    plain = {path.name for path in MANIFESTS if ".example." not in path.name and path.name != "secret.yaml"}
    assert set(kustomization["resources"]) == plain - {"kustomization.yaml"}
    assert kustomization["configMapGenerator"] == [{"name": "imgsim", "files": ["cluster.toml"]}]


def test_what_the_pods_refer_to_is_there() -> None:
    secrets = {each["metadata"]["name"]: set(each["stringData"]) for each in resources("Secret")}
    for name, pod in pods().items():
        container = pod["containers"][0]
        for variable in container["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            assert not reference or reference["key"] in secrets[reference["name"]], f"{name}: {variable['name']}"
        assert {each["secretRef"]["name"] for each in container.get("envFrom", [])} <= set(secrets)
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        assert {each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each} <= {"imgsim"}


def test_services_autoscalers_and_budgets_meet_their_pods() -> None:
    deployments = {each["metadata"]["name"] for each in resources("Deployment")}
    assert deployments == set(PORTS)
    for name, port in PORTS.items():
        values = {each["name"]: each.get("value") for each in containers()[name]["env"]}
        assert values["IMGSIM_PORT"] == str(port)
    for each in resources("Service"):
        (port,) = containers()[each["spec"]["selector"]["app.kubernetes.io/component"]]["ports"]
        assert (port["name"], port["containerPort"]) == (
            each["spec"]["ports"][0]["targetPort"],
            PORTS[each["metadata"]["name"]],
        )
    assert {each["spec"]["scaleTargetRef"]["name"] for each in resources("HorizontalPodAutoscaler")} == deployments
    for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"):
        assert {each["metadata"]["name"] for each in resources(kind)} == deployments, kind
    budgets = [each["spec"]["selector"]["matchLabels"] for each in resources("PodDisruptionBudget")]
    assert {each["app.kubernetes.io/component"] for each in budgets} == deployments


def test_containers_may_do_nothing_that_they_need_not() -> None:
    for name, pod in pods().items():
        rights = pod["containers"][0]["securityContext"]
        assert rights["readOnlyRootFilesystem"], name
        assert rights["capabilities"] == {"drop": ["ALL"]}, name
        assert rights["allowPrivilegeEscalation"] is False, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name


def test_kubernetes_puts_no_service_into_the_environment() -> None:
    """A service called imgsim would come as IMGSIM_PORT, which is a setting."""
    assert all(pod["enableServiceLinks"] is False for pod in pods().values())


def test_only_api_and_worker_may_ask_the_embedder() -> None:
    (policy,) = [each["spec"] for each in resources("NetworkPolicy") if each["metadata"]["name"] == "embedder"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "embedder"}
    (rule,) = policy["ingress"]
    allowed = [each["podSelector"]["matchExpressions"][0]["values"] for each in rule["from"] if "podSelector" in each]
    assert allowed == [["api", "worker"]]


def test_imports_find_room_and_the_process_that_knows_them() -> None:
    largest = Settings().imports.max_bytes
    ingress = load("k8s/ingress.example.yaml")["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    assert int(ingress[prefix + "proxy-body-size"].removesuffix("g")) << 30 > largest
    assert ingress[prefix + "affinity"] == "cookie"
    (data,) = [volume["emptyDir"] for volume in pods()["api"]["volumes"] if volume["name"] == "data"]
    assert int(data["sizeLimit"].removesuffix("Gi")) << 30 > Settings().imports.at_once * largest
    (service,) = [each["spec"] for each in resources("Service") if each["metadata"]["name"] == "api"]
    assert service["sessionAffinity"] == "ClientIP"
    api = load("compose.yaml")["services"]["api"]
    assert "imports:/var/lib/imgsim" in api["volumes"]
    assert not any(each.startswith("/var/lib/imgsim") for each in api["tmpfs"])
    assert "['parquet']" in (CONFIG / "Dockerfile").read_text(encoding="utf-8")
