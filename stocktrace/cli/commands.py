"""All commands, in groups. Each imports what it needs when it runs, so that ``--help`` is fast.

``--help`` shows a command's docstring: each paragraph as one line, lines that start with ``$`` as
examples, and ``Args`` beside the parameters.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from cyclopts import App, Group, Parameter
from cyclopts.help import DefaultFormatter

from stocktrace._version import __version__
from stocktrace.cli import (
    backfill,
    backup,
    capture,
    dashboard,
    importing,
    maintenance,
    read,
    simulator,
    tickers,
)

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec, HelpEntry
    from rich.console import Console, ConsoleOptions

# Fits --max-pending-rows-per-ticker N on one line, and leaves 42 of 80 columns for its text.
_NAME_WIDTH = 32

# A command with its arguments, as its usage shows them.
_Command: TypeAlias = tuple[App | Callable[..., int], str]


class _Formatter(DefaultFormatter):
    """The formatter of cyclopts, with the names of all parents in the usage."""

    def __init__(self, parent: str) -> None:
        super().__init__(column_specs=_columns)
        self._parent = parent

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Render the usage: a text of ``_add_commands``, or one that cyclopts made."""
        if isinstance(usage, str):
            usage = f"{self._parent} {usage}"
        super().render_usage(console, options, usage)


def _columns(
    console: Console, options: ConsoleOptions, entries: list[HelpEntry]
) -> tuple[ColumnSpec, ...]:
    from cyclopts.help.specs import NameRenderer, get_default_parameter_columns

    *before, names, text = get_default_parameter_columns(console, options, entries)
    wide = names.copy(renderer=NameRenderer(_NAME_WIDTH), max_width=_NAME_WIDTH)
    return (*before, wide, text)


def _default_text(default: object) -> Any:
    """Return a default as a user would write it; ``None`` if it need not be shown."""
    if default is None or default is False:
        return None
    return f"{default:g}" if isinstance(default, float) else str(default)


def _make_app(name: str, help_text: str, parent: str = "", **given: Any) -> App:
    return App(
        name=name,
        help=help_text,
        help_format="plaintext",
        help_formatter=_Formatter(f"{parent} {name}".strip()),
        group_parameters=Group.create_default_parameters("Options"),
        default_parameter=Parameter(negative="", show_default=_default_text),
        result_action="return_value",
        **given,
    )


def _add_commands(
    parent: App, commands: Iterable[_Command], group: Group | str = "Commands"
) -> None:
    for rank, (command, arguments) in enumerate(commands):
        if isinstance(command, App):
            command.group, command.sort_key = (group,), rank
            parent.command(command)
        else:
            name = command.__name__.rstrip("_")
            usage = " ".join(filter(None, (name, arguments, "[OPTIONS]")))
            text = _reflow(command)
            parent.command(command, name=name, help=text, usage=usage, group=group, sort_key=rank)


def _reflow(function: Callable[..., int]) -> str:
    text, _, _ = (inspect.getdoc(function) or "").partition("\n\nArgs:")
    return "\n\n".join(
        "For example:\n\n" + textwrap.indent(paragraph.replace("$ ", ""), "    ")
        if paragraph.startswith("$ ")
        else paragraph.replace("\n", " ")
        for paragraph in text.split("\n\n")
    )


app = _make_app(
    "stocktrace",
    "Record live market trades: every trade once, every gap recorded.\n\n"
    "`stocktrace COMMAND --help` shows the options and examples of a command. To try it without a "
    "key, run `stocktrace demo`.",
    version=__version__,
)
_TICKERS = _make_app(
    "tickers",
    "List or change the tickers of a running capture.\n\nFor example:\n\n"
    "    stocktrace tickers list\n    stocktrace tickers add NVDA",
    "stocktrace",
    version_flags=[],
)
_GROUPS: dict[str, list[_Command]] = {
    "Record": [
        (capture.capture, "TICKERS..."),
        (capture.demo, "[TICKERS...]"),
        (_TICKERS, ""),
        (capture.watch, "[SESSION]"),
        (dashboard.dashboard, ""),
    ],
    "Read": [
        (read.trades, "TICKERS..."),
        (read.bars, "TICKERS..."),
        (read.gaps, "[TICKERS...]"),
        (read.sessions, ""),
        (read.report, "SESSION"),
    ],
    "Check": [
        (maintenance.verify, "[SESSIONS...]"),
        (maintenance.audit, ""),
        (backfill.reconcile, ""),
    ],
    "Repair and maintain": [
        (maintenance.recover, ""),
        (backfill.backfill, ""),
        (maintenance.convert, ""),
        (maintenance.compact, ""),
        (maintenance.requeue, "FILE"),
        (backup.backup, "DESTINATION"),
        (backup.restore, "SOURCE"),
    ],
    "Other sources": [
        (importing.import_, "[SOURCES...]"),
        (importing.merge, "FIRST SECOND --into PATH"),
        (simulator.simulator, ""),
    ],
}
for _title, _commands in _GROUPS.items():
    _add_commands(app, _commands, Group.create_ordered(_title))
_add_commands(
    _TICKERS,
    [
        (tickers.list_, ""),
        (tickers.add, "TICKERS..."),
        (tickers.remove, "TICKERS..."),
        (tickers.set_, "TICKERS..."),
    ],
)
_OPTIONS = Group.create_ordered("Options")
app.register_install_completion_command(group=_OPTIONS, help="Install completion for this shell.")
for _flag, _text in {"--help": "Show this help.", "--version": "Show the version."}.items():
    app[_flag].group, app[_flag].help = (_OPTIONS,), _text
