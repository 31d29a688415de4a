"""All commands, in groups. Each imports what it needs when it runs, so that ``--help`` is fast."""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import App, Group

from stocktrace._version import __version__
from stocktrace.cli import (
    backfill,
    capture,
    dashboard,
    importing,
    maintenance,
    merge,
    read,
    simulator,
    tickers,
    watch,
)
from stocktrace.cli.help import add_command, make_app

app = make_app(
    "stocktrace",
    "Record live market trades: every trade once, every gap recorded.\n\n"
    "`stocktrace COMMAND --help` shows the options and examples of a command. To try it without a "
    "key, run `stocktrace demo`.",
    version=__version__,
)
_GROUPS: dict[str, list[tuple[App | Callable[..., int], str]]] = {
    "Record": [
        (capture.capture, "TICKERS..."),
        (capture.demo, "[TICKERS...]"),
        (tickers.app, ""),
        (watch.watch, "[SESSION]"),
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
    ],
    "Other sources": [
        (importing.import_, "[SOURCES...]"),
        (merge.merge, "FIRST SECOND --into PATH"),
        (simulator.simulator, ""),
    ],
}
for _title, _commands in _GROUPS.items():
    _group = Group.create_ordered(_title)
    for _rank, (_command, _arguments) in enumerate(_commands):
        if isinstance(_command, App):
            _command.group, _command.sort_key = (_group,), _rank
            app.command(_command)
        else:
            add_command(app, _command, _arguments, group=_group, sort_key=_rank)
_OPTIONS = Group.create_ordered("Options")
app.register_install_completion_command(group=_OPTIONS, help="Install completion for this shell.")
for _flag, _text in {"--help": "Show this help.", "--version": "Show the version."}.items():
    app[_flag].group, app[_flag].help = (_OPTIONS,), _text
