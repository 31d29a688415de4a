"""Takes changes of tickers from Prefect to the capture of a flow run, while it runs.

They wait at the server until they are asked for, on a thread of their own: the server may be slow
or gone, and what fails is counted and told, but never reaches the capture. Nothing sent meanwhile
is lost; it is taken over when the server is back.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from types import TracebackType
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

# A look makes clients of its own, TLS contexts and all: some 40 ms of CPU. A person waits longer
# for a page.
LOOK_EVERY_S = 5.0
# What the end of a capture waits for a look that is under way; then the thread is left behind.
STOP_WITHIN_S = 1.0


class TickerCommand(RunInput):
    """Other tickers for a capture that runs; see ``Handle.retarget``."""

    symbols: list[str]
    action: ChangeAction = "add"


class TickerCommands:
    """Hands what is sent to this flow run to ``handle``; made in the task that captures.

    One a run: another would be given everything again.
    """

    def __init__(self, handle: CaptureControl) -> None:
        self._handle = handle
        self._ended = threading.Event()
        # A daemon: it may hang in a request when the process is to end.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="stocktrace-steer", daemon=True
        )
        self.outage = ServerOutage(
            "Prefect cannot be asked for changes of tickers", "Prefect can be asked again"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        commands: GetInputHandler[TickerCommand] | None = None
        while not self._ended.is_set():
            try:
                if commands is None:
                    commands = receive_input(
                        TickerCommand,
                        flow_run_id=UUID(runtime.flow_run.id),
                        poll_interval=0,
                        timeout=0,
                    )
                while not self._ended.is_set() and (command := next(commands, None)):
                    self._handle.request_change(command.symbols, command.action, by="prefect")
            except (TickerError, ValidationError) as error:
                # It is marked as received, and does not come again.
                log.warning("a change of tickers from Prefect is none: %s", error)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the capture goes on
                self.outage.on_failure(error)
            else:
                self.outage.on_success()
            self._ended.wait(LOOK_EVERY_S)
