"""Which trades are valid, checked by pandera in batches of many tickers.

A call costs milliseconds however few rows it has, so it gets many rows of all tickers at once, in
two steps: ``FAST_CHECK`` checks whether all rows are valid, in a quarter of the time
(docs/performance.md); ``TRADES`` finds the rows that are not, and why. A property test proves that
both agree.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd
import pandera.pandas as pandera
from pandera.errors import SchemaError, SchemaErrors

from stocktrace.clock import PLAUSIBLE_SINCE_NS
from stocktrace.errors import StoreError
from stocktrace.units import NS_PER_MS, US_PER_MS

# Finnhub is younger, but recordings of older days can be replayed. A time in seconds instead of
# milliseconds is before this date.
EARLIEST = np.datetime64("1990-01-01", "ms")
# Exchange clocks and ours agree within seconds; a day allows for any confusion of time zones.
MAX_AHEAD = np.timedelta64(1, "D")
# A clock that was not set yet says nothing about a trade's time, which then only has to be sane.
CLOCK_SET_SINCE = np.datetime64(PLAUSIBLE_SINCE_NS // NS_PER_MS, "ms")
LATEST = np.datetime64("2100-01-01", "ms")
# The most expensive share costs under 10^6. A lower bound alone would accept infinity.
PRICE_LIMIT = 1e12
VOLUME_LIMIT = 1e15


TRADES = pandera.DataFrameSchema(
    {
        "symbol": pandera.Column("int32", pandera.Check.ge(0, error="no ticker")),
        "ts_event": pandera.Column(
            "datetime64[ms]",
            pandera.Check(lambda times: times >= EARLIEST, name=f"before {EARLIEST:.10}"),
        ),
        "ts_recv": pandera.Column("datetime64[us]"),
        "price": pandera.Column(
            "float64",
            [
                pandera.Check.gt(0, error="not above 0"),
                pandera.Check.lt(PRICE_LIMIT, error=f"not below {PRICE_LIMIT:g}"),
            ],
        ),
        "volume": pandera.Column(
            "float64",
            [
                pandera.Check.ge(0, error="below 0"),
                pandera.Check.lt(VOLUME_LIMIT, error=f"not below {VOLUME_LIMIT:g}"),
            ],
        ),
        "conditions": pandera.Column("int32", pandera.Check.ge(0, error="no code")),
    },
    checks=pandera.Check(
        lambda frame: (
            (frame["ts_event"] <= frame["ts_recv"] + MAX_AHEAD)
            | ((frame["ts_recv"] < CLOCK_SET_SINCE) & (frame["ts_event"] < LATEST))
        ),
        name="ts_event is more than a day after ts_recv",
    ),
    strict=True,
    ordered=True,
)


def _latest_ms(received_ms: np.ndarray) -> np.ndarray:
    """Return the latest valid times of trades that were received at these times."""
    ahead = received_ms + MAX_AHEAD // np.timedelta64(1, "ms")
    is_set = received_ms >= CLOCK_SET_SINCE.astype(np.int64)
    return np.where(is_set, ahead, LATEST.astype(np.int64) - 1)


def _is_valid(trades: pd.DataFrame) -> bool:
    """Return whether ``TRADES`` would accept all rows; a missing value fails every comparison."""
    if list(trades) != list(TRADES.columns):
        return False
    columns = [column.to_numpy() for _, column in trades.items()]
    if [column.dtype for column in columns] != _DTYPES:
        return False
    symbols, events, received, prices, volumes, conditions = columns
    # As integers: some times in ms do not fit into µs.
    event_ms, recv_us = events.view(np.int64), received.view(np.int64)
    return bool(
        (symbols >= 0).all()
        and (conditions >= 0).all()
        and (event_ms >= EARLIEST.astype(np.int64)).all()
        and (event_ms <= _latest_ms(recv_us // US_PER_MS)).all()
        and ((prices > 0) & (prices < PRICE_LIMIT)).all()
        and ((volumes >= 0) & (volumes < VOLUME_LIMIT)).all()
    )


_DTYPES = [
    np.dtype(name)
    for name in ("int32", "datetime64[ms]", "datetime64[us]", "float64", "float64", "int32")
]
FAST_CHECK = pandera.DataFrameSchema(checks=pandera.Check(_is_valid))


def find_failures(trades: pd.DataFrame) -> dict[int, str]:
    """Return the positions of invalid rows, each with its reasons.

    ``trades`` has a ``RangeIndex`` and the columns of ``COLUMNS``: ``symbol`` and ``conditions``
    int32 (the index of a text, negative if it cannot be stored), ``ts_event`` datetime64[ms] and
    ``ts_recv`` datetime64[us] (both UTC), ``price`` and ``volume`` float64.

    Raises:
        StoreError: The frame has other columns.
    """
    with contextlib.suppress(SchemaError):
        FAST_CHECK.validate(trades, inplace=True)  # otherwise it is copied
        return {}
    try:
        TRADES.validate(trades, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():
            raise StoreError(
                f"A batch does not match the schema: {cases.to_dict('records')}"
            ) from errors
        reasons: dict[int, dict[str, None]] = {}
        for context, column, check, index in zip(
            cases["schema_context"], cases["column"], cases["check"], cases["index"], strict=True
        ):
            reason = check if context == "DataFrameSchema" else f"{column}: {check}"
            reasons.setdefault(int(index), {})[reason] = None
        return {index: ", ".join(texts) for index, texts in sorted(reasons.items())}
    return {}
