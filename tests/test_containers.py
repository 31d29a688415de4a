"""Dockerfile, compose.yaml and the workflow: as far as they can be tried without an engine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from stocktrace.dashboard.server import PORT
from stocktrace.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: Those that run our image.
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOME = "/srv/stocktrace"
PATIENCE_S = 100


def instructions(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, each time it is given."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def environment(service: dict[str, Any]) -> dict[str, str]:
    return dict(service.get("environment", {}))


# --- compose.yaml ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "file"),
    [("vendor.compose-spec", "compose.yaml"), ("vendor.github-workflows", str(WORKFLOW))],
)
def test_each_file_fits_the_schema_of_its_reader(schema: str, file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_everything_that_a_capture_needs_is_there() -> None:
    assert set(SERVICES) == {"postgres", "server", "worker", "dashboard", "prometheus", "grafana"}
    assert set(OURS) == {"server", "worker", "dashboard"}


def test_published_ports_are_on_loopback_only() -> None:
    published = [port for one in SERVICES.values() for port in one.get("ports", ())]
    assert len(published) == 3
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_only_a_service_that_listens_on_loopback_is_in_the_hosts_network() -> None:
    assert [name for name, one in SERVICES.items() if "network_mode" in one] == ["dashboard"]
    assert "ports" not in SERVICES["dashboard"]
    assert "environment" not in SERVICES["dashboard"], "it needs no secret"


def test_secrets_come_from_the_environment_and_a_missing_one_is_reported() -> None:
    given = [item for one in SERVICES.values() for item in environment(one).items()]
    secret = {name: value for name, value in given if re.search("KEY|PASSWORD|AUTH", name)}
    assert len(secret) == 6
    for value in secret.values():
        assert re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value)
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    told = re.search(r"^# +(.*) docker compose up", text, re.MULTILINE)
    assert told is not None
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert asked == {word.partition("=")[0] for word in told[1].split()}


def test_only_the_worker_has_the_key() -> None:
    assert [name for name, one in SERVICES.items() if "FINNHUB_API_KEY" in environment(one)] == [
        "worker"
    ]


def test_every_service_has_a_health_check_and_comes_back() -> None:
    for service in SERVICES.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


def test_health_is_asked_where_the_service_listens() -> None:
    from prefect.settings.models.runner import RunnerServerSettings

    asked = {
        name: urlsplit(found[0])
        for name, one in SERVICES.items()
        if (found := re.findall(r"http://[^' ]+", " ".join(one["healthcheck"]["test"])))
    }
    ports = {name: place.port for name, place in asked.items()}
    assert ports["worker"] == RunnerServerSettings().port
    assert ports["dashboard"] == PORT
    for name in ("server", "prometheus", "grafana"):
        assert SERVICES[name]["ports"][0].endswith(f":{ports[name]}")


def test_code_in_a_health_check_compiles() -> None:
    for service in OURS.values():
        python, flag, code = service["healthcheck"]["test"][1:]
        assert (python, flag) == ("python", "-c")
        compile(code, "healthcheck", "exec")


def test_every_setting_in_it_exists() -> None:
    from prefect.settings import Settings as PrefectSettings
    from prefect.settings.legacy import _get_settings_fields

    known = {f"STOCKTRACE_{name.upper()}" for name in Settings.model_fields} | {"FINNHUB_API_KEY"}
    known |= set(_get_settings_fields(PrefectSettings))
    given = {name for one in OURS.values() for name in environment(one)}
    assert len(given) > 10
    assert given - known == set()


def test_values_of_our_settings_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(SERVICES["worker"]).items():
        if name.startswith("STOCKTRACE_"):
            monkeypatch.setenv(name, value)
    assert Settings.load().metrics == "0.0.0.0:9464"


def test_volumes_are_declared_and_files_that_are_mounted_are_there() -> None:
    mounts = [mount for one in SERVICES.values() for mount in one.get("volumes", ())]
    sources = {mount.partition(":")[0] for mount in mounts}
    named = {source for source in sources if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    for mount in mounts:
        source, _, rest = mount.partition(":")
        if source not in named:
            assert (ROOT / source).exists(), source
            assert rest.endswith(":ro")


def test_the_data_is_where_the_image_keeps_it_and_the_dashboard_only_reads() -> None:
    assert f"data:{HOME}/data" in SERVICES["worker"]["volumes"]
    assert SERVICES["dashboard"]["volumes"] == [f"data:{HOME}/data:ro"]
    assert Settings.load().data_dir == Path("data")


def test_a_stop_leaves_time_for_an_orderly_end() -> None:
    assert SERVICES["worker"]["stop_grace_period"] == "60s"
    assert all(one["init"] is True for one in OURS.values())


def test_a_service_waits_for_services_that_exist() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_every_command_and_flag_exists(name: str) -> None:
    command = OURS[name]["command"]
    known = {"python": [sys.executable], "stocktrace": [sys.executable, "-m", "stocktrace"],
             "prefect": [sys.executable, "-m", "prefect"]}  # fmt: skip
    words = [word for word in command[1:] if re.fullmatch(r"-m|[a-z.]+", word)]
    flags = [word for word in command if word.startswith("--")]
    done = subprocess.run(
        [*known[command[0]], *words, "--help"],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [flag for flag in flags if flag not in done.stdout] == []


# --- what watches it ---------------------------------------------------------------------------


def test_prometheus_asks_the_worker_as_the_sample_asks_this_machine() -> None:
    folder = ROOT / "deploy"
    ours = yaml.safe_load((folder / "compose" / "prometheus.yml").read_text(encoding="utf-8"))
    sample = yaml.safe_load((folder / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = ours["scrape_configs"]
    port = environment(SERVICES["worker"])["STOCKTRACE_METRICS"].rpartition(":")[2]
    assert job["static_configs"] == [{"targets": [f"worker:{port}"]}]
    sample["scrape_configs"][0]["static_configs"] = job["static_configs"]
    assert ours == sample


def test_grafana_is_given_its_source_and_the_dashboard() -> None:
    folder = ROOT / "deploy" / "compose" / "grafana"
    (source,) = yaml.safe_load(
        (folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    )["datasources"]
    place = urlsplit(source["url"])
    assert place.hostname in SERVICES
    assert SERVICES[str(place.hostname)]["ports"][0].endswith(f":{place.port}")
    (provider,) = yaml.safe_load(
        (folder / "dashboards" / "stocktrace.yaml").read_text(encoding="utf-8")
    )["providers"]
    targets = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/stocktrace.json" in targets


# --- Dockerfile --------------------------------------------------------------------------------


def test_the_sources_of_the_image_exist_and_reach_the_engine() -> None:
    copied = [words.split() for words in instructions("COPY") if not words.startswith("--from")]
    sources = {source for words in copied for source in words[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line[2:] for line in ignored if line.startswith("!/")} == sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_build_has_all_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = {project["project"]["readme"], *project["project"]["license-files"]}
    named |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {word for words in instructions("COPY") for word in words.split()}
    assert named <= copied


def test_it_does_not_run_as_root() -> None:
    (user,) = instructions("USER")
    uid, _, gid = user.partition(":")
    assert int(uid) == int(gid) >= 1000
    assert f"--uid {uid}" in DOCKERFILE
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nCMD ")


def test_a_worker_can_put_its_command_in_the_place_of_ours() -> None:
    assert instructions("ENTRYPOINT") == []
    assert json.loads(instructions("CMD")[0]) == ["stocktrace", "--help"]


def test_volumes_are_mounted_on_folders_that_the_user_owns() -> None:
    (run,) = (words for words in instructions("RUN") if "useradd" in words)
    words = shlex.split(run)
    for service in OURS.values():
        for mount in service["volumes"]:
            if not mount.startswith("."):
                assert mount.split(":")[1] in words
    assert instructions("WORKDIR")[-1] == HOME


# --- the workflow ------------------------------------------------------------------------------


def test_the_workflow_runs_ci_on_every_supported_python() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    kinds = {kind.rpartition(" ")[2] for kind in supported["classifiers"] if "Python :: 3." in kind}
    assert set(jobs["check"]["strategy"]["matrix"]["python"]) == kinds
    assert ".ci/run" in [step.get("run") for step in jobs["check"]["steps"]]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert [name for name in used if not re.search(r"@[0-9a-f]{40}$", name)] == []
