"""Ticker changes from Prefect for running captures: the flow that sends, the thread that asks.

Prefect's UI has no input for a run that is running, so the form of this flow is the form for ticker
changes. Commands wait at the server until the thread of a capture asks for them; its log, report
and coverage show the result. The server may be slow or unreachable: failures are counted and
logged, and never reach the capture. Commands sent in the meantime are applied when it is back.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from typing import Annotated, Any, Self
from uuid import UUID

from prefect import flow, get_client, runtime
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.input import RunInput, receive_input
from prefect.input.run_input import GetInputHandler
from prefect.states import Failed
from pydantic import Field, ValidationError

from flows.fields import CAPTURE_FLOW, Tickers
from flows.server_outage import ServerOutage
from stocktrace.errors import TickerError
from stocktrace.live.control import CaptureControl, ChangeAction
from stocktrace.trade import parse_tickers

log = logging.getLogger("stocktrace.flow")

# A poll makes its own clients with TLS contexts, about 40 ms of CPU.
POLL_INTERVAL_S = 5.0
# How long the end of a capture waits for a poll; then the thread is left behind.
STOP_TIMEOUT_S = 1.0
# The server's limit for one answer.
_PAGE = 200

RunName = Annotated[str, Field(min_length=1, examples=["AAPL MSFT · 30m"])]


class TickerCommand(RunInput):
    """A ticker change for a running capture; see ``CaptureControl.request_change``."""

    symbols: list[str]
    action: ChangeAction = "add"


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
        tickers = list(parse_tickers(symbols))
    except TickerError as error:
        return Failed(message=str(error))
    runs = [run for run in _running_captures() if flow_run in {None, run.name, str(run.id)}]
    if not runs:
        meant = "No capture runs" if flow_run is None else f"No capture {flow_run} runs"
        return Failed(message=f"{meant} under this Prefect server: nothing was sent.")
    for run in runs:
        TickerCommand(symbols=tickers, action=action).send_to(run.id)
    sent_to = {str(run.id): run.name for run in runs}
    return {"action": action, "symbols": tickers, "sent_to": sent_to}


def _running_captures() -> list[FlowRun]:
    """Return the flow runs that capture, the oldest first."""
    captures = FlowFilter.model_validate({"name": {"any_": [CAPTURE_FLOW]}})
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


class TickerCommands:
    """Passes the commands of this flow run to ``control``; made in the task that captures.

    One for each run: a second one would receive all commands again.
    """

    def __init__(self, control: CaptureControl) -> None:
        self._control = control
        self._ended = threading.Event()
        # A daemon: it may hang in a request when the process ends.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="stocktrace-commands", daemon=True
        )
        self.outage = ServerOutage("be asked for ticker changes")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        commands: GetInputHandler[TickerCommand] = receive_input(
            TickerCommand, flow_run_id=UUID(runtime.flow_run.id), poll_interval=0, timeout=0
        )
        while not self._ended.is_set():
            try:
                while not self._ended.is_set() and (command := next(commands, None)):
                    self._control.request_change(command.symbols, command.action, by="prefect")
            except (TickerError, ValidationError) as error:
                # Prefect has marked it as received, so it does not come again.
                log.warning("a ticker change from Prefect is not valid: %s", error)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the capture continues
                self.outage.on_failure(error)
            else:
                self.outage.on_success()
            self._ended.wait(POLL_INTERVAL_S)
