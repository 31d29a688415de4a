"""``stocktrace report``: a session as a page, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.folder import DataDir, layout_of
from stocktrace.errors import Died


def report(
    session: Annotated[str, Parameter(help="Its name, as `stocktrace sessions` lists it.")],
    *,
    out: Annotated[Path | None, Parameter(help="The HTML file; default: SESSION.html.")] = None,
    svg: Annotated[Path | None, Parameter(help="Write the picture alone as well.")] = None,
    data_dir: DataDir = None,
) -> int:
    """Write a session as one HTML file that opens offline: books, charts, gaps, quarantine.

    Of one that runs, it shows how it stands now.
    """
    layout = layout_of(data_dir)

    from stocktrace.show.page import session_page
    from stocktrace.show.picture import picture
    from stocktrace.show.view import SessionView
    from stocktrace.summary import DEAD

    view = SessionView.of(layout, session)
    page = out or Path(f"{session}.html")
    _write(page, session_page(view))
    if svg is not None:
        _write(svg, picture(view))
    if view.state == DEAD:
        output.complain(str(Died(session)))
    return 0


def _write(path: Path, text: str) -> None:
    """Write a file and print its name."""
    from stocktrace.store import files

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.output(path) as file:
        file.write(text.encode())
    if not files.is_stdout(path):
        print(path)
