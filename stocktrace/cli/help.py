"""How `--help` shows a command, and the parameters that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter
from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec, HelpEntry
    from rich.console import Console, ConsoleOptions

Tickers = Annotated[str, Parameter(help="Such as AAPL, BRK.B or BINANCE:BTCUSDT.")]
DryRun = Annotated[bool, Parameter(help="Say what would be done, and change nothing.")]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs to read.")]

# Fits --max-pending-rows-per-ticker N on one line, and leaves 42 of 80 columns for its text.
_NAME_WIDTH = 32


def make_app(name: str, help_text: str, **given: Any) -> App:
    """Return an app without commands, for ``add_command``."""
    return App(
        name=name,
        help=help_text,
        help_format="plaintext",
        help_formatter=DefaultFormatter(column_specs=_columns),
        group_parameters=Group.create_default_parameters("Options"),
        default_parameter=Parameter(negative="", show_default=_default_text),
        result_action="return_value",
        **given,
    )


def add_command(app: App, function: Callable[..., int], arguments: str = "", **given: Any) -> None:
    """Add ``function`` as a command of its name, called with ``arguments`` and options."""
    name = function.__name__.rstrip("_")
    words = ("stocktrace", *(app.name if app.name != ("stocktrace",) else ()), name, arguments)
    usage = " ".join([*filter(None, words), "[OPTIONS]"])
    app.command(function, name=name, help=_reflow(function), usage=usage, **given)


def _reflow(function: Callable[..., int]) -> str:
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(
        text if text.startswith(" ") else text.replace("\n", " ") for text in paragraphs
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
