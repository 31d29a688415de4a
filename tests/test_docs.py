"""The documentation: commands, names, files and links in it exist, and the site builds."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cyclopts
import pytest

import stocktrace
from stocktrace.cli.commands import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
#: Words of the shell that end one command and begin another.
_BETWEEN = frozenset(["|", "||", "&", "&&", ";"])
_SHELL = ("", "sh")
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
#: Long enough for a busy machine, in seconds.
PATIENCE_S = 100


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it, or a block of code."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(page: Path) -> str:
    """Return the page without its blocks of code."""
    return _FENCE.sub("", text_of(page))


def blocks(*languages: str) -> Iterator[Shown]:
    for page in PAGES:
        for _, language, code in _FENCE.findall(text_of(page)):
            if language in languages:
                yield Shown(name_of(page), textwrap.dedent(code))


def commands() -> Iterator[tuple[Shown, list[str]]]:
    """Every command of the blocks, in words, without variables that are set before it."""
    for block in blocks(*_SHELL):
        for line in block.text.replace("\\\n", " ").splitlines():
            try:
                words = [*_lexer(line)]
            except ValueError:  # a quote that is not closed: a drawing, or prose
                words = line.split()
            for command in _parted(words):
                yield Shown(block.page, line.strip()), command


def _lexer(line: str) -> shlex.shlex:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    return lexer


def _parted(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in _BETWEEN:
            if command or not re.match(r"[A-Z_]+=", word):
                command.append(word)
        elif command:
            yield command
            command = []


def parsed(words: list[str]) -> str:
    """Return the error of the command line for these words; empty if they are valid."""
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return " ".join(str(error).split())
    return ""


def test_every_command_line_that_is_shown_is_valid() -> None:
    shown = [
        (where, words[1:]) for where, words in commands() if Path(words[0]).name == "stocktrace"
    ]
    assert len(shown) > 50
    refused = [f"{where}: {error}" for where, words in shown if (error := parsed(words))]
    assert refused == []


def test_every_command_that_prose_names_exists_with_its_flags() -> None:
    shown = [
        Shown(name_of(page), span)
        for page in PAGES
        for span in _SPAN.findall(prose_of(page))
        if span.startswith("stocktrace ") and "COMMAND" not in span
    ]
    assert len(shown) > 30
    refused = [
        f"{where}: {error}"
        for where in shown
        if (error := parsed(shlex.split(where.text)[1:])) and "requires an argument" not in error
    ]
    assert refused == []


def test_a_flag_that_is_not_there_would_be_found() -> None:
    assert "--untill" in parsed(["capture", "AAPL", "--untill", "close"])
    assert parsed(["captures", "AAPL"])


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    shown = [
        (str(where), word)
        for where, words in commands()
        if words[0] == "make"
        for word in words[1:]
        if "=" not in word
    ]
    assert shown
    assert [target for target in shown if target[1] not in targets] == []


def test_every_module_that_is_run_exists() -> None:
    shown = [
        (str(where), words[2])
        for where, words in commands()
        if Path(words[0]).name == "python" and words[1] == "-m"
    ]
    assert shown
    assert [module for module in shown if find_spec(module[1]) is None] == []


# --- Python ------------------------------------------------------------------------------------


def examples() -> list[tuple[Shown, ast.Module]]:
    return [(block, ast.parse(block.text)) for block in blocks("python")]


def test_every_python_example_compiles() -> None:
    assert examples()


def test_every_example_calls_public_names_with_their_arguments() -> None:
    wrong = []
    for block, tree in examples():
        for node in ast.walk(tree):
            match node:
                case ast.Call(ast.Attribute(ast.Name("stocktrace"), name), _, keywords):
                    if name not in stocktrace.__all__:
                        wrong.append(f"{block.page}: {name}")
                        continue
                    known = inspect.signature(getattr(stocktrace, name)).parameters
                    given = [keyword.arg for keyword in keywords if keyword.arg]
                    wrong += [f"{block.page}: {name}({k}=)" for k in given if k not in known]
    assert wrong == []


def test_the_reference_has_every_public_name() -> None:
    page = text_of(ROOT / "docs" / "reference" / "library.md")
    documented = re.findall(r"^::: stocktrace\.(\w+)$", page, re.MULTILINE)
    assert sorted([*documented, "__version__"]) == sorted(stocktrace.__all__)


def test_every_member_that_the_reference_names_exists() -> None:
    page = text_of(ROOT / "docs" / "reference" / "library.md")
    named = re.findall(
        r"^::: stocktrace\.(\w+)\n    options:\n +members: \[(.+)\]$", page, re.MULTILINE
    )
    assert named
    missing = [
        f"{name}.{member}"
        for name, members in named
        for member in members.split(", ")
        if not hasattr(getattr(stocktrace, name), member)
    ]
    assert missing == []


# --- files -------------------------------------------------------------------------------------

#: Where a path in a page may begin: here, in the package, or in the tests.
_BEGINNINGS = (ROOT, ROOT / "stocktrace", ROOT / "tests")
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*/[\w-]+\.(?:py|toml|ya?ml|json|service)")


def test_every_file_that_a_page_names_exists() -> None:
    named = [
        (name_of(page), span)
        for page in PAGES
        for span in _SPAN.findall(prose_of(page))
        if _FILE.fullmatch(span)
    ]
    assert len(named) > 50
    assert [
        f"{page}: {path}"
        for page, path in named
        if not any((beginning / path).is_file() for beginning in _BEGINNINGS)
    ] == []


def test_every_test_that_is_run_by_its_path_exists() -> None:
    paths = [
        (where.page, word)
        for where, words in commands()
        if "pytest" in words
        for word in words
        if word.endswith(".py")
    ]
    assert paths
    assert [path for path in paths if not (ROOT / path[1]).is_file()] == []


# --- links -------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The headings as GitHub and the site both call them."""
    plain = [re.sub(r"[^\w\- ]", "", h).strip().lower() for h in _HEADING.findall(prose_of(page))]
    return {name.replace(" ", "-") for name in plain if not re.search(r"[- ]{2}", name)}


def test_every_link_within_the_repository_leads_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in _LINK.findall(prose_of(page))]
    inner = [(page, link) for page, link in links if not re.match(r"\w+:", link)]
    assert len(inner) > 50
    broken = []
    for page, link in inner:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        known = target.is_relative_to(ROOT) and target.exists()
        if not known or (anchor and anchor not in anchors(target)):
            broken.append(f"{name_of(page)}: {link}")
    assert broken == []


# --- the site ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for needed in ("material", "mkdocstrings"):
        pytest.importorskip(needed, reason="the tools of `make docs` are not installed")
    # As `make docs` does: run as a module, mkdocs would be in the usage of our commands.
    mkdocs = Path(sys.executable).parent / "mkdocs"
    done = subprocess.run(
        [mkdocs, "build", "--site-dir", tmp_path / "site"], cwd=ROOT, check=False, text=True,
        capture_output=True, timeout=PATIENCE_S, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.name for path in (tmp_path / "site").rglob("*.html")}
    assert {page.with_suffix(".html").name for page in PAGES if "docs" in page.parts} <= pages
    library = (tmp_path / "site" / "reference" / "library.html").read_text(encoding="utf-8")
    assert all(f'id="stocktrace.{name}"' in library for name in ("capture", "scan", "Settings"))
    listed = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f'id="stocktrace-{name}"' in listed for name in ("capture", "tickers-add", "merge"))
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?://[^"> ]+)', library)
    assert loaded == []  # it opens offline
