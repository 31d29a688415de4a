from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import DiskFull, StoreError, TapeError
from stocktrace.marks import ConnectedMark, GapMark, Mark, SubscriptionMark, UnknownMark
from stocktrace.store.tape import (
    LATEST_NS,
    TapeFrames,
    TapeReader,
    TapeWriter,
    archive_tape,
    better_tape,
    parse_line,
    settle_tapes,
)
from tests.conftest import NOON, frame, tree

FRAMES = [frame(("AAPL", price)) for price in (1, 2, 3)]
STAMPS = st.integers(0, LATEST_NS)
# What a server may send, and what looks like the grammar's own signs.
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"#", b"\n", b"\t", b"1", b"raw ", b"\r", b"{}"])).map(b"".join),
)
FACTS = st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9), max_size=3)
TICKERS = st.lists(st.text(max_size=9), max_size=3).map(tuple)
MARKS = st.one_of(
    st.builds(ConnectedMark, STAMPS, TICKERS),
    st.builds(GapMark, STAMPS, STAMPS, st.text(max_size=9)),
    st.builds(SubscriptionMark, STAMPS, TICKERS, TICKERS),
    st.builds(UnknownMark, STAMPS, st.sampled_from(["gap", "connected", "other"]), FACTS),
)
READS = st.builds(TapeFrames, STAMPS, st.lists(PAYLOADS, min_size=1, max_size=5))


def entries(path: Path) -> list[Mark | tuple[int, bytes]]:
    """A tape's contents, frame by frame."""
    found: list[Mark | tuple[int, bytes]] = []
    for entry in TapeReader(path):
        if isinstance(entry, Mark):
            found.append(entry)
        else:
            found += [(entry.stamp, one) for one in entry.frames]
    return found


def flat(written: Sequence[Mark | TapeFrames]) -> list[Mark | tuple[int, bytes]]:
    found: list[Mark | tuple[int, bytes]] = []
    for entry in written:
        found += [entry] if isinstance(entry, Mark) else [(entry.stamp, f) for f in entry.frames]
    return found


def write(path: Path, written: Sequence[Mark | TapeFrames]) -> None:
    writer = TapeWriter(path)
    for entry in written:
        if isinstance(entry, Mark):
            writer.append_mark(entry)
        else:
            writer.append(entry.stamp, entry.frames)
    writer.close()
    assert writer.size == path.stat().st_size


@given(st.lists(MARKS | READS, max_size=8))
def test_every_frame_and_mark_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, written: list[Mark | TapeFrames]
) -> None:
    path = tmp_path_factory.mktemp("tape") / "a.tape"
    write(path, written)
    assert entries(path) == flat(written)


@given(PAYLOADS, STAMPS)
def test_a_frame_is_one_line_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes, stamp: int
) -> None:
    path = tmp_path_factory.mktemp("tape") / "a.tape"
    write(path, [TapeFrames(stamp, [payload])])
    text = path.read_bytes()
    assert text.count(b"\n") == 1
    assert parse_line(text[:-1]) == TapeFrames(stamp, (payload,))


def test_a_tape_is_the_text_that_the_docs_say(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    write(
        path,
        [
            ConnectedMark(1, ("AAPL",)),
            TapeFrames(2, [b'{"type":"ping"}', b"a\nb"]),
            TapeFrames(3, [b"#4"]),
            UnknownMark(4, "end"),
        ],
    )
    assert path.read_bytes() == (
        b'1\t#connected {"tickers":["AAPL"]}\n'
        b'2\t{"type":"ping"}\n'
        b"2\t#raw YQpi\n"
        b"3\t#raw IzQ=\n"
        b"4\t#end {}\n"
    )


def test_what_one_read_brought_is_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []

    def counting(descriptor: int, data: bytes, write: Any = os.write) -> int:
        writes.append(len(data))
        return write(descriptor, data)

    writer = TapeWriter(tmp_path / "a.tape")
    monkeypatch.setattr(os, "write", counting)
    writer.append(NOON, FRAMES)
    monkeypatch.undo()
    writer.close()
    assert writes == [writer.size]


def test_appended_lines_can_be_read_at_once(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path / "a.tape")
    writer.append(NOON, FRAMES)
    assert entries(writer.path) == [(NOON, one) for one in FRAMES]
    writer.close()


def test_neighbours_of_one_stamp_come_together(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    write(
        path,
        [
            TapeFrames(1, [b"a"]),
            TapeFrames(1, [b"b\n"]),
            TapeFrames(2, [b"c"]),
            TapeFrames(1, [b"d"]),
        ],
    )
    assert list(TapeReader(path)) == [
        TapeFrames(1, [b"a", b"b\n"]),
        TapeFrames(2, [b"c"]),
        TapeFrames(1, [b"d"]),
    ]


def test_a_write_that_took_less_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TapeWriter(tmp_path / "a.tape")
    write_some = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write_some(fd, bytes(data)[:7]))
    writer.append(NOON, FRAMES)
    writer.append_mark(UnknownMark(NOON, "end"))
    monkeypatch.undo()
    writer.close()
    assert entries(writer.path) == [*((NOON, one) for one in FRAMES), UnknownMark(NOON, "end")]


def test_an_existing_tape_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    path.write_bytes(b"1\ta\n")
    with pytest.raises(FileExistsError):
        TapeWriter(path)
    assert path.read_bytes() == b"1\ta\n"


def test_a_full_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    writer = TapeWriter(tmp_path / "a.tape")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull, match=r"has only \d+ MB left\. Make room") as caught:
        writer.append(NOON, FRAMES)
    monkeypatch.undo()
    writer.close()
    assert caught.value.path == writer.path


def test_70_the_first_sync_of_a_tape_also_syncs_its_name(
    tmp_path: Path, disk_steps: list[str]
) -> None:
    writer = TapeWriter(tmp_path / "a.tape")
    writer.append(NOON, FRAMES)
    assert disk_steps == []  # the feed's thread does not wait
    writer.sync()
    assert disk_steps == [f"sync {tmp_path.name}", "sync a.tape"]
    writer.close()
    assert disk_steps[2:] == ["sync a.tape"]


def test_a_broken_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    writer = TapeWriter(tmp_path / "a.tape")
    writer.sync()  # its name
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match=r"Cannot write .*a.tape: Input/output error"):
        writer.sync()
    with pytest.raises(StoreError, match="Input/output error"):
        writer.close()
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer._fd)


def test_closing_twice_and_syncing_after_it_are_harmless(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path / "a.tape")
    threads = [threading.Thread(target=writer.sync) for _ in range(4)]
    for thread in threads:
        thread.start()
    writer.close()
    writer.close()
    writer.sync()
    for thread in threads:
        thread.join(5)


# --- what reading keeps ----------------------------------------------------------------------


def test_a_tail_torn_at_any_byte_loses_only_the_torn_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tape"
    write(whole, [TapeFrames(NOON + n, [one]) for n, one in enumerate(FRAMES)])
    text = whole.read_bytes()
    lines = text.splitlines(keepends=True)
    torn = tmp_path / "torn.tape"
    for size in range(len(lines[0]), len(text) + 1):
        torn.write_bytes(text[:size])
        complete = text[:size].count(b"\n")
        reader = TapeReader(torn)
        found = [one for entry in reader for one in getattr(entry, "frames", ())]
        assert found == FRAMES[:complete]
        assert reader.torn_bytes == size - sum(map(len, lines[:complete]))
        assert (reader.invalid_lines, reader.damage) == (0, None)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no tab",
        b"\t{}",
        b"x\t{}",
        b"-1\t{}",
        b"1.5\t{}",
        b"\xb2\t{}",
        b"1\t#connected {",
        b"1\t#raw a",
        b"1\t#\xff {}",
        b"1\t#",
        b"9" * 19 + b"\t{}",
        b"9" * 5000 + b"\t{}",
    ],
)
def test_an_invalid_line_is_counted_and_skipped(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(TapeError):
        parse_line(line)
    path = tmp_path / "a.tape"
    path.write_bytes(b"1\ta\n" + line + b"\n2\tb\n")
    reader = TapeReader(path)
    assert list(reader) == [TapeFrames(1, [b"a"]), TapeFrames(2, [b"b"])]
    assert (reader.invalid_lines, reader.torn_bytes) == (1, 0)


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_a_receive_time_never_makes_a_time_that_cannot_be_stored(
    tmp_path: Path, bit: int
) -> None:
    path = tmp_path / "a.tape"
    for position in range(len(str(NOON)) + 1):
        text = bytearray(b"%d\ta\n" % NOON)
        text[position] ^= 1 << bit
        path.write_bytes(text)
        reader = TapeReader(path)
        for entry in reader:
            assert 0 <= entry.stamp <= LATEST_NS


def test_an_empty_tape_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    path.touch()
    assert list(TapeReader(path)) == []


def many() -> bytes:
    """Lines that hardly compress, more than one block of zstandard (128 KiB)."""
    return b"".join(b"%d\t%s\n" % (NOON + n, os.urandom(40).hex().encode()) for n in range(9000))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_recording_keeps_what_can_be_decompressed(tmp_path: Path, suffix: str) -> None:
    text = many()
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    packed = compress(text)
    path = tmp_path / f"a.tape{suffix}"
    for share in (0.999, 0.6, 0.3):
        path.write_bytes(packed[: int(len(packed) * share)])
        reader = TapeReader(path)
        found = b"".join(
            b"%d\t%s\n" % (entry.stamp, one)
            for entry in reader
            if isinstance(entry, TapeFrames)
            for one in entry.frames
        )
        assert text.startswith(found)
        # All but the last block, and the torn line.
        assert len(found) + reader.torn_bytes > len(text) * share - (1 << 18)
        assert len(found) > len(text) * 0.1
        assert reader.damage == "the compressed data ends too early"
        assert reader.invalid_lines == 0


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_in_a_recording_is_reported_and_the_entries_before_it_are_read(
    tmp_path: Path, suffix: str
) -> None:
    text = many()
    compress = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    packed = bytearray(compress(text))
    packed[int(len(packed) * 0.9)] ^= 0xFF
    packed[int(len(packed) * 0.9) + 1] ^= 0xFF
    path = tmp_path / f"a.tape{suffix}"
    path.write_bytes(packed + b"garbage")
    reader = TapeReader(path)
    kept = sum(len(entry.frames) for entry in reader if isinstance(entry, TapeFrames))
    assert reader.damage
    assert 4500 < kept <= 9000


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_recordings_of_several_members_are_read_completely(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    path = tmp_path / f"a.tape{suffix}"
    path.write_bytes(compress(b"1\ta\n2") + compress(b"\tb\n") + compress(b""))
    reader = TapeReader(path)
    assert list(reader) == [TapeFrames(1, [b"a"]), TapeFrames(2, [b"b"])]
    assert (reader.torn_bytes, reader.damage) == (0, None)


# --- archive ---------------------------------------------------------------------------------


def test_an_archive_has_the_same_contents_and_replaces_the_tape(tmp_path: Path) -> None:
    tape, archived = tmp_path / "a.tape", tmp_path / "a.tape.zst"
    written: list[Mark | TapeFrames] = [TapeFrames(NOON, FRAMES), UnknownMark(NOON, "end")]
    write(tape, written)
    archive_tape(tape, archived)
    assert entries(archived) == flat(written)
    assert tree(tmp_path) == ["a.tape.zst"]


def test_an_empty_tape_is_archived_too(tmp_path: Path) -> None:
    tape, archived = tmp_path / "a.tape", tmp_path / "a.tape.zst"
    tape.touch()
    archive_tape(tape, archived)
    reader = TapeReader(archived)
    assert list(reader) == []
    assert reader.damage is None


# --- two tapes of one window -------------------------------------------------------------------

LINES = b"".join(b"%d\t%s\n" % (NOON + n, frame(("AAPL", n))) for n in range(2000))


def pair(folder: Path, plain: bytes, archived: bytes) -> tuple[Path, Path]:
    """A plain tape beside an archive, as a folder has them that was copied twice."""
    paths = folder / "a.tape", folder / "a.tape.zst"
    for path, content in zip(paths, (plain, archived), strict=True):
        path.write_bytes(content)
    return paths


def packed(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(text)


def unpacked(archived: Path) -> bytes:
    with archived.open("rb") as file:
        return b"".join(zstandard.ZstdDecompressor().read_to_iter(file))


@pytest.mark.parametrize("size", [0, 1, 40, len(LINES) // 2, len(LINES) - 1, len(LINES)])
def test_a_plain_tape_that_the_archive_contains_is_deleted(tmp_path: Path, size: int) -> None:
    tape, archived = pair(tmp_path, LINES[:size], packed(LINES))
    before = archived.read_bytes()
    assert better_tape(tape, archived) == archived
    archive_tape(tape, archived)
    assert tree(tmp_path) == ["a.tape.zst"]
    assert archived.read_bytes() == before


@pytest.mark.parametrize(
    "plain",
    [b"x" + LINES[1:], LINES[:-2] + b"x\n", LINES[:5000] + b"x", b"x" + LINES + LINES],
    ids=["first byte", "last byte", "cut", "longer"],
)
def test_a_plain_tape_that_differs_is_set_aside_and_the_archive_stays(
    tmp_path: Path, plain: bytes
) -> None:
    tape, archived = pair(tmp_path, plain, packed(LINES))
    before = archived.read_bytes()
    assert better_tape(tape, archived) == archived
    aside = settle_tapes(tape, archived)
    assert aside is not None
    assert tree(tmp_path) == sorted(["a.tape.zst", aside.name])
    assert archived.read_bytes() == before
    assert aside.read_bytes() == plain


def test_an_archive_is_replaced_by_more_that_begins_with_all_of_it(tmp_path: Path) -> None:
    tape, archived = pair(tmp_path, LINES, packed(LINES[:5000]))
    assert better_tape(tape, archived) == tape
    assert settle_tapes(tape, archived) is None
    assert tree(tmp_path) == ["a.tape", "a.tape.zst"], "until all of it is compressed"
    archive_tape(tape, archived)
    assert tree(tmp_path) == ["a.tape.zst"]
    assert unpacked(archived) == LINES


def flipped(text: bytes, at: int) -> bytes:
    return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]


BROKEN = {
    "empty": b"",
    "cut": packed(LINES)[:-100],
    "its checksum cut": packed(LINES)[:-2],
    "a bit flipped": flipped(packed(LINES), len(packed(LINES)) // 2),
    "longer than it was": packed(LINES) + b"more",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_archive_is_set_aside_for_a_complete_plain_tape(
    tmp_path: Path, name: str
) -> None:
    tape, archived = pair(tmp_path, LINES, BROKEN[name])
    assert better_tape(tape, archived) == tape
    archive_tape(tape, archived)
    assert tree(tmp_path) == ["a.tape.zst", "a.tape.zst.aside-1"]
    assert unpacked(archived) == LINES
    assert (tmp_path / "a.tape.zst.aside-1").read_bytes() == BROKEN[name]


def test_a_damaged_archive_stays_beside_a_plain_tape_that_has_less(tmp_path: Path) -> None:
    plain, cut = LINES[:40], packed(LINES)[:-2]
    tape, archived = pair(tmp_path, plain, cut)
    assert better_tape(tape, archived) == archived
    archive_tape(tape, archived)
    assert tree(tmp_path) == ["a.tape.aside-1", "a.tape.zst"]
    assert archived.read_bytes() == cut
    assert (tmp_path / "a.tape.aside-1").read_bytes() == plain


def test_setting_aside_does_not_replace_a_file(tmp_path: Path) -> None:
    for number in range(1, 4):
        tape, archived = pair(tmp_path, b"%d" % number, packed(b"x" + LINES))
        assert settle_tapes(tape, archived) == tmp_path / f"a.tape.aside-{number}"
    assert [(tmp_path / f"a.tape.aside-{n}").read_bytes() for n in (1, 2, 3)] == [b"1", b"2", b"3"]


def test_a_plain_tape_is_deleted_when_the_archive_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever copied the archive may not have waited for the disk."""
    tape, archived = pair(tmp_path, LINES, packed(LINES))

    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match="Input/output error"):
        settle_tapes(tape, archived)
    assert tree(tmp_path) == ["a.tape", "a.tape.zst"]


@pytest.mark.parametrize("step", ["stream_writer", "read_to_iter", "fsync", "replace", "unlink"])
def test_an_archive_that_fails_keeps_the_tape_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    class Broken:
        def __init__(self, **_: Any) -> None:
            self.stream_writer = self.read_to_iter = broken

    tape, archived = tmp_path / "a.tape", tmp_path / "a.tape.zst"
    write(tape, [TapeFrames(NOON, FRAMES)])
    text = tape.read_bytes()
    if step == "stream_writer":
        monkeypatch.setattr(zstandard, "ZstdCompressor", Broken)
    elif step == "read_to_iter":
        monkeypatch.setattr(zstandard, "ZstdDecompressor", Broken)
    elif step == "unlink":
        unlink = Path.unlink
        monkeypatch.setattr(
            Path, "unlink", lambda path, **o: broken() if path == tape else unlink(path, **o)
        )
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], broken)
    with pytest.raises((OSError, StoreError), match="Input/output error"):
        archive_tape(tape, archived)
    monkeypatch.undo()
    assert tape.read_bytes() == text
    assert tree(tmp_path) == (["a.tape", "a.tape.zst"] if step == "unlink" else ["a.tape"])
    archive_tape(tape, archived)
    assert entries(archived) == [(NOON, one) for one in FRAMES]
    assert tree(tmp_path) == ["a.tape.zst"]


def test_an_archive_that_differs_from_the_tape_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        def read_to_iter(self, *_: Any, **__: Any) -> Iterator[bytes]:
            return iter([b"something else"])

    tape, archived = tmp_path / "a.tape", tmp_path / "a.tape.zst"
    write(tape, [TapeFrames(NOON, FRAMES)])
    monkeypatch.setattr(zstandard, "ZstdDecompressor", Forgetful)
    with pytest.raises(TapeError, match="differs from"):
        archive_tape(tape, archived)
    assert tree(tmp_path) == ["a.tape"]
