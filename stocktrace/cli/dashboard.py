"""The live page: ``stocktrace dashboard``, and a page beside a capture."""

from __future__ import annotations

import contextlib
import functools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stocktrace.cli.parameters import DataDir, open_layout
from stocktrace.dashboard.server import PORT, bind_port, page_address, run_server
from stocktrace.errors import UsageError

DashboardFlag = Annotated[
    bool, Parameter(name="--dashboard", help="Show a live page in the browser while it runs.")
]

log = logging.getLogger(__name__)

# The page has this long to show its viewers the end of the capture.
_GOODBYE_S = 5.0


def dashboard(
    *, port: Annotated[int, Parameter(metavar="PORT")] = PORT, data_dir: DataDir = None
) -> int:
    """Show running and finished sessions in the browser.

    Prints the address of the page, which only this machine can open. It reads the data folder and
    changes nothing. Press Ctrl-C to stop.

    $ stocktrace dashboard
    $ stocktrace dashboard --port 0 --data-dir /srv/trades

    Args:
        port: Port on 127.0.0.1; 0 picks any free port.
    """
    layout = open_layout(data_dir)
    with bind_port(port) as listener:
        print(page_address(listener), flush=True)
        run_server(layout, listener)
    return 0


@contextlib.contextmanager
def run_dashboard(data_dir: Path, *, wanted: bool) -> Iterator[Callable[[str], None]]:
    """Run a page of ``data_dir`` in a process that ends with this one, however this one ends.

    Yields a function that logs the address for a session, once.
    """
    if not wanted:
        yield lambda _: None
        return
    try:
        listener = bind_port(PORT)
    except UsageError:  # another page uses the port
        listener = bind_port(0)
    with listener:
        command = [sys.executable, "-m", "stocktrace.dashboard.server"]
        server = subprocess.Popen(  # noqa: S603 - our own module
            [*command, str(data_dir.absolute()), str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the capture; the page shows how it ends
        )
        address = page_address(listener)

    @functools.cache
    def log_address(session: str) -> None:
        log.info("live page: %s?session=%s", address, session)

    try:
        yield log_address
    finally:
        try:
            server.communicate(timeout=_GOODBYE_S)  # closes the pipe, which asks it to end
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.returncode:
            log.warning("The live page ended with status %d.", server.returncode)
