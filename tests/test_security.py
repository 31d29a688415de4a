"""The promises of SECURITY.md about foreign input: names, files, requests, and our own code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flows
from stocktrace import cli
from stocktrace.errors import StoreError, UsageError
from stocktrace.query.trades import read_trades
from stocktrace.simulator import ScriptedSource
from stocktrace.store import lock
from tests import remains
from tests.conftest import SESSION, Studio, brief, connected, frame, tree

ROOT = Path(__file__).parents[1]
ESCAPE = "\x1b[2J\x1b]0;taken\x07"
#: Control characters that a terminal would obey; a line feed is harmless.
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


# --- our own code ------------------------------------------------------------------------------

FORBIDDEN_MODULES = {"cloudpickle", "code", "codeop", "dill", "marshal", "pickle", "pty", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "tempfile.mktemp", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip


def forbidden(source: str) -> Iterator[str]:
    """Yield calls in ``source`` that can run text as code, or pass it to a shell."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = {name.name.partition(".")[0] for name in names}
                yield from sorted(found & FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)):
                yield from sorted({module.partition(".")[0]} & FORBIDDEN_MODULES)
            case ast.Call(func=func, keywords=keywords):
                yield from sorted({ast.unparse(func)} & FORBIDDEN_CALLS)
                if any(ast.unparse(one) in {"shell=True", "allow_pickle=True"} for one in keywords):
                    yield ast.unparse(node)


@pytest.mark.parametrize("folder", ["stocktrace", "flows"])
def test_no_module_runs_text_as_code_or_calls_a_shell(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): list(forbidden(path.read_text(encoding="utf-8")))
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(found) > 10
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "os.system('ls')",
        "yaml.load(text)",
        "subprocess.run('ls', shell=True)",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_forbidden_calls_would_be_found(source: str) -> None:
    assert list(forbidden(source))


def test_no_page_treats_text_as_markup_or_code() -> None:
    ours = [
        *(ROOT / "stocktrace" / "show" / "templates").iterdir(),
        *(ROOT / "stocktrace" / "dashboard" / "static").glob("*.[jh][st]*"),
    ]
    taking = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\|\s*safe\b"
        r"|Markup\(|autoescape false"
    )
    found = {
        path.name: taking.findall(path.read_text(encoding="utf-8"))
        for path in ours
        if not path.name.startswith("lightweight-charts")
    }
    assert {"app.js", "index.html", "session.html", "session.js"} <= found.keys()
    assert {name: words for name, words in found.items() if words} == {
        # The picture and the library: both are ours, and the picture escapes what it is given.
        "session.html": ["| safe"] * 2,
    }


def test_no_flow_and_no_task_leaves_a_result_behind() -> None:
    """Prefect keeps results as pickles, and a setting of the user's would turn that on."""
    from prefect import Flow, Task

    kept = {
        f"{module.name}.{name}": one.persist_result
        for module in pkgutil.iter_modules(flows.__path__)
        for name, one in vars(importlib.import_module(f"flows.{module.name}")).items()
        if isinstance(one, (Flow, Task))
    }
    assert len(kept) >= 10
    assert {name: keeps for name, keeps in kept.items() if keeps is not False} == {}


def test_a_deployment_file_cannot_create_objects(
    tmp_path: Path,
) -> None:
    from flows.serve import read_deployments

    file = tmp_path / "prefect.yaml"
    file.write_text("deployments: !!python/object/apply:os.system ['touch taken']")
    with pytest.raises(UsageError, match="has no deployments"):
        read_deployments(file)
    assert not Path("taken").exists()


# --- names that lead elsewhere -----------------------------------------------------------------

ELSEWHERE = ["..", "../../outside", "/etc/passwd", f"../sessions/{SESSION}", f"{SESSION}/../x", "*"]
COMMANDS = {
    "report": ["report", "{}"],
    "watch": ["watch", "{}", "--progress", "none"],
    "verify": ["verify", "{}"],
    "tickers list": ["tickers", "list", "--session", "{}"],
    "tickers add": ["tickers", "add", "AAPL", "--wait", "1s", "--session", "{}"],
}


def files(folder: Path) -> list[str]:
    return [name for name in tree(folder) if not name.endswith(".lock")]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_session_name_that_leads_elsewhere_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    layout = remains.dead(tmp_path / "data")
    # What the name would lead to, were it taken for a path.
    (tmp_path / "outside.json").write_bytes(layout.report(SESSION).read_bytes())
    before, here = files(tmp_path), tree(Path.cwd())
    words = [word.format(name) for word in COMMANDS[command]]
    assert cli.run([*words, "--data-dir", str(layout.root)]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stocktrace: ")
    assert err.count("\n") == 1
    assert (files(tmp_path), tree(Path.cwd())) == (before, here)


@pytest.mark.parametrize("ticker", ["../../outside", "..", "/etc/passwd", "CON", "a/../../b"])
def test_a_ticker_that_looks_like_a_path_is_recorded_and_stays_within(
    studio: Studio, tmp_path: Path, ticker: str
) -> None:
    def scenario() -> Iterator[Callable[..., bool]]:
        yield connected
        exchange.send_raw(frame((ticker, 1.5)))
        yield lambda status: status.trades == 1

    with studio.exchange() as exchange:
        report = studio.record(exchange, [ticker], scenario())  # type: ignore[arg-type]
    assert report.balanced
    assert report.books.recorded == 1
    assert list(read_trades(ticker, data_dir=studio.data_dir)["price"]) == [1.5]
    within = {f"data/{name}" for name in studio.files()}
    assert {name for name in tree(tmp_path) if not name.startswith(".tmp/")} == within


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """A user who can write to /tmp could otherwise make us overwrite a file of ours."""
    victim, path = tmp_path / "victim", tmp_path / "stocktrace.lock"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(StoreError, match="is a link: delete it"), lock.hold_lock(path, {}):
        pass
    assert victim.read_text() == "precious"


# --- texts that would control a terminal ---------------------------------------------------------


def test_server_text_does_not_control_the_terminal(
    studio: Studio, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", studio.key)
    error = json.dumps({"type": "error", "msg": f"no {ESCAPE}"}).encode()
    with studio.exchange(ScriptedSource([(0, error)])) as exchange:
        words = ["--url", exchange.url, "--data-dir", str(studio.data_dir), "--min-free-space", "0"]
        cli.run(["capture", "AAPL", "--for", "1s", *words])
    said = "".join(capsys.readouterr())
    assert "taken" in said
    assert not STEERING.search(said)


def test_a_file_name_does_not_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = remains.dead(tmp_path / "data")
    stranger = layout.dataset / "date=2026-11-23" / f"{ESCAPE}.parquet"
    stranger.parent.mkdir(parents=True, exist_ok=True)
    stranger.touch()
    assert cli.run(["verify", "--data-dir", str(layout.root)]) == 1
    out, err = capsys.readouterr()
    assert "taken" in out
    assert not STEERING.search(out + err)


# --- other users of the machine ----------------------------------------------------------------


def test_the_umask_decides_who_can_read_the_files_of_a_capture(
    studio: Studio, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        with studio.exchange() as exchange:
            studio.record(exchange, scenario=brief())
    finally:
        os.umask(before)
    open_to_others = [
        str(path.relative_to(tmp_path))
        for path in studio.data_dir.rglob("*")
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []
