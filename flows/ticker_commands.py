"""Ticker changes from Prefect for the capture of a flow run, while it runs.

Commands wait at the server until a thread asks for them. The server may be slow or unreachable:
failures are counted and logged, and never reach the capture. Commands sent in the meantime are
applied when the server is back.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from typing import Self
from uuid import UUID

from prefect import runtime
from prefect.input import RunInput, receive_input
from prefect.input.run_input import GetInputHandler
from pydantic import ValidationError

from flows.server_outage import ServerOutage
from stocktrace.errors import TickerError
from stocktrace.live.control import CaptureControl, ChangeAction

log = logging.getLogger("stocktrace.flow")

# A poll makes its own clients with TLS contexts, about 40 ms of CPU.
POLL_INTERVAL_S = 5.0
# How long the end of a capture waits for a poll; then the thread is left behind.
STOP_TIMEOUT_S = 1.0


class TickerCommand(RunInput):
    """A ticker change for a running capture; see ``CaptureControl.request_change``."""

    symbols: list[str]
    action: ChangeAction = "add"


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
