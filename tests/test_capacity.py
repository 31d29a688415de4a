"""docs/capacity.md: what it says a day costs follows from the rates that it says were measured."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

from stocktrace.live import fleet, metrics
from stocktrace.record import intake
from stocktrace.settings import Settings
from stocktrace.store.compaction import MAX_BYTES
from stocktrace.store.lake import _FETCH_BYTES
from stocktrace.store.remote import PART_BYTES
from stocktrace.units import parse_duration, parse_size

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
#: From 4:00 to 20:00, and from bell to bell.
DAY_S = 16 * 3600.0
SESSION_S = 6.5 * 3600.0
#: Sessions of a year.
SESSIONS = 252
#: Of what a process was seen to take: a machine has other work, too.
SHARE = 2 / 3
_UNITS = {"µs": 1e-6, "ms": 1e-3, "/s": 1.0, "B": 1.0, "kB": 1e3, "%": 1e-2}
#: Half of the last block of a file, bytes.
HALF_A_BLOCK = 2048


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading: cells by the first of their row."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first.strip("`"): rest for first, *rest in table}


def rates() -> dict[str, float]:
    """Seconds, bytes, or trades a second."""
    found = {}
    for name, (text, *_) in rows("What one thing costs").items():
        match = re.fullmatch(r"([\d,.]+) ?(\S+)", text)
        assert match, text
        found[name] = float(match[1].replace(",", "")) * _UNITS[match[2]]
    return found


RATE = rates()
DAY = rows("What a day costs")


def short(number: float) -> str:
    """Two digits that count."""
    return f"{float(f'{number:.2g}'):,.10g}"


def size(number: float) -> str:
    """Bytes, as MB or GB."""
    return f"{short(number / 1e9)} GB" if number >= 1e9 else f"{short(number / 1e6)} MB"


def megabits(trades: float) -> str:
    """Of so many trades on the wire."""
    return short(trades * RATE["a trade on the wire"] * 8 / 1e6)


def requests_to_send(bytes_: float) -> int:
    """Sent and read back, as ``tests/store/test_lake.py`` counts."""
    return 2 if bytes_ <= PART_BYTES else math.ceil(bytes_ / PART_BYTES) + 4


def requests_to_fetch(bytes_: float) -> int:
    return 1 if bytes_ <= PART_BYTES else math.ceil(bytes_ / _FETCH_BYTES) + 1


class Load:
    """A column of the table: what is given, and what follows."""

    def __init__(self, column: int) -> None:
        cell = {name: cells[column] for name, cells in DAY.items()}
        self.tickers, self.trades, self.peak = (
            int(cell[name].replace(",", ""))
            for name in ("tickers", "trades a day", "trades/s in the peak second")
        )
        self.roll_size = parse_size(cell["roll_size"])
        tapes = self.trades * RATE["a trade on an open tape"] // self.roll_size
        self.files = int(DAY_S / parse_duration(cell["roll_interval"]) + tapes)
        rows_of_tickers = self.tickers * self.files
        stretch = 1 + self.tickers // intake._TICKERS_PER_BATCH
        every_s = intake._DUE_SHARE * Settings.model_fields["flush_interval"].default * stretch
        self.appends = min(self.trades, self.tickers * SESSION_S / every_s)
        file = RATE["a Parquet file"] + HALF_A_BLOCK
        converted = self.trades * RATE["a trade in Parquet"] + self.files * file
        converted += rows_of_tickers * RATE["a ticker in a Parquet file"]
        compacted = self.trades * RATE["a trade compacted to disk"] + file
        compacted += self.tickers * RATE["a ticker in a Parquet file"]
        window = RATE["a file published"] + self.tickers * RATE["a ticker in a published file"]
        archived = self.trades * RATE["a trade on an archived tape"]
        both = 1 + RATE["a trade in CSV"] / RATE["a trade on an open tape"]
        cpu = {
            "CPU: trades": self.trades * RATE["a trade"],
            "CPU: being there": DAY_S * RATE["a second"],
            "CPU: files of batches, at most": self.appends * RATE["a ticker in a batch"],
            "CPU: publishing windows": self.files * window,
            "CPU: compaction": self.trades * RATE["a trade compacted"]
            + self.files * RATE["a file compacted"],
        }
        full = self.roll_size / RATE["a trade on an open tape"] / self.peak
        mean = self.trades / SESSION_S
        # A window's file and the report; at the end the coverage and the report.
        sent = self.files * (requests_to_send(converted / self.files) + 2) + 4
        parts = math.ceil(compacted / MAX_BYTES)
        merged = 2 + 12 + 1 + self.files * (requests_to_fetch(converted / self.files) + 3)
        merged += parts * requests_to_send(compacted / parts) + 3 + (1 + 2 + 3)
        self.follows = {
            "trades/s, mean of 6.5 h": short(mean),
            "processes for the peak": str(math.ceil(self.peak / (SHARE * RATE["a process"]))),
            "files, at most": f"{self.files:,}",
            **{name: f"{short(seconds)} s" for name, seconds in cpu.items()},
            "of a core, mean of 16 h": f"{short(sum(cpu.values()) / DAY_S * 100)} %",
            "of a core, in the peak second": f"{short(self.peak * RATE['a trade'] * 100)} %",
            "publishing a window of all tickers": f"{short(window)} s",
            "a tape is full after, at the peak": f"{short(full)} s",
            "disk: two windows, tape and CSV": size(2 * self.roll_size * both),
            "disk: tapes": size(archived),
            "disk: Parquet, until compacted": size(converted),
            "disk: Parquet, compacted": size(compacted),
            "disk: a year's tapes": size(SESSIONS * archived),
            "disk: a year, compacted": size(SESSIONS * compacted),
            "inodes, compacted": f"{1 + math.ceil(compacted / MAX_BYTES):,}",
            "network in, mean and peak": f"{megabits(mean)}, {megabits(self.peak)} Mbit/s",
            "lake, each way": size(converted),
            "lake: requests to send": f"{sent:,}",
            "lake: requests to compact": f"{merged:,}",
        }


def test_the_costs_of_a_day_follow_from_the_rates() -> None:
    loads = [Load(column) for column in range(4)]
    wanted = {name: [load.follows[name] for load in loads] for name in loads[0].follows}
    lines = "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in wanted.items())
    assert {name: DAY.get(name) for name in wanted} == wanted, f"It should have:\n{lines}"


def test_each_rate_is_on_the_page_that_is_named() -> None:
    for name, (figure, where) in rows("What one thing costs").items():
        link = re.search(r"\]\((\w+\.md)#", where)
        assert link, name
        page = (ROOT / "docs" / link[1]).read_text(encoding="utf-8")
        number = re.escape(re.split(r"[ /]", figure)[0])
        assert re.search(rf"(?<![\d.,]){number}(?![\d]|[.,]\d)", page), f"{name}: {figure}"


def test_every_row_is_an_input_or_computed() -> None:
    given = ["tickers", "trades a day", "trades/s in the peak second", "roll_interval", "roll_size"]
    assert [*DAY] == [*given, *Load(0).follows]


def test_documented_defaults_are_those_of_the_settings() -> None:
    told = {name: cells[0] for name, cells in rows("What bounds what").items()}
    assert told.pop("limit` (of the fleet)") == str(fleet.SYMBOL_LIMIT)
    assert Settings.load(**told) == Settings.load(
        **{name: Settings.model_fields[name].default for name in told}
    )


def test_metrics_and_alerts_that_are_named_exist() -> None:
    source = inspect.getsource(metrics)
    named = {name.removesuffix("_total") for name in re.findall(r"`stocktrace_(\w+)`", PAGE)}
    assert named
    assert {name for name in named if f'{name}"' not in source} == set()
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"`(Stocktrace\w+)`", PAGE))
    assert named
    assert {name for name in named if f"alert: {name}\n" not in alerts} == set()
