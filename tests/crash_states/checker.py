"""What a data folder holds, and what it must hold: read by pyarrow and zstandard only."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.crash_states.disk import Disk
from tests.soak import Row, trades

#: Session and number of a window.
Window = tuple[str, int]
#: The trades of each ticker of each window, in the order of arrival.
Trades = dict[Window, dict[str, list[Row]]]
_TAPE = re.compile(r"data/tape/([0-9][^/.]*)/\w+_(\d{5})\.tape(\.zst)?")
_LINE = re.compile(rb"(\d{1,19})\t(.*)", re.DOTALL)
#: Events of the audit log after which a whole session exists.
_MADE = ("import", "adopt", "requeue")


def window_of(path: str) -> Window | None:
    """The window of a tape; ``None`` if the path is not one."""
    match = _TAPE.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def frames_of(path: str, content: bytes) -> list[bytes]:
    """The complete lines of a tape that hold a frame."""
    if path.endswith(".zst"):
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    lines = content.split(b"\n")[:-1]
    return [line for line in lines if (match := _LINE.fullmatch(line)) and match[2][:1] != b"#"]


def trades_of(lines: Iterable[bytes]) -> dict[str, list[Row]]:
    """The valid trades of lines, by ticker."""
    found: dict[str, list[Row]] = defaultdict(list)
    for line in lines:
        stamp, _, payload = line.partition(b"\t")
        for ticker, row in trades(payload, int(stamp)):
            found[ticker].append(row)
    return dict(found)


def count(found: Mapping[str, list[Row]]) -> Counter[tuple[str, Row]]:
    """How often each trade is there."""
    return Counter((ticker, row) for ticker, rows in found.items() for row in rows)


def taped(files: Mapping[str, bytes | None]) -> dict[Window, list[bytes]]:
    """The frames of all tapes, by window; of two tapes of one window all."""
    found: dict[Window, list[bytes]] = {}
    for path, content in files.items():
        if content is not None and (window := window_of(path)) is not None:
            lines = frames_of(path, content)
            earlier = found.get(window, [])
            found[window] = max(earlier, lines, key=len)
    return found


def published(folder: Path) -> Trades:
    """The rows of a dataset. Each file is whole, and no window is in two files.

    Raises:
        AssertionError: A file is not a Parquet file, or a window is published twice.
    """
    found: Trades = {}
    for path in sorted(folder.glob("parquet/*/*")):
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError) as error:
            raise AssertionError(f"{path} is published and cannot be read: {error}") from None
        windows: Trades = defaultdict(lambda: defaultdict(list))
        for row in table.to_pylist():
            stamps = (_since_epoch(row["ts_event"]) // 1000, _since_epoch(row["ts_recv"]))
            trade = (stamps[0], row["price"], row["volume"], row["conditions"], stamps[1])
            windows[row["session"], row["window_number"]][row["symbol"]].append(trade)
        for window, tickers in windows.items():
            assert window not in found, f"{window} is published twice"
            found[window] = dict(tickers)
    return found


def _since_epoch(value: Any) -> int:
    """Microseconds."""
    return value.value // 1000 if hasattr(value, "value") else round(value.timestamp() * 10**6)


@dataclass(slots=True)
class Truth:
    """What a run had received by its end, and what it had promised at each moment."""

    #: The frames of each window.
    windows: dict[Window, list[bytes]]
    trades: Trades = field(init=False)

    def __post_init__(self) -> None:
        self.trades = {window: trades_of(lines) for window, lines in self.windows.items()}

    @classmethod
    def of(cls, disk: Disk, sent: Iterable[bytes]) -> Truth:
        """Read it from all tapes that there ever were; they hold what was ``sent``."""
        files = {each.made_as: bytes(each.content) for each in disk.inodes if not each.is_folder}
        files |= {
            path: content for path, content in disk.files_now().items() if content is not None
        }
        truth = cls(taped(files))
        wanted = Counter(
            (ticker, row[:4]) for each in sent for ticker, row in trades(each, _stamp_of(each))
        )
        found: Counter[tuple[str, Any]] = Counter()
        for tickers in truth.trades.values():
            found.update((ticker, row[:4]) for ticker, rows in tickers.items() for row in rows)
        assert found == wanted, f"The run itself lost {wanted - found}, or made {found - wanted}."
        return truth

    def promised(self, disk: Disk, time: int) -> set[Window]:
        """The windows that the audit log called published at ``time``, or made by an import."""
        promised: set[Window] = set()
        for event in _audit(disk, time):
            session = event["session"]
            if event["event"] == "convert":
                promised.add((session, int(event["window"][-5:])))
            elif event["event"] == "recover":
                promised.update((session, int(window[-5:])) for window in event["windows"])
        return promised

    def synced(self, disk: Disk, time: int) -> dict[Window, list[bytes]]:
        """The frames that were synced at ``time``: on a tape, or with a whole imported session."""
        found = taped(
            {
                each.made_as: each.durable_bytes(time)
                for each in disk.inodes
                if window_of(each.made_as)
            }
        )
        made = {each["session"] for each in _audit(disk, time) if each["event"] in _MADE}
        whole = self.promised(disk, time) | {each for each in self.windows if each[0] in made}
        return found | {window: self.windows[window] for window in whole}


def _stamp_of(frame: bytes) -> int:
    """A receive time at which the trades of a frame are recent."""
    try:
        return int(json.loads(frame)["data"][0]["t"]) * 10**6
    except (ValueError, LookupError, TypeError):
        return 0


def _audit(disk: Disk, time: int) -> Iterator[dict[str, Any]]:
    for inode in disk.inodes:
        if inode.made_as.endswith("data/log/audit.jsonl"):
            content = bytearray(inode.base)
            for write in inode.writes:
                if write.time <= time:
                    write.apply(content, write.data)
            yield from (json.loads(line) for line in content.splitlines())
