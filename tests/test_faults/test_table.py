"""docs/faults.md names the tests of each story: the table is complete, and every test exists."""

from __future__ import annotations

import ast
import difflib
import re
from pathlib import Path

from stocktrace.simulator.faults import FAULT_KINDS
from stocktrace.simulator.frames import malformed_frames

ROOT = Path(__file__).parents[2]
HERE = "tests/test_faults/"
PAGE = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
_NAME = re.compile(r"`([\w/.]+\.py)::(test_\w+)`")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def table() -> dict[int, set[tuple[str, str]]]:
    return {
        int(number): {
            (path if "/" in path else HERE + path, name) for path, name in _NAME.findall(tests)
        }
        for number, tests in _ROW.findall(PAGE)
    }


def test_each_story_is_in_the_table_once_and_has_a_test() -> None:
    numbers = [int(number) for number, _ in _ROW.findall(PAGE)]
    assert numbers == sorted(set(numbers))
    assert set(range(1, 46)) <= set(numbers)
    assert [number for number, tests in table().items() if not tests] == []


def test_every_test_in_the_table_exists() -> None:
    existing = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in functions(path)
    }
    named = {test for tests in table().values() for test in tests}
    assert [moved(test, existing) for test in sorted(named - existing)] == []


def moved(test: tuple[str, str], existing: set[tuple[str, str]]) -> str:
    """Name a missing test and the one that it may have become."""
    by_name = {name: path for path, name in existing}
    likely = difflib.get_close_matches(test[1], by_name, 1)
    place = f"{by_name[likely[0]]}::{likely[0]}" if likely else "none"
    return f"{'::'.join(test)} is missing; the nearest name: {place}"


def test_every_test_of_a_story_is_in_its_row() -> None:
    rows, numbers = table(), {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in functions(path):
            if match := re.match(r"test_(\d{2,3})_(?!mb_)", name):
                numbers[str(path.relative_to(ROOT)), name] = int(match[1])
    assert len(numbers) > 80
    missing = {test: number for test, number in numbers.items() if test not in rows[number]}
    assert missing == {}


def test_every_kind_of_fault_is_documented() -> None:
    kinds = re.findall(r"^\| `([\w.-]+)` \| .* \| .*\|$", PAGE, re.MULTILINE)
    assert [kind for kind in kinds if kind in FAULT_KINDS] == list(FAULT_KINDS)
    assert f"{len(malformed_frames())} frames that have crashed clients" in PAGE
