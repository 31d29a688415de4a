"""What a recorded trade is, checked by pandera in batches that span tickers.

A call costs milliseconds whatever it is given: so it is given many rows, all tickers at once, and
asked in two steps. ``SOUND`` says with one check whether all of them are good, in a quarter of the
time (docs/performance.md); ``TRADES`` says of each row that is not, why. A property test holds them
equal.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd
import pandera.pandas as pandera
from pandera.errors import SchemaError, SchemaErrors

from stocktrace.errors import StoreError
from stocktrace.units import US_PER_MS

# Finnhub is younger, but recordings of older days are replayed; a time in seconds instead of
# milliseconds falls before this.
EARLIEST = np.datetime64("1990-01-01", "ms")
# Exchange clocks and ours agree within seconds; a day covers any mix-up of time zones.
MAX_AHEAD = np.timedelta64(1, "D")
# The dearest share costs under 10^6; an infinity passes a lower bound alone.
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
        lambda frame: frame["ts_event"] <= frame["ts_recv"] + MAX_AHEAD,
        name="ts_event is over a day ahead of ts_recv",
    ),
    strict=True,
    ordered=True,
)


def _is_valid(trades: pd.DataFrame) -> bool:
    """Whether ``TRADES`` refuses nothing; a value that is missing is sound to no comparison."""
    if list(trades) != list(TRADES.columns):
        return False
    columns = [each.to_numpy() for _, each in trades.items()]
    if [each.dtype for each in columns] != _DTYPES:
        return False
    symbols, events, received, prices, volumes, conditions = columns
    # As numbers: there are times in ms that are none in µs.
    event_ms, recv_us = events.view(np.int64), received.view(np.int64)
    return bool(
        (symbols >= 0).all()
        and (conditions >= 0).all()
        and (event_ms >= EARLIEST.astype(np.int64)).all()
        and (event_ms <= recv_us // US_PER_MS + MAX_AHEAD // np.timedelta64(1, "ms")).all()
        and ((prices > 0) & (prices < PRICE_LIMIT)).all()
        and ((volumes >= 0) & (volumes < VOLUME_LIMIT)).all()
    )


_DTYPES = [
    np.dtype(name)
    for name in ("int32", "datetime64[ms]", "datetime64[us]", "float64", "float64", "int32")
]
FAST_CHECK = pandera.DataFrameSchema(checks=pandera.Check(_is_valid))


def find_failures(trades: pd.DataFrame) -> dict[int, str]:
    """The rows of ``trades`` that are refused, by position, each with its reasons.

    ``trades`` has a ``RangeIndex`` and the columns of ``COLUMNS``: ``symbol`` and ``conditions``
    int32 (the number of a text, below 0 for one that cannot be stored), ``ts_event``
    datetime64[ms] and ``ts_recv`` datetime64[us] (both UTC), ``price`` and ``volume`` float64.

    Raises:
        StoreError: the frame as a whole is not of that shape.
    """
    with contextlib.suppress(SchemaError):
        FAST_CHECK.validate(trades, inplace=True)  # else it is copied
        return {}
    try:
        TRADES.validate(trades, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():
            raise StoreError(
                f"A batch is not of the schema: {cases.to_dict('records')}"
            ) from errors
        reasons: dict[int, dict[str, None]] = {}
        for context, column, check, index in zip(
            cases["schema_context"], cases["column"], cases["check"], cases["index"], strict=True
        ):
            reason = check if context == "DataFrameSchema" else f"{column}: {check}"
            reasons.setdefault(int(index), {})[reason] = None
        return {index: ", ".join(texts) for index, texts in sorted(reasons.items())}
    return {}
