"""The files of `deploy`: they have the form that their programs expect, and say the same thing.

`test_several_hosts` runs what they describe, `test_dockerfile` builds the image's content.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from stripe_pipeline.settings.environment import inbox_url, load_keys, webhook_secrets
from tests.deploy.hosts import SERVICE
from tests.deploy.parts import DEPLOY, PROGRAMS, command_of, compose, variables_of

REPOSITORY = DEPLOY.parent
KUBERNETES = "1.33"
"""The oldest version of Kubernetes that is maintained in the year of this release."""
PARTS = ("code-server", "webserver", "daemon", "webhooks")
IN_BOTH = {"telemetry", "nux", "run_queue", "schedules", "retention", "run_monitoring"}


def loaded(path: Path) -> Any:
    """The content of a YAML file with one document."""
    return yaml.safe_load(path.read_text())


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """The Kubernetes objects by kind and name."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "stripe-pipeline.yaml").read_text())
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def pod(kind: str, name: str) -> dict[str, Any]:
    """The one container of a workload."""
    [container] = manifests()[kind, name]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_compose_file_follows_the_specification() -> None:
    schema = importlib.resources.files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    jsonschema.validate(compose(), json.loads(schema.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose() | {"services": {"daemon": {"commands": []}}}, json.loads(schema.read_text()))


def test_every_variable_of_the_compose_file_is_in_the_example_and_the_other_way_round() -> None:
    text = "\n".join(
        line for line in (DEPLOY / "compose.yaml").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    used = set(re.findall(r"\$\{(\w+)", text))
    example = (DEPLOY / ".env.example").read_text()
    assert set(re.findall(r"^#?(\w+)=", example, re.MULTILINE)) == used - {"IMAGE"}


def test_each_part_has_the_variables_that_it_needs_and_no_other_secret() -> None:
    values = {
        "STRIPE_API_KEY": "rk_live_of_the_tests",
        "STRIPE_TEST_API_KEY": "rk_test_of_the_tests",
        "STRIPE_WEBHOOK_SECRET": "whsec_1",
        "STRIPE_TEST_WEBHOOK_SECRET": "whsec_2",
        "STRIPE_PIPELINE_INBOX": "postgresql://inbox@postgres/inbox",
    }
    given = {part: {name: values.get(name, "") for name in variables_of(part)} for part in PARTS}
    assert len(load_keys(given["code-server"])) == 2
    assert len(webhook_secrets(given["webhooks"])) == 2
    assert inbox_url(given["code-server"]) == inbox_url(given["webhooks"]) == values["STRIPE_PIPELINE_INBOX"]
    assert not any("API_KEY" in name for part in PARTS[1:] for name in given[part])
    assert not any(name.startswith("STRIPE_") for part in ("webserver", "daemon") for name in given[part])


def test_dagster_is_set_up_as_on_one_host_except_for_the_storage() -> None:
    one, several = loaded(REPOSITORY / "dagster.yaml"), loaded(DEPLOY / "dagster.yaml")
    assert {name: several[name] for name in IN_BOTH} == {name: one[name] for name in IN_BOTH}
    assert several.keys() - IN_BOTH == {"storage", "compute_logs", "run_launcher"}
    assert one.keys() - IN_BOTH == {"storage", "compute_logs", "local_artifact_storage"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    units = sorted((DEPLOY / "systemd").glob("*.service"))
    assert len(units) == 5
    # The programs have to exist where the unit says, and a unit cannot name a path with a space.
    programs = tmp_path / "programs"
    programs.symlink_to(PROGRAMS)
    for unit in units:
        (tmp_path / unit.name).write_text(
            unit.read_text().replace("/srv/stripe_pipeline/.venv/bin", f"{programs}").replace("User=stripe\n", "")
        )
    ended = subprocess.run(
        ["systemd-analyze", "verify", *(f"{tmp_path / unit.name}" for unit in units)], capture_output=True, text=True
    )
    ours = [line for line in ended.stderr.splitlines() if "stripe-pipeline" in line]
    assert ours == []


@pytest.mark.parametrize("part", PARTS)
def test_systemd_and_compose_start_the_same_commands(part: str) -> None:
    unit = (DEPLOY / "systemd" / f"stripe-pipeline-{part}.service").read_text()
    [started] = re.findall(r"^ExecStart=/srv/stripe_pipeline/\.venv/bin/(.+)$", unit, re.MULTILINE)
    started = started.replace("/srv/stripe_pipeline/deploy/", "/srv/dagster/").replace("${CODE_SERVER_PORT}", "4000")
    # Every address of a container is its own; on a host, a part listens only where it has to.
    started = re.sub(r"(-h|--host) \S+", r"\1 0.0.0.0", started)
    expected = " ".join(command_of(part))
    assert re.sub(" +", " ", started) == expected


def test_kubernetes_accepts_the_manifests() -> None:
    assert len(manifests()) == 5
    for manifest in manifests().values():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    wrong = manifests()["StatefulSet", "stripe-pipeline-code-server"]
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_kubernetes_starts_the_same_commands_as_compose() -> None:
    code_server = pod("StatefulSet", "stripe-pipeline-code-server")
    assert code_server["command"] == command_of("code-server")
    assert pod("Deployment", "stripe-pipeline-webhooks")["command"] == command_of("webhooks")
    assert {code_server[f"{probe}Probe"]["grpc"]["service"] for probe in ("startup", "readiness", "liveness")} == {
        SERVICE
    }
    assert manifests()["StatefulSet", "stripe-pipeline-code-server"]["spec"]["replicas"] == 1


def test_the_values_of_the_chart_name_what_the_manifests_make() -> None:
    values = loaded(DEPLOY / "kubernetes" / "dagster-values.yaml")
    [server] = values["dagsterWebserver"]["workspace"]["servers"]
    [port] = manifests()["Service", server["host"]]["spec"]["ports"]
    assert server["port"] == port["port"]
    workspace = loaded(DEPLOY / "workspace.yaml")
    assert server["name"] == workspace["load_from"][0]["grpc_server"]["location_name"]
    code_server = pod("StatefulSet", server["host"])
    password = next(item for item in code_server["env"] if item["name"] == "DAGSTER_PG_PASSWORD")
    assert password["valueFrom"]["secretKeyRef"]["name"] == values["global"]["postgresqlSecretName"]
    [url] = [item["value"] for item in code_server["env"] if item["name"] == "DAGSTER_POSTGRES_URL"]
    postgresql = values["postgresql"]
    assert url == (
        f"{postgresql['postgresqlScheme']}://{postgresql['postgresqlUsername']}:$(DAGSTER_PG_PASSWORD)"
        f"@{postgresql['postgresqlHost']}/{postgresql['postgresqlDatabase']}"
    )
    image = values["dagsterWebserver"]["image"]
    assert code_server["image"] == f"{image['repository']}:{image['tag']}"
    launcher = values["runLauncher"]["config"]["customRunLauncher"]
    assert loaded(DEPLOY / "dagster.yaml")["run_launcher"] == {name: launcher[name] for name in ("module", "class")}
