"""How `--help` shows a command, and the parameters that several commands share.

It shows the docstring: each paragraph as one line, lines that start with ``$`` as examples, and
``Args`` beside the parameters.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter
from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec, HelpEntry
    from rich.console import Console, ConsoleOptions

# The values of parameters, as `--help` calls them.
Date = Annotated[str, Parameter(metavar="DATE")]
Duration = Annotated[str, Parameter(metavar="DURATION")]
Integer = Annotated[int, Parameter(metavar="N")]
SessionId = Annotated[str, Parameter(metavar="SESSION")]
Time = Annotated[str, Parameter(metavar="TIME")]
Url = Annotated[str, Parameter(metavar="URL")]

Tickers = Annotated[str, Parameter(help="Such as AAPL, BRK.B or BINANCE:BTCUSDT.")]
DryRun = Annotated[bool, Parameter(help="Say what would be done, and change nothing.")]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs to read.")]

# Fits --max-pending-rows-per-ticker N on one line, and leaves 42 of 80 columns for its text.
_NAME_WIDTH = 32


def make_app(name: str, help_text: str, parent: str = "", **given: Any) -> App:
    """Return an app without commands, which is itself a command of ``parent``."""
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


def add_command(app: App, function: Callable[..., int], arguments: str = "", **given: Any) -> None:
    """Add ``function`` as a command of its name, called with ``arguments`` and options."""
    name = function.__name__.rstrip("_")
    usage = " ".join(filter(None, (name, arguments, "[OPTIONS]")))
    app.command(function, name=name, help=_reflow(function), usage=usage, **given)


class _Formatter(DefaultFormatter):
    """The formatter of cyclopts, with the names of all parents in the usage."""

    def __init__(self, parent: str) -> None:
        super().__init__(column_specs=_columns)
        self._parent = parent

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Render the usage: a text of ``add_command``, or one that cyclopts made."""
        if isinstance(usage, str):
            usage = f"{self._parent} {usage}"
        super().render_usage(console, options, usage)


def _reflow(function: Callable[..., int]) -> str:
    text, _, _ = (inspect.getdoc(function) or "").partition("\n\nArgs:")
    return "\n\n".join(
        "For example:\n\n" + textwrap.indent(paragraph.replace("$ ", ""), "    ")
        if paragraph.startswith("$ ")
        else paragraph.replace("\n", " ")
        for paragraph in text.split("\n\n")
    )


def _default_text(default: object) -> Any:
    """Return a default as a user would write it; ``None`` if it need not be shown."""
    if default is None or default is False:
        return None
    return f"{default:g}" if isinstance(default, float) else str(default)


def _columns(
    console: Console, options: ConsoleOptions, entries: list[HelpEntry]
) -> tuple[ColumnSpec, ...]:
    from cyclopts.help.specs import NameRenderer, get_default_parameter_columns

    *before, names, text = get_default_parameter_columns(console, options, entries)
    wide = names.copy(renderer=NameRenderer(_NAME_WIDTH), max_width=_NAME_WIDTH)
    return (*before, wide, text)
