"""``python -m flows.demo``: a capture under Prefect for newcomers, without a key or a network.

It records a simulator on this machine with a real flow run against Prefect's embedded server, and
prints what is on disk. ``stocktrace demo`` does the same without Prefect.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows import console
from flows.command import print_report
from stocktrace.cli import output
from stocktrace.cli.capture import DEMO_KEY, DEMO_TICKERS, demo_simulator, print_last_trades
from stocktrace.cli.progress import ProgressLines, until_it_fails
from stocktrace.units import parse_duration

# Half a minute shows two windows that are rolled and converted during the capture.
ROLL_INTERVAL = "10s"
PROGRESS_INTERVAL_S = 5.0


def main(
    *,
    for_: Annotated[str, Parameter(name="--for", help="How long: 30s, 10m.")] = "30s",
    data_dir: Annotated[Path, Parameter(help="Folder for recorded data.")] = Path("data/demo"),
) -> int:
    """Record a simulator as a Prefect flow run, and print the result."""
    parse_duration(for_)
    os.environ["FINNHUB_API_KEY"] = DEMO_KEY
    logging.getLogger("stocktrace").setLevel(logging.INFO)
    output.to_stdout(f"Recording a simulator for {for_} as a Prefect flow run into {data_dir}.\n")
    if "PREFECT_API_URL" not in os.environ:
        output.to_stdout("Prefect starts a server of its own, which takes up to a minute ...\n")
    sys.stdout.flush()

    from flows.capture import capture
    from flows.progress import STATUS_LISTENERS

    STATUS_LISTENERS.append(until_it_fails(ProgressLines(PROGRESS_INTERVAL_S)))
    with demo_simulator() as url:
        state = capture(
            list(DEMO_TICKERS),
            for_,
            data_dir=str(data_dir),
            url=url,
            roll_interval=ROLL_INTERVAL,
            return_state=True,
        )
    if not state.is_completed():
        output.print_error(state.message or str(state.type))
        return 1
    result = state.result()
    session = result["session"] if isinstance(result, dict) else ""
    output.to_stdout("\n")
    print_report(data_dir, session)
    print_last_trades(DEMO_TICKERS[0], data_dir)
    return 0


if __name__ == "__main__":
    console.run_script("flows.demo", main)
