from __future__ import annotations

from pathlib import Path

from stocktrace.maintenance.convert import convert_segments
from stocktrace.record.recovery import recover
from stocktrace.store.layout import Layout
from tests import remains
from tests.remains import PARTS, PRICES, STILL, prices


def test_a_window_that_was_not_sealed_completely_is_left_to_a_recovery(
    a_dead_session: Layout, tmp_path: Path
) -> None:
    """Some of its tickers are sealed: published now, the window would lack the others for good."""
    layout = remains.copy(a_dead_session, tmp_path / "data")
    done = convert_segments(layout)
    assert (done.files, done.rows) == (1, 4)  # the first window, of which a segment was left
    (sentence,) = done.failed
    assert f"window {PARTS[1].window}" in sentence
    assert sentence.endswith("run `stocktrace recover`.")
    assert not layout.window_file(PARTS[1]).exists()
    (recovered,) = recover(layout, STILL)
    assert recovered.balanced
    assert prices(layout) == PRICES
    done = convert_segments(layout)
    assert (done.files, done.failed) == (0, [])
