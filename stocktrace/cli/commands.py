"""All commands; each loads what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import cyclopts

from stocktrace import __version__
from stocktrace.cli import (
    backfill,
    capturing,
    dashboard,
    data,
    exchange,
    merge,
    repair,
    report,
    tickers,
    upkeep,
    watch,
)

app = cyclopts.App(
    name="stocktrace",
    help="Record live market trades: every trade once, every gap named.",
    help_format="plaintext",
    version=__version__,
    result_action="return_value",
)
for _command in (
    capturing.capture,
    capturing.demo,
    exchange.exchange,
    watch.watch,
    dashboard.dashboard,
    data.trades,
    data.bars,
    data.gaps,
    data.sessions,
    report.report,
    backfill.backfill,
    merge.merge,
    repair.reconcile,
    upkeep.convert,
    upkeep.recover,
    upkeep.compact,
    upkeep.verify,
    upkeep.requeue,
    upkeep.audit,
):
    app.command(_command)
app.command(tickers.app)
app.register_install_completion_command()
