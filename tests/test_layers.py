"""The house: who may know whom, who may open which door, and where threads are made."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Ground modules, which everybody uses; each may know only others of them.
GROUND = {
    "_version", "calendar", "clock", "errors", "intervals", "latency", "settings", "text", "trade",
    "trade_columns", "units",
}  # fmt: skip

#: The house from the ground up: a module knows its own floor and those below.
FLOORS = (
    GROUND,
    {"end_time", "market_hours", "feed", "store"},
    {"query", "sessions", "simulator"},
    {"record"},
    {"live", "verify", "importing"},
    {"maintenance", "backfill", "show", "dashboard"},
    {"cli", "__main__"},
    {"flows"},
)

#: Third-party packages, and the only places that may import them.
DOORS = {
    "websocket": {"feed"},
    "httpx": {"feed.rest"},
    "websockets": {"simulator"},
    "msgspec": {
        "trade",
        "feed.protocol",
        "feed.bulk_decoder",
        "feed.rest",
        "sessions.report",
        "sessions.status",
        "record.coverage",
        "live.ticker_requests",
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
        "store", "query", "feed.bulk_decoder", "dashboard.rows", "dashboard.tail", "importing", "live.tuning",
        "backfill",
    },
    "pandas": {"store", "query", "backfill.matching", "cli.output", "calendar"},
    "polars": {"query.trades"},
    "numpy": {
        "store", "query", "trade_columns", "feed.bulk_decoder", "latency", "dashboard", "importing",
        "backfill",
    },
    "starlette": {"dashboard"},
    "uvicorn": {"dashboard"},
    "pydantic": {"settings", "cli.capture", "flows"},
    "pydantic_settings": {"settings"},
    "cyclopts": {"cli", "flows"},
    "exchange_calendars": {"calendar"},
    "rich": {"cli"},
    "prometheus_client": {"live.metrics", "live.metrics_server"},
    "prefect": {"flows"},
    "yaml": {"flows.serve"},
}  # fmt: skip

#: What makes a thread, and who may.
THREADS = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread", "ProcessPoolExecutor"}
THREAD_MAKERS = {
    "feed.client", "feed.handshake", "importing.jobs", "live.worker", "live.api",
    "live.metrics_server", "cli", "simulator", "flows", "store.outbox", "store.files",
}  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    """All modules of the house; ``store.tape`` for ``stocktrace/store/tape.py``."""
    found = {}
    for path in sorted([*ROOT.glob("stocktrace/**/*.py"), *ROOT.glob("flows/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[1:] if parts[0] == "stocktrace" else parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def is_script(node: ast.stmt) -> bool:
    """Whether ``node`` is ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def imports(tree: ast.Module) -> Iterator[str]:
    """What a module imports, in functions and for type checkers too; not what a script hands to."""
    for node in (each for top in tree.body if not is_script(top) for each in ast.walk(top)):
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
    found = set()
    for imported in imports(modules()[name]):
        package, _, rest = imported.partition(".")
        if package == "flows":
            rest = imported
        elif package != "stocktrace":
            continue
        while rest and rest not in modules():
            rest = rest.rpartition(".")[0]
        found.add(rest)
    return found - {"", name}  # "": the version


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


def test_no_module_knows_itself_in_a_circle() -> None:
    # An import that only a type checker sees is one too: whoever reads must follow it.
    order = list(
        graphlib.TopologicalSorter({name: ours(name) for name in modules()}).static_order()
    )
    assert set(order) >= set(modules()) - {""}


def test_feed_and_store_do_not_know_each_other() -> None:
    for name in modules():
        if within(name, {"feed"}):
            assert not [other for other in ours(name) if within(other, {"store"})], name
        if within(name, {"store"}):
            assert not [other for other in ours(name) if within(other, {"feed"})], name


def test_nothing_that_captures_knows_the_simulated_exchange() -> None:
    knowing = {
        name
        for name in modules()
        if not within(name, {"exchange"})
        and any(within(other, {"exchange"}) for other in ours(name))
    }
    assert all(within(name, {"cli", "flows"}) for name in knowing)


def test_the_exchange_knows_nothing_that_captures() -> None:
    for name in modules():
        if within(name, {"exchange"}):
            known = {other for other in ours(name) if not within(other, {"exchange"})}
            assert all(within(other, {*GROUND, "store.tape"}) for other in known), (name, known)


def test_each_package_of_others_has_its_doors() -> None:
    wrong = []
    for name, tree in modules().items():
        for imported in imports(tree):
            package = imported.partition(".")[0]
            if package in sys.stdlib_module_names or package in {"stocktrace", "flows"}:
                continue
            if not within(name, DOORS.get(package, set())):
                wrong.append(f"{name or '__init__'} imports {package}")
    assert not wrong


def test_flows_alone_know_prefect_and_hold_no_logic_of_the_store() -> None:
    for name in modules():
        if within(name, {"flows"}):
            assert "pyarrow" not in {
                imported.partition(".")[0] for imported in imports(modules()[name])
            }


def test_threads_are_made_in_few_places() -> None:
    wrong = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            for made in [called, *bases]:
                word = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")
                if word in THREADS and not within(name, THREAD_MAKERS):
                    wrong.append(f"{name}: {word}")
    assert not wrong


def test_the_command_line_alone_prints() -> None:
    printing = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert all(within(name, {"cli", "flows"}) for name in printing)


def test_no_module_sleeps() -> None:
    """Every wait asks a deadline or an event; ``sleep`` does neither.

    But where the system has no wait with a bound to offer, and between two reads of a busy
    connection: 10 ms, a hundred times a second.
    """
    sleeping = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and getattr(node.value, "id", "") == "time"
    }
    assert sleeping == {"store.lock", "feed.client"}
