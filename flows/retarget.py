"""Ticker changes for running captures, as a flow: its form in Prefect's UI is the form for them.

Prefect's UI has no input for a run that is running. This flow sends the change to each capture,
whose log, report and coverage show the result.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_client, runtime
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Failed
from pydantic import Field

from flows.capture import capture
from flows.fields import Tickers
from flows.ticker_commands import TickerCommand
from stocktrace.errors import TickerError
from stocktrace.live.control import ChangeAction
from stocktrace.trade import parse_tickers

# The server's limit for one answer.
_PAGE = 200

RunName = Annotated[str, Field(min_length=1, examples=["AAPL MSFT · 30m"])]


def run_name() -> str:
    """Return ``add TSLA NVDA``; an exception would fail the run."""
    parameters = runtime.flow_run.parameters or {}
    return " ".join(map(str, [parameters.get("action"), *(parameters.get("symbols") or ())]))


@flow(name="stocktrace-retarget", flow_run_name=run_name, persist_result=False)
def retarget(
    symbols: Tickers, action: ChangeAction = "add", flow_run: RunName | None = None
) -> dict[str, Any] | State[Any]:
    """Change the tickers of captures while they run.

    Args:
        symbols: Finnhub symbols, such as AAPL, BINANCE:BTCUSDT or OANDA:EUR_USD.
        action: add to the captured tickers, remove from them, or set: capture these and no
            others.
        flow_run: The name or the id of one capture's flow run. Leave it out for all that run.

    Returns:
        The change, and the names and ids of the runs that it was sent to.
    """
    try:
        tickers = parse_tickers(symbols)
    except TickerError as error:
        return Failed(message=str(error))
    runs = [run for run in _running_captures() if flow_run in {None, run.name, str(run.id)}]
    if not runs:
        meant = "No capture runs" if flow_run is None else f"No capture {flow_run} runs"
        return Failed(message=f"{meant} under this Prefect server: nothing was sent.")
    for run in runs:
        TickerCommand(symbols=list(tickers), action=action).send_to(run.id)
    return {
        "action": action,
        "symbols": list(tickers),
        "sent_to": {str(run.id): run.name for run in runs},
    }


def _running_captures() -> list[FlowRun]:
    """Return the flow runs that capture, the oldest first."""
    captures = FlowFilter.model_validate({"name": {"any_": [capture.name]}})
    running = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    runs: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_flow_runs(
                flow_filter=captures, flow_run_filter=running, limit=_PAGE, offset=len(runs)
            )
            runs += page
            if len(page) < _PAGE:
                return sorted(runs, key=lambda run: str(run.start_time))
