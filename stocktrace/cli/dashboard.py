"""``stocktrace dashboard``: the live page, in a process of its own."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from stocktrace.cli.folder import DataDir, layout_of
from stocktrace.dashboard.address import PORT, address, bind

Port = Annotated[int, Parameter(help="Where on 127.0.0.1; 0: any free port.")]


def dashboard(*, port: Port = PORT, data_dir: DataDir = None) -> int:
    """Show sessions in the browser, running and finished ones, until Ctrl-C.

    Prints its address. It only reads the data folder, and only this machine can open the page.
    """
    layout = layout_of(data_dir)
    with bind(port) as listening:
        print(address(listening), flush=True)

        from stocktrace.dashboard.serving import serve

        serve(layout, listening)
    return 0
