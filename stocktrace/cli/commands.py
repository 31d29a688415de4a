"""All commands; each loads what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import cyclopts

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

app = cyclopts.App(
    name="stocktrace",
    help="Record live market trades: every trade once, every gap named.",
    help_format="plaintext",
    version=__version__,
    result_action="return_value",
)
for _command in (
    capture.capture,
    capture.demo,
    simulator.simulator,
    watch.watch,
    dashboard.dashboard,
    read.trades,
    read.bars,
    read.gaps,
    read.sessions,
    read.report,
    backfill.backfill,
    merge.merge,
    backfill.reconcile,
    maintenance.convert,
    maintenance.recover,
    maintenance.compact,
    maintenance.verify,
    maintenance.requeue,
    maintenance.audit,
):
    app.command(_command)
app.command(importing.import_, name="import")
app.command(tickers.app)
app.register_install_completion_command()
