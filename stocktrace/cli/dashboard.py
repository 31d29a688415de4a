"""``stocktrace dashboard``: the live page, in a process of its own."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.dashboard.server import PORT, bind_port, page_address

Port = Annotated[int, Parameter(help="Where on 127.0.0.1; 0: any free port.")]


def dashboard(*, port: Port = PORT, data_dir: DataDir = None) -> int:
    """Show sessions in the browser, running and finished ones, until Ctrl-C.

    Prints its address. It only reads the data folder, and only this machine can open the page.
    """
    layout = open_layout(data_dir)
    with bind_port(port) as listening:
        print(page_address(listening), flush=True)

        from stocktrace.dashboard.server import run_server

        run_server(layout, listening)
    return 0
