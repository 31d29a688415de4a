"""The live page beside a capture: a process that ends with it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.dashboard.server import PORT, bind_port, page_address
from stocktrace.errors import UsageError

if TYPE_CHECKING:
    from stocktrace.sessions.status import CaptureStatus

DashboardFlag = Annotated[
    bool,
    Parameter(name="--dashboard", negative="", help="Show a live page in the browser meanwhile."),
]

log = logging.getLogger(__name__)

# The page tells its viewers the last word in this time, or is gone without.
_GOODBYE_S = 5.0


@contextlib.contextmanager
def run_dashboard(data_dir: Path, *, wanted: bool) -> Iterator[Callable[[CaptureStatus], None]]:
    """A page of ``data_dir`` in a process of its own, which ends when we do, however we do.

    Gives what is to be called with each status: the first time it tells the address.
    """
    if not wanted:
        yield lambda _: None
        return
    try:
        listening = bind_port(PORT)
    except UsageError:  # another one is there: this one shows the same anywhere else
        listening = bind_port(0)
    with listening:
        command = [sys.executable, "-m", "stocktrace.dashboard.server"]
        page = subprocess.Popen(  # noqa: S603 - ourselves
            [*command, str(data_dir.absolute()), str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the capture; the page shows how that ends
        )
        where = page_address(listening)
    told: list[str] = []

    def tell(status: CaptureStatus) -> None:
        if not told:
            told.append(status.session)
            log.info("live page: %s?session=%s", where, status.session)

    try:
        yield tell
    finally:
        try:
            page.communicate(timeout=_GOODBYE_S)  # closes the pipe: that is the sign to end
        except subprocess.TimeoutExpired:
            page.kill()
            page.wait()
        if page.returncode:
            log.warning("the live page ended with status %d", page.returncode)
