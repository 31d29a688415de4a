"""Which US trades count for bars, by their condition codes (FINNHUB.md, "Condition codes").

The codes of other markets are unknown, and crypto has none: there every trade counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Average price, odd lot, sold out of sequence and similar: they count towards volume only.
VOLUME_ONLY = frozenset(["3", "5", "10", "11", "12", "17", "22", "25", "26", "37"])
#: Summaries and placeholders of what other trades report: they count towards neither.
EXCLUDED = frozenset(["16", "27", "31", "34", "36", "38", "39", "40", "41"])


def bar_eligibility(
    conditions: pa.ChunkedArray,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which US trades count towards prices and which towards volume."""
    encoded = conditions.combine_chunks().dictionary_encode()
    codes = [set(text.split()) for text in encoded.dictionary.to_pylist()]
    volume = np.array([not each & EXCLUDED for each in codes], np.bool_)
    price = np.array([not each & (EXCLUDED | VOLUME_ONLY) for each in codes], np.bool_)
    indices = encoded.indices.to_numpy()
    return price[indices], volume[indices]
