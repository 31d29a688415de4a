"""The wheel and the source distribution have all they need, and nothing else."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trove_classifiers import classifiers

from stocktrace import __version__

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
#: Long enough for a busy machine, in seconds.
PATIENCE_S = 100


def build(root: Path, folder: Path, target: str) -> Path:
    """Build ``root`` as ``python -m build`` does, without a network."""
    words = ["-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(
        [sys.executable, *words], cwd=root, check=True, capture_output=True, timeout=PATIENCE_S
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(folder), str(wheel)],
        check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return folder


def run(installed: Path, *words: str) -> str:
    """Run the installed package far away from its sources, and return its output."""
    # Without coverage, which would count files that are deleted afterwards.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, *words], cwd=installed.parent, capture_output=True, text=True,
        env={**kept, "PYTHONPATH": str(installed)}, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def sources() -> Iterator[str]:
    """The files of our packages, as they are to be in the wheel."""
    for package in ("stocktrace", "flows"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(ROOT))


def test_the_wheel_has_every_file_of_our_packages_and_nothing_else(wheel: Path) -> None:
    described = {name for name in names(wheel) if ".dist-info/" in name}
    assert names(wheel) - described == set(sources())
    assert {name.partition("/")[2] for name in described} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_the_wheel_has_files_that_no_import_would_miss(wheel: Path) -> None:
    assert {
        "stocktrace/py.typed",
        "flows/py.typed",
        "stocktrace/show/templates/session.html",
        "stocktrace/dashboard/static/index.html",
        "stocktrace/dashboard/static/LICENSE",
        "stocktrace/dashboard/static/NOTICE",
    } <= names(wheel)


def test_the_wheel_has_its_metadata(wheel: Path) -> None:
    found = metadata(wheel)
    assert (found["Name"], found["Version"]) == ("stocktrace", __version__)
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"
    assert str(found.get_payload()).startswith("# stocktrace")
    kinds = found.get_all("Classifier", [])
    assert [kind for kind in kinds if kind not in classifiers] == []
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(kinds)


def test_the_version_is_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT


def test_the_command_runs_from_the_wheel(installed: Path) -> None:
    (script,) = (installed / "bin").iterdir()
    assert run(installed, str(script), "--version").strip() == __version__
    place = run(installed, "-c", "import stocktrace, flows; print(stocktrace.__file__)")
    assert place.startswith(str(installed))


@pytest.mark.slow
def test_flows_are_found_when_only_the_wheel_is_there(installed: Path) -> None:
    assert "--until" in run(installed, "-m", "flows.capture", "--help")
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    entrypoints = sorted({one["entrypoint"] for one in deployments})
    assert "flows.capture.capture" in entrypoints
    said = run(
        installed,
        "-c",
        "import sys\n"
        "from prefect.flows import load_flow_from_entrypoint as load\n"
        "for one in sys.argv[1:]: print(one, load(one, use_placeholder_flow=False).name)",
        *entrypoints,
    )
    assert [line.split()[0] for line in said.splitlines()] == entrypoints


def test_pages_and_the_dashboard_find_their_files_in_the_wheel(installed: Path) -> None:
    run(
        installed,
        "-c",
        "from stocktrace.dashboard.app import STATIC\n"
        "from stocktrace.show import page\n"
        "from jinja2 import PackageLoader\n"
        "assert (STATIC / 'index.html').is_file()\n"
        "assert 'session.html' in PackageLoader('stocktrace.show', 'templates').list_templates()",
    )


def test_the_source_distribution_makes_the_same_wheel(
    wheel: Path, source: Path, tmp_path: Path
) -> None:
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (root,) = (tmp_path / "source").iterdir()
    again = build(root, tmp_path / "again", "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {name: one.read(name) for name in one.namelist()} == {
            name: other.read(name) for name in other.namelist()
        }


def test_the_source_distribution_has_the_tests_and_no_caches(source: Path) -> None:
    with tarfile.open(source) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "Makefile",
        ".ci/run",
        "constraints.txt",
        "prefect.yaml",
        "compose.yaml",
        "Dockerfile",
    }
    assert needed | {"tests/conftest.py", "SECURITY.md", ".github/workflows/ci.yml"} <= found
    strange = re.compile(
        r"(^|/)(__pycache__|data|\.venv|\.bench|\.env|\.git|\.coverage)($|/)|\.pyc$"
    )
    assert [name for name in found if strange.search(name)] == []


# --- what it depends on ------------------------------------------------------------------------


def required() -> dict[str, set[str]]:
    """The third-party packages that we require, by group; ``core`` is a plain install."""
    groups = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return {
        group: {str(canonicalize_name(Requirement(text).name)) for text in texts} - {"stocktrace"}
        for group, texts in groups.items()
    }


def test_every_dependency_is_listed_with_its_reason() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed: dict[str, set[str]] = {}
    group = ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line.rpartition("`")[0].rpartition("`")[2] or "core"
        elif row := re.fullmatch(r"\| `([^`]+)` \| (.+) \| (.+) \| (.+) \|", line):
            listed.setdefault(group, set()).add(canonicalize_name(row[1]))
    assert listed == {group: found for group, found in required().items() if found}


def test_every_dependency_is_pinned_by_name_and_version_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!+]+", line)] == []
    assert set().union(*required().values()) <= {line.partition("==")[0] for line in pins}
