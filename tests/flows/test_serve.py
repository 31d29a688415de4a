"""``python -m flows.serve``, and the units that keep it and the workers up."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flows import console, serve
from stocktrace.errors import StocktraceError, UsageError
from tests.station import ROOT

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def test_what_is_served_is_what_prefect_yaml_deploys() -> None:
    entries = serve.read_deployments(ROOT / "prefect.yaml")
    for name, entry in entries.items():
        made: Any = serve.make_deployment(entry)
        assert (made.name, made.entrypoint) == (name, entry["entrypoint"])
        assert (made.parameters, made.tags) == (entry.get("parameters", {}), entry["tags"])
        assert made.work_pool_name is None
        asked = entry.get("schedules", [])
        assert [
            (each.slug, each.schedule.cron, each.schedule.timezone, each.active)
            for each in made.schedules
        ] == [
            (each["slug"], each["cron"], each["timezone"], each.get("active", True))
            for each in asked
        ]
        if limit := entry.get("concurrency_limit"):
            assert made.concurrency_limit == limit["limit"]
            assert made.concurrency_options.collision_strategy.value == limit["collision_strategy"]
        assert len(made.triggers) == len(entry.get("triggers", []))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"cannot be read \(No such file or directory\): name the file with --file\."),
        ("a: [", "has no deployments"),
        ("deployments: 3", "has no deployments"),
        ("name: x", "has no deployments"),
    ],
)
def test_a_file_without_deployments_is_reported(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    file = tmp_path / "prefect.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        serve.read_deployments(file)


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_a_disk_that_fails_under_the_file_is_not_called_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(sys, "argv", ["flows.serve"])
    with pytest.raises(StocktraceError) as failed:
        serve.read_deployments(serve.FILE)
    assert not isinstance(failed.value, UsageError)
    with pytest.raises(SystemExit) as ended:
        console.run_script("flows.serve", serve.serve)
    assert ended.value.code == 1
    assert "cannot be read (Input/output error)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope"], r"has no deployment nope. It has: us-session, .*nightly"),
        ([], "Set PREFECT_API_URL to the address of a Prefect server"),
        (["--nope"], "--nope"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2_without_prefect(
    words: list[str], sentence: str
) -> None:
    code = (
        "import os, runpy, sys\n"
        "os.environ.pop('PREFECT_API_URL', None)\n"
        f"sys.argv = ['serve', *{words!r}, '--file', {str(ROOT / 'prefect.yaml')!r}]\n"
        "try:\n"
        "    runpy.run_module('flows.serve', run_name='__main__')\n"
        "finally:\n"
        "    assert 'prefect' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(r"stocktrace: [^\n]+\n", done.stderr), done.stderr
    assert re.search(sentence, done.stderr)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_the_units(unit: Path, tmp_path: Path) -> None:
    """With programs that are on this machine: it looks for them, too."""
    text = unit.read_text(encoding="utf-8")
    text = re.sub(r"^(ExecStart=)\S+", rf"\1{sys.executable}", text, flags=re.MULTILINE)
    copy = tmp_path / unit.name
    copy.write_text(text.replace("User=stocktrace\n", ""), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, told) == (0, []), done.stderr
