from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from stocktrace.errors import StoreError
from stocktrace.store import validation
from tests.conftest import NOON
from tests.store.conftest import T

DAY_MS = 86_400_000


def frame_of(*rows: dict[str, object]) -> pd.DataFrame:
    """Good rows, but for what each of ``rows`` says."""
    good = {"symbol": 3, "ts_event": T, "price": 1.5, "volume": 100.0, "conditions": 0}
    full = [{**good, **row} for row in rows]
    column = {name: [row[name] for row in full] for name in good}
    return pd.DataFrame(
        {
            "symbol": np.array(column["symbol"], np.int32),
            "ts_event": np.array(column["ts_event"], np.int64).view("datetime64[ms]"),
            "ts_recv": np.full(len(full), NOON // 1000).view("datetime64[us]"),
            "price": np.array(column["price"], np.float64),
            "volume": np.array(column["volume"], np.float64),
            "conditions": np.array(column["conditions"], np.int32),
        }
    )


def test_valid_trades_pass() -> None:
    assert validation.find_failures(frame_of({}, {"symbol": 0}, {"conditions": 7})) == {}


@pytest.mark.parametrize(
    "row",
    [
        {"volume": 0.0},
        {"price": 1e-300},
        {"price": np.nextafter(1e12, 0)},
        {"volume": np.nextafter(1e15, 0)},
        {"ts_event": 631_152_000_000},
        {"ts_event": T + DAY_MS},
    ],
)
def test_the_edges_of_what_is_possible_pass(row: dict[str, object]) -> None:
    assert validation.find_failures(frame_of(row)) == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"symbol": -1}, "symbol: no ticker"),
        ({"conditions": -1}, "conditions: no code"),
        ({"price": 0.0}, "price: not above 0"),
        ({"price": -0.01}, "price: not above 0"),
        ({"price": 1e12}, "price: not below 1e+12"),
        ({"price": np.inf}, "price: not below 1e+12"),
        ({"price": -np.inf}, "price: not above 0"),
        ({"price": np.nan}, "price: not_nullable"),
        ({"volume": -1.0}, "volume: below 0"),
        ({"volume": 1e15}, "volume: not below 1e+15"),
        ({"volume": np.inf}, "volume: not below 1e+15"),
        ({"volume": np.nan}, "volume: not_nullable"),
        ({"ts_event": 0}, "ts_event: before 1990-01-01"),
        ({"ts_event": T // 1000}, "ts_event: before 1990-01-01"),
        ({"ts_event": 631_151_999_999}, "ts_event: before 1990-01-01"),
        ({"ts_event": T + DAY_MS + 1}, "ts_event is more than a day after ts_recv"),
        ({"ts_event": 2**63 - 1}, "ts_event is more than a day after ts_recv"),
        ({"ts_event": T * 1000}, "ts_event is more than a day after ts_recv"),
    ],
)
def test_each_invalid_value_is_refused_with_its_reason(row: dict[str, object], reason: str) -> None:
    assert validation.find_failures(frame_of({}, row, {})) == {1: reason}


def test_a_missing_time_is_refused() -> None:
    assert (
        "ts_event: not_nullable"
        in validation.find_failures(frame_of({}, {"ts_event": -(2**63)}))[1]
    )


def test_a_row_with_two_faults_has_both_reasons() -> None:
    found = validation.find_failures(frame_of({"price": 0.0, "volume": -1.0}))
    assert found == {0: "price: not above 0, volume: below 0"}


def test_all_rows_of_a_batch_can_be_refused() -> None:
    bad: dict[str, object] = {"price": 0.0}
    found = validation.find_failures(frame_of(*[bad] * 5))
    assert found == dict.fromkeys(range(5), "price: not above 0")


def test_one_invalid_row_of_many_is_the_only_one_refused() -> None:
    rows: list[dict[str, object]] = [{} for _ in range(1000)]
    rows[777] = {"volume": -1.0}
    assert validation.find_failures(frame_of(*rows)) == {777: "volume: below 0"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.drop(columns="price"),
        lambda frame: frame.assign(more=1),
        lambda frame: frame[frame.columns[::-1]],
        lambda frame: frame.astype({"price": "float32"}),
        lambda frame: frame.astype({"ts_recv": "int64"}),
    ],
)
def test_a_frame_with_other_columns_is_an_error(spoil) -> None:
    with pytest.raises(StoreError, match="A batch does not match the schema"):
        validation.find_failures(spoil(frame_of({}, {})))


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "symbol": st.just(-1),
        "conditions": st.just(-1),
        "ts_event": st.integers(-(2**63), 2**63 - 1)
        | st.sampled_from([631_151_999_999, 631_152_000_000, T + DAY_MS, T + DAY_MS + 1]),
        "price": st.floats(),
        "volume": st.floats(),
    },
)


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_the_fast_check_accepts_what_the_whole_schema_accepts(
    rows: list[dict[str, object]],
) -> None:
    trades = frame_of(*rows)
    try:
        validation.TRADES.validate(trades, lazy=True)
        refused = False
    except SchemaErrors:
        refused = True
    assert validation._is_valid(trades) is not refused
    assert bool(validation.find_failures(trades)) is refused
