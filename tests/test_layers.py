"""The house: which module may import which, and where threads are made."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Ground modules, for everybody; they import only one another.
GROUND = {
    "_version", "addresses", "calendar", "clock", "errors", "intervals", "latency", "marks",
    "settings", "text", "trade", "trade_columns", "units",
}  # fmt: skip

#: The floors from the ground up: a module imports from its own floor and from those below.
FLOORS = (
    GROUND,
    {"end_time", "feed", "store"},
    {"query", "sessions", "simulator"},
    {"record"},
    {"live", "verify", "importing"},
    {"maintenance", "backfill", "show", "dashboard"},
    {"cli", "__main__"},
    {"flows"},
)

#: Third-party packages, and the only places that may import them.
IMPORTERS = {
    "websocket": {"feed"},
    "httpx": {"feed.rest"},
    "websockets": {"simulator"},
    "trustme": {"simulator.tls"},
    "msgspec": {
        "trade",
        "marks",
        "feed.protocol",
        "feed.bulk_decoder",
        "feed.rest",
        "sessions.catalog",
        "sessions.report",
        "sessions.status",
        "live.key_lock",
        "live.ticker_changes",
        "query.export",
        "dashboard",
        "cli",
        "simulator",
        "flows",
    },
    "jinja2": {"show.page"},
    "pandera": {"store.validation"},
    "zstandard": {"store.tape"},
    "pyarrow": {
        "store", "query", "feed.bulk_decoder", "dashboard.rows", "dashboard.tail", "importing",
        "live.api", "backfill",
    },
    "pandas": {"store", "query", "backfill.matching", "cli.output", "calendar"},
    "polars": {"query.trades"},
    "numpy": {
        "store", "query", "trade_columns", "feed.bulk_decoder", "latency", "dashboard", "importing",
        "backfill", "record.feed_lag",
    },
    "starlette": {"dashboard"},
    "uvicorn": {"dashboard"},
    "pydantic": {"settings", "cli.capture", "flows"},
    "pydantic_settings": {"settings"},
    "cyclopts": {"cli", "flows"},
    "exchange_calendars": {"calendar"},
    "rich": {"cli"},
    "prometheus_client": {"live.metrics"},
    "prefect": {"flows"},
    "yaml": {"flows.serve"},
}  # fmt: skip

#: The calls that start a thread or a process, and where they are allowed.
THREADS = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread", "ProcessPoolExecutor"}
THREAD_STARTERS = {
    "feed.client", "feed.handshake", "importing.jobs", "live.session", "live.api",
    "live.metrics", "cli", "simulator", "flows", "store.outbox", "store.files", "store.segments",
    "maintenance.backup",
}  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    """All modules; ``store.tape`` for ``stocktrace/store/tape.py``."""
    trees = {}
    for path in sorted([*ROOT.glob("stocktrace/**/*.py"), *ROOT.glob("flows/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[1:] if parts[0] == "stocktrace" else parts
        name = ".".join(part for part in parts if part != "__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


def is_script(node: ast.stmt) -> bool:
    """Check for ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def imports(tree: ast.Module) -> Iterator[str]:
    """The imports of a module, in functions and for type checkers too; not those of a script."""
    for node in (node for top in tree.body if not is_script(top) for node in ast.walk(top)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@cache
def ours(name: str) -> set[str]:
    """The modules of ours that ``name`` imports."""
    known = set()
    for imported in imports(modules()[name]):
        package, _, rest = imported.partition(".")
        if package == "flows":
            rest = imported
        elif package != "stocktrace":
            continue
        while rest and rest not in modules():
            rest = rest.rpartition(".")[0]
        known.add(rest)
    return known - {"", name}  # "": the version


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def floor(name: str) -> int:
    return next(number for number, places in enumerate(FLOORS) if within(name, places))


def test_imports_go_strictly_down() -> None:
    upward = [
        f"{name} imports {other}"
        for name in modules()
        if name
        for other in ours(name)
        if floor(other) > floor(name)
    ]
    assert not upward


def test_every_module_that_is_named_here_exists() -> None:
    named = set().union(*FLOORS, *IMPORTERS.values(), THREAD_STARTERS)
    assert [
        name for name in sorted(named) if not any(within(module, {name}) for module in modules())
    ] == []


def test_the_picture_for_contributors_has_these_floors() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = page.partition("## The map")[2].split("```")[1].strip()
    rows = [set(re.split(r" {3,}", line)[0].split()) - {"…"} for line in picture.splitlines()]
    *floors, ground = reversed([floor - {"__main__"} for floor in FLOORS])
    assert rows[:-1] == floors
    assert rows[-1] < ground


def test_no_imports_form_a_circle() -> None:
    # An import that only a type checker sees counts, too: a reader must follow it.
    order = list(
        graphlib.TopologicalSorter({name: ours(name) for name in modules()}).static_order()
    )
    assert set(order) >= set(modules()) - {""}


def test_feed_and_store_do_not_import_each_other() -> None:
    for name in modules():
        if within(name, {"feed"}):
            assert not [other for other in ours(name) if within(other, {"store"})], name
        if within(name, {"store"}):
            assert not [other for other in ours(name) if within(other, {"feed"})], name


def test_nothing_that_captures_imports_the_simulator() -> None:
    knowing = {
        name
        for name in modules()
        if not within(name, {"simulator"})
        and any(within(other, {"simulator"}) for other in ours(name))
    }
    assert all(within(name, {"cli", "flows"}) for name in knowing)


def test_the_simulator_imports_nothing_that_captures() -> None:
    for name in modules():
        if within(name, {"simulator"}):
            known = {other for other in ours(name) if not within(other, {"simulator"})}
            assert all(within(other, {*GROUND, "store.tape"}) for other in known), (name, known)


def test_third_party_packages_are_imported_in_few_places() -> None:
    wrong = []
    for name, tree in modules().items():
        for imported in imports(tree):
            package = imported.partition(".")[0]
            if package in sys.stdlib_module_names or package in {"stocktrace", "flows"}:
                continue
            if not within(name, IMPORTERS.get(package, set())):
                wrong.append(f"{name or '__init__'} imports {package}")
    assert not wrong


def test_flows_do_not_import_pyarrow() -> None:
    for name in modules():
        if within(name, {"flows"}):
            assert "pyarrow" not in {
                imported.partition(".")[0] for imported in imports(modules()[name])
            }


def test_threads_are_started_in_few_places() -> None:
    wrong = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            for made in [called, *bases]:
                word = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")
                if word in THREADS and not within(name, THREAD_STARTERS):
                    wrong.append(f"{name}: {word}")
    assert not wrong


def test_only_the_command_line_and_flows_print() -> None:
    printing = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert all(within(name, {"cli", "flows"}) for name in printing)


def test_no_module_sleeps() -> None:
    """Every wait asks a deadline or an event; ``sleep`` does neither.

    Exceptions: where the system has no wait with a time limit, between two reads of a busy
    connection (10 ms, a hundred times a second), and while others may list a folder that was
    replaced (some seconds, at the end of a compaction).
    """
    sleeping = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and getattr(node.value, "id", "") == "time"
    }
    assert sleeping == {"store.lock", "store.compaction", "feed.client", "sessions.catalog"}
