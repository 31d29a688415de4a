"""`--help` of every command, as a person reads it in a terminal of 80 columns."""

from __future__ import annotations

import inspect
import io
import itertools
import re
import shlex
from collections.abc import Iterator

import cyclopts
import pytest
from rich.console import Console

from stocktrace.cli.commands import app
from stocktrace.settings import Settings
from tests.test_docs import parsed

WIDTH = 80


def all_commands(parent: cyclopts.App, *words: str) -> Iterator[tuple[str, ...]]:
    for name in parent:
        if not name.startswith("-"):
            yield (*words, name)
            yield from all_commands(parent[name], *words, name)


COMMANDS = list(all_commands(app))


def help_of(*words: str) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=False)
    app.help_print(words, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def prose_of(text: str) -> list[str]:
    """The paragraphs between the usage and the first panel."""
    return text.partition("╭")[0].strip().split("\n\n")[1:]


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_reads_well_in_80_columns(words: tuple[str, ...]) -> None:
    text = help_of(*words)
    assert max(map(len, text.splitlines())) <= WIDTH
    for raw in ("``", "[ARGS", "[default: False]", "[default: None]"):
        assert raw not in text
    assert re.findall(r"\b(STR|INT|FLOAT)\b", text) == []


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_breaks_a_line_only_where_the_next_word_does_not_fit(words: tuple[str, ...]) -> None:
    for paragraph in prose_of(help_of(*words)):
        lines = paragraph.splitlines()
        for line, following in itertools.pairwise(lines):
            if not following.startswith(" "):
                assert len(line.rstrip()) + 1 + len(following.split()[0]) > WIDTH, paragraph


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_it_accepts(words: tuple[str, ...]) -> None:
    *_, title, examples = prose_of(help_of(*words))
    assert title == "For example:"
    lines = [shlex.split(line) for line in examples.splitlines()]
    assert 2 <= len(lines) <= 3
    for line in lines:
        assert line[: 1 + len(words)] == ["stocktrace", *words]
        assert parsed(line[1:]) == "", line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_usage_names_every_argument_of_the_command(words: tuple[str, ...]) -> None:
    usage = help_of(*words).splitlines()[0]
    assert usage.startswith(f"Usage: stocktrace {' '.join(words)}")
    command = app
    for word in words:
        command = command[word]
    if command.default_command is None:
        return
    arguments = [
        name.upper() + "..." * (parameter.kind is parameter.VAR_POSITIONAL)
        for name, parameter in inspect.signature(command.default_command).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    named = usage.removeprefix(f"Usage: stocktrace {' '.join(words)}").split("--")[0]
    assert [word.strip("[]") for word in named.removesuffix("[OPTIONS]").split()] == arguments


def test_defaults_are_shown_as_a_person_writes_them() -> None:
    text = " ".join(help_of("capture").replace("│", " ").split())
    for shown in ("UTC day. [default: 10m]", "size. [default: 128MB]", "[default: forever]"):
        assert shown in text
    assert "[default: 300]" in help_of("simulator")


def test_every_setting_but_the_key_is_a_flag_of_a_capture() -> None:
    flags = set(re.findall(r"^│ +(--[a-z-]+)", help_of("capture"), re.MULTILINE))
    names = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    assert names - flags == {"--finnhub-api-key"}, "a key on a command line can be seen"
    assert {"--for", "--until"} <= flags
