"""What a US trade's condition codes say about bars (FINNHUB.md, "Condition codes").

Of other markets' codes nothing is known, and crypto has none: there every trade counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.calendar import Market, market_of

#: Average price, odd lot, sold out of sequence and the like: volume that made no price.
VOLUME_ONLY = frozenset(["3", "5", "10", "11", "12", "17", "22", "25", "26", "37"])
#: Summaries and placeholders of what was or will be told by another trade.
EXCLUDED = frozenset(["16", "27", "31", "34", "36", "38", "39", "40", "41"])


def bar_eligibility(
    ticker: str, conditions: pa.ChunkedArray
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which trades make prices, and which make volume; by the texts of their ``conditions``."""
    if market_of(ticker) is not Market.US:
        every = np.ones(len(conditions), np.bool_)
        return every, every
    encoded = pc.dictionary_encode(conditions).combine_chunks()
    codes = [set(text.split()) for text in encoded.dictionary.to_pylist()]
    volume = np.array([not each & EXCLUDED for each in codes], np.bool_)
    price = np.array([not each & (EXCLUDED | VOLUME_ONLY) for each in codes], np.bool_)
    numbers = encoded.indices.to_numpy()
    return price[numbers], volume[numbers]
