"""The job templates of deploy/: what a worker on Kubernetes or ECS makes of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

ROOT = Path(__file__).parents[2]
VALUES: dict[str, dict[str, Any]] = {
    "kubernetes": {
        "image": "registry.example/stocktrace:1",
        "key_secret": "finnhub-1",
        "data_claim": "stocktrace-1",
        "namespace": "market",
    },
    "ecs": {
        "image": "registry.example/stocktrace:1",
        "key_secret_arn": "arn:aws:secretsmanager:eu-west-1:1:secret:finnhub-1",
        "file_system_id": "fs-1",
        "access_point_id": "fsap-1",
        "execution_role_arn": "arn:aws:iam::1:role/start",
        "task_role_arn": "arn:aws:iam::1:role/capture",
        "cluster": "market",
    },
}


def prepared(job: Any) -> Any:
    """The job of a run of ours."""
    from prefect.client.schemas.objects import FlowRun

    job.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="AAPL"))
    return job


def template(kind: str) -> dict[str, Any]:
    path = ROOT / "deploy" / kind / "job-template.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", VALUES)
def test_a_template_declares_exactly_the_variables_that_it_uses(kind: str) -> None:
    import jsonschema  # type: ignore[import-untyped]
    from prefect.utilities.templating import find_placeholders

    found = template(kind)
    asked = found["variables"]["properties"]
    used = {one.name for one in find_placeholders(found["job_configuration"])}
    assert used == set(asked)
    assert set(found["variables"]["required"]) <= set(asked)
    jsonschema.Draft202012Validator.check_schema(found["variables"])
    jsonschema.validate(VALUES[kind], found["variables"])
    for name in found["variables"]["required"]:
        with pytest.raises(jsonschema.ValidationError, match=name):
            jsonschema.validate(
                {key: value for key, value in VALUES[kind].items() if key != name},
                found["variables"],
            )


@pytest.mark.parametrize("kind", VALUES)
def test_the_environment_that_prefect_stores_has_no_key(kind: str) -> None:
    assert not [
        name
        for name in template(kind)["variables"]["properties"]["env"]["default"]
        if "KEY" in name
    ]


def test_a_job_of_kubernetes_has_the_key_and_a_volume_that_outlives_it(server: str) -> None:
    from prefect_kubernetes import worker

    made = worker.KubernetesWorkerJobConfiguration.from_template_and_values(
        template("kubernetes"), VALUES["kubernetes"]
    )
    job = prepared(asyncio.run(made))
    spec = job.job_manifest["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["STOCKTRACE_HOME"] == container["workingDir"] == "/srv/stocktrace"
    assert env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    # An evicted capture goes on elsewhere.
    assert env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert container["envFrom"] == [{"secretRef": {"name": "finnhub-1"}}]
    assert container["image"] == "registry.example/stocktrace:1"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "stocktrace-1"
    assert container["volumeMounts"][0]["mountPath"] == "/srv/stocktrace"
    assert job.namespace == "market"
    assert spec["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"


def test_a_task_of_ecs_has_the_key_and_a_volume_that_outlives_it(server: str) -> None:
    from prefect_aws.workers import ecs_worker

    made = ecs_worker.ECSJobConfiguration.from_template_and_values(template("ecs"), VALUES["ecs"])
    job = prepared(asyncio.run(made))
    (container,) = job.task_definition["containerDefinitions"]
    assert container["secrets"] == [
        {"name": "FINNHUB_API_KEY", "valueFrom": VALUES["ecs"]["key_secret_arn"]}
    ]
    assert container["image"] == "registry.example/stocktrace:1"
    (volume,) = job.task_definition["volumes"]
    assert volume["efsVolumeConfiguration"]["fileSystemId"] == "fs-1"
    assert container["mountPoints"][0]["sourceVolume"] == volume["name"]
    assert job.task_definition["taskRoleArn"] == VALUES["ecs"]["task_role_arn"]
    assert job.env["STOCKTRACE_HOME"] == container["workingDirectory"] == "/srv/stocktrace"
