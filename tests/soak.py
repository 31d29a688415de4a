"""The soak: captures and recoveries are killed at any moment; then every trade is accounted for.

    make soak                                   # 200 kills, at most 8 minutes
    make soak KILLS=2000 MINUTES=90 SEED=7

Two lanes, each with its own simulator that plays about 1,000 trades a second with random faults,
write into one data folder. In each lane one process after the other runs:
captures with windows of a second or two, recoveries, conversions, compactions of the current date,
backups. Each is killed (``SIGKILL``) at a
random moment or at a random system call, or has a disk that fails (``tests/saboteur.py``), or is
left to end by itself. Then ``recover``, ``verify`` and ``audit`` run once, undisturbed, and what
is on disk is compared with what the simulators sent, by code that shares nothing with the package
but the names of files:

1. Of each connection, the tapes hold a prefix of the frames that were sent on it, byte for byte.
2. The Parquet files hold the trades of the tapes, in order, once each, with their receive times;
   what they do not hold is in quarantine.
3. What was sent and is not on a tape lies outside of what the coverage calls *listening*.
4. Nothing half-done is left.
5. The last backup that a killed process left, recovered, has the trades of its own tapes, and
   verifies. So does one that is made at the end, which has all files.
"""

from __future__ import annotations

import argparse
import base64
import errno
import json
import multiprocessing
import multiprocessing.connection
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zstandard

from stocktrace.simulator import (
    Authority,
    Fault,
    SimulatedConnection,
    Simulator,
    SimulatorSettings,
    SyntheticMarket,
)
from tests import saboteur
from tests.saboteur import PHASES, Job, Plan

LANES = 2
RATE = 1000.0
LASTING_S = 6.0
#: Connections and their handshakes break in all ways; trades come twice, torn, or with no price.
FAULTS = (
    *(Fault("drop"), Fault("reset"), Fault("close", code=1001), Fault("close", code=1011)),
    *(Fault("stall"), Fault("half-frame"), Fault("mute")),
    *(Fault("status", status=503), Fault("status", status=524), Fault("no-answer")),
    Fault("handshake-delay", seconds=0.4),
    *(Fault("duplicate"), Fault("truncate"), Fault("bad-row")),
    Fault("inject", frame=b'{"type":"trade","data":[{"s":"A0","p":-1,"t":1,"v":1}]}'),
    Fault("inject", frame=b"\xff\x00\n#not a mark {}\n1\t{}"),
)
_RENAMES = ("replace", "rename")
#: The system calls at which a command is killed; a compaction makes few.
_KILL_CALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "capture": (("write",), ("fsync",), _RENAMES, ("unlink",)),
    "compact": (("mkdir",), ("fsync",), ("open",)),
    "backup": (("write",), ("fsync",), _RENAMES, ("unlink",), ("link",)),
}
#: Below which random number each command is chosen.
_SHARES = {"capture": 0.66, "recover": 0.82, "convert": 0.86, "compact": 0.93, "backup": 1.0}
#: And over TLS in these.
TLS_FAULTS = (
    *(Fault("close-notify"), Fault("half-record"), Fault("tls-1.2")),
    *(Fault("records"), Fault("records", size=1400)),
)
_WEEK_MS = 7 * 86_400_000


_PROCESSES = multiprocessing.get_context("forkserver")
# ``Process.start`` also asks every process that another thread started whether it has ended. Only
# one reader gets the answer. If two threads ask at once, the other one calls the status 255.
_ASKING = threading.Lock()


def status_of(
    target: Callable[..., object], *arguments: object, patience: float | None = None
) -> int:
    """Run ``target`` in a process, kill it after ``patience`` seconds, and return its status."""
    process = _PROCESSES.Process(target=target, args=arguments)
    with _ASKING:
        process.start()
    if not multiprocessing.connection.wait([process.sentinel], patience):
        process.kill()
        multiprocessing.connection.wait([process.sentinel])
    with _ASKING:
        process.join()
        status = process.exitcode
        process.close()
    assert status is not None
    return status


@dataclass(slots=True)
class Tally:
    """The processes that ran, and how they ended."""

    kills: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


class Lane:
    """One simulator, and one process after the other."""

    def __init__(
        self, number: int, seed: int, work: Path, tally: Tally, authority: Authority | None
    ) -> None:
        self.number = number
        self.random = random.Random(seed * 100 + number)
        self.work = work
        self.tally = tally
        self.tickers = tuple(f"{'AB'[number]}{n}" for n in range(8))
        self.key = f"soak{number}"
        self.simulator = Simulator(
            SyntheticMarket(seed=seed * 100 + number, rate=RATE, opening=1.0),
            SimulatorSettings(key=self.key, ping_period=1.0, settle=0.0, keep=True, tls=authority),
        )
        self.faults = FAULTS if authority is None else FAULTS + TLS_FAULTS
        self.failure: BaseException | None = None

    def run(self, wanted: int, until: float) -> None:
        """One process after the other until there were kills enough."""
        try:
            with self.simulator:
                number = 0
                while sum(self.tally.kills.values()) < wanted and time.monotonic() < until:
                    number += 1
                    self._one(f"{self.number}-{number:05}")
        except BaseException as error:  # noqa: BLE001 - raised by the soak's own thread
            self.failure = error

    def _one(self, name: str) -> None:
        chance = self.random.random()
        command = next(name for name, most in _SHARES.items() if chance < most)
        if command == "capture":
            self.simulator.clear_faults()
            for _ in range(self.random.choice((0, 1, 1, 2, 3))):
                self._inject()
        plan, patience = self._plan(command)
        job = self._job(command, name, plan)
        job.phase.write_bytes(bytes(len(PHASES)))
        status = status_of(saboteur.play, job, patience=patience)
        if status == -signal.SIGKILL:
            states = job.phase.read_bytes()
            phase = max((at for at, count in enumerate(states) if count), default=0)
            self.tally.kills[f"{command}, {PHASES[phase]}"] += 1
        else:
            said = job.output.read_text()
            must(status in (0, 1), f"{job.arguments} ended with {status}: {said}")
            self.tally.outcomes[f"{command} ended with {status}"] += 1

    def _inject(self) -> None:
        fault = self.random.choice(self.faults)
        delay = 0.0 if fault.is_handshake else self.random.uniform(0.1, 3.0)
        self.simulator.inject(replace(fault, after_seconds=delay))
        self.tally.faults[fault.kind] += 1

    def _plan(self, command: str) -> tuple[Plan, float]:
        """Choose the failures, and the seconds after which the process is killed anyway."""
        pick, late = self.random, LASTING_S * 10
        chance = pick.random()
        if chance < 0.45:
            return Plan(), pick.choice((0.4, LASTING_S * 0.5, LASTING_S * 0.7)) * pick.random()
        if chance < 0.85:
            calls = pick.choice(_KILL_CALLS.get(command, _KILL_CALLS["capture"]))
            most = 300 if calls == ("write",) else 40
            kill_at = pick.choice((pick.randrange(1, 8), pick.randrange(1, most)))
            after = pick.random() < 0.5
            return Plan(kill_at=kill_at, kill_calls=calls, kill_after=after), late
        if chance < 0.95:
            return Plan(
                fail_at=pick.randrange(1, 500),
                fail_for=pick.choice((1, 2, 10, 10**9)),
                fail_with=pick.choice((errno.ENOSPC, errno.EIO)),
            ), late
        return Plan(), late

    def _job(self, command: str, name: str, plan: Plan) -> Job:
        pick = self.random
        environment = {
            "FINNHUB_API_KEY": self.key,
            "STOCKTRACE_URL": self.simulator.url,
            "STOCKTRACE_DATA_DIR": str(self.work / "data"),
            "STOCKTRACE_ROLL_INTERVAL": pick.choice(("1s", "2s")),
            "STOCKTRACE_FLUSH_INTERVAL": pick.choice(("50ms", "300ms")),
            "STOCKTRACE_SYNC_INTERVAL": "200ms",
            "STOCKTRACE_MAX_PENDING_ROWS_PER_TICKER": pick.choice(("20", "100000", "100000")),
            "STOCKTRACE_MIN_FREE_SPACE": "0",
            "STOCKTRACE_HANDSHAKE_TIMEOUT": "1s",
            "STOCKTRACE_PING_INTERVAL": "700ms",
            "STOCKTRACE_PONG_TIMEOUT": "700ms",
            "STOCKTRACE_FRAME_TIMEOUT": "700ms",
            "STOCKTRACE_IDLE_TIMEOUT": "3s",
            "STOCKTRACE_BACKOFF_BASE": "50ms",
            "STOCKTRACE_BACKOFF_CAP": "300ms",
            "STOCKTRACE_BACKOFF_FLOOR": "50ms",
            "TMPDIR": str(self.work),
            "SSL_CERT_FILE": str(self.work / "authority.pem"),
        }
        arguments = [command]
        if command == "backup":
            arguments += [str(self.work / "backup")]
        if command == "capture":
            arguments += [*self.tickers, "--for", f"{LASTING_S}s", "--progress", "none"]
        return Job(
            tuple(arguments),
            environment,
            self.work,
            self.work / "output" / name,
            self.work / "phases" / name,
            plan,
        )


# --- what is on disk, read by code of its own --------------------------------------------------

#: A trade: (event time ms, price, volume, conditions, receive time us).
Row = tuple[int, float, float, str, int]


@dataclass(slots=True)
class Life:
    """One connection as the tapes have it; ``lost`` is the stamp at which it was noted as lost."""

    connected: int
    frames: list[bytes] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    lost: int | None = None


@dataclass(slots=True)
class Session:
    """A session as its tapes have it."""

    name: str
    tickers: tuple[str, ...] = ()
    first: int = 0
    last: int = 0
    lives: list[Life] = field(default_factory=list)
    #: By window and ticker.
    rows: dict[tuple[int, str], list[Row]] = field(default_factory=lambda: defaultdict(list))


def read_session(folder: Path) -> Session:
    """Read all tapes of a session."""
    session = Session(folder.name)
    for tape in sorted(folder.glob("*.tape.zst")):
        window = int(tape.name.removesuffix(".tape.zst")[-5:])
        with tape.open("rb") as file:
            text = b"".join(zstandard.ZstdDecompressor().read_to_iter(file))
        lines = text.split(b"\n")
        must(lines.pop() == b"", f"{tape} ends in a torn line")
        for line in lines:
            stamp_text, _, payload = line.partition(b"\t")
            stamp = int(stamp_text)
            session.last = stamp
            if payload.startswith(b"#") and not payload.startswith(b"#raw "):
                _mark(session, stamp, payload)
                continue
            frame = payload
            if payload.startswith(b"#raw "):
                frame = base64.b64decode(payload[5:])
            life = session.lives[-1]
            life.frames.append(frame)
            life.stamps.append(stamp)
            for ticker, row in trades(frame, stamp):
                session.rows[window, ticker].append(row)
    return session


def _mark(session: Session, stamp: int, payload: bytes) -> None:
    name, _, facts_text = payload[1:].partition(b" ")
    facts: dict[str, Any] = json.loads(facts_text)
    if name == b"tape" and not session.first:
        session.first, session.tickers = stamp, tuple(facts["tickers"])
    elif name == b"connected":
        session.lives.append(Life(stamp))
    elif name == b"disconnected":
        session.lives[-1].lost = stamp


def trades(frame: bytes, stamp: int) -> Iterator[tuple[str, Row]]:
    """The trades in a frame that are any."""
    try:
        message = json.loads(frame)
    except ValueError:
        return
    for row in message.get("data", ()):
        t, p, v = row.get("t"), row.get("p"), row.get("v")
        numbers = type(t) is int and type(p) in (int, float) and type(v) in (int, float)
        if numbers and p > 0 and v >= 0 and abs(t - stamp // 10**6) < _WEEK_MS:
            codes = " ".join(row.get("c") or ())
            yield row["s"], (t, float(p), float(v), codes, stamp // 1000)


def must(holds: bool, otherwise: str) -> None:
    """End the soak with ``otherwise`` unless it holds."""
    if not holds:
        raise SystemExit(f"soak: {otherwise}")


def published(data: Path) -> dict[tuple[str, int, str], list[Row]]:
    """The rows of all Parquet files, by session, number of the window and ticker.

    Each file is sorted by ticker. One that is not compacted has the window of its name. No window
    is in two files, unless both are parts of one compacted date.
    """
    found: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    places: dict[tuple[str, int], str] = {}
    for path in sorted(data.glob("parquet/*/*")):
        table = pq.ParquetFile(path).read()
        tickers = table["symbol"].to_pylist()
        sessions, numbers = table["session"].to_pylist(), table["window_number"].to_pylist()
        windows = set(zip(sessions, numbers, strict=True))
        if not path.name.startswith("day-"):
            session, _, window = path.stem.partition("-")
            must(windows == {(session, int(window[-5:]))}, f"{path} has rows of {windows}")
        must(tickers == sorted(tickers), f"{path} is not sorted by ticker")
        place = f"{path.parent}/{path.name[:9]}" if path.name.startswith("day-") else str(path)
        for key in windows:
            must(places.setdefault(key, place) == place, f"{key} is in {path} and {places[key]}")
        rows = zip(
            table["ts_event"].cast("int64").to_pylist(),
            table["price"].to_pylist(),
            table["volume"].to_pylist(),
            table["conditions"].to_pylist(),
            table["ts_recv"].cast("int64").to_pylist(),
            strict=True,
        )
        for name, number, ticker, row in zip(sessions, numbers, tickers, rows, strict=True):
            found[name, number, ticker].append(row)
    return found


def listening(data: Path) -> dict[str, list[tuple[int, int]]]:
    """When each session listened (to its first ticker), us, in order."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path in sorted(data.glob("coverage/date=*/*.parquet")):
        table = pq.ParquetFile(path).read()
        rows = zip(
            table["symbol"].to_pylist(),
            table["start"].cast("int64").to_pylist(),
            table["end"].cast("int64").to_pylist(),
            table["state"].to_pylist(),
            strict=True,
        )
        for ticker, start, end, state in rows:
            if state == "listening" and ticker.endswith("0"):
                found[path.stem].append((start, end))
    return found


@dataclass(slots=True)
class Account:
    """Where everything that was sent is."""

    sent: int = 0
    arrived: int = 0
    connections: int = 0
    refused: int = 0
    unrequested: int = 0
    gaps: int = 0
    #: Connections of which something that was sent did not arrive.
    cut: int = 0

    def settle(self, lane: Lane, sessions: list[Session], heard: dict[str, Any]) -> None:
        """Compare a lane's tapes with what its simulator sent, connection by connection."""
        connections = lane.simulator.connections
        self.connections += len(connections)
        self.sent += sum(each.sent_trades for each in connections)
        at = 0
        for session in sorted(sessions, key=lambda each: each.first):
            for number, life in enumerate(session.lives):
                at, sent = _find(connections, at, life, session)
                arrived = sum(1 for f in life.frames for _ in _rows_of(f))
                self.arrived += arrived
                if sent is not None and len(sent.frames) > len(life.frames):
                    self.cut += 1
                    following = session.lives[number + 1 : number + 2]
                    _must_be_told(session, life, following, heard[session.name])


def _rows_of(frame: bytes) -> list[Any]:
    try:
        rows = json.loads(frame).get("data", [])
    except ValueError:
        return []
    return list(rows)


def _find(
    connections: tuple[SimulatedConnection, ...], at: int, life: Life, session: Session
) -> tuple[int, SimulatedConnection | None]:
    """The connection, from number ``at`` on, that ``life`` is a beginning of."""
    if not life.frames:
        return at, None
    for number in range(at, len(connections)):
        if connections[number].frames[: len(life.frames)] == life.frames:
            return number + 1, connections[number]
    raise SystemExit(f"soak: {session.name} has frames on its tapes that nobody sent so")


def _must_be_told(
    session: Session, life: Life, following: list[Life], heard: list[tuple[int, int]]
) -> None:
    """The time from a loss to the next connection must not be called listened to."""
    loss = (life.lost if life.lost is not None else session.last) // 1000
    again = following[0].connected // 1000 if following else None
    for start, end in heard:
        ended_in_time = end <= loss or (again is not None and start >= again)
        must(ended_in_time, f"{session.name} calls {start}-{end} listening, lost at {loss}")


# --- the whole ---------------------------------------------------------------------------------


def soak(kills: int, minutes: float, seed: int, work: Path, *, tls: bool = False) -> None:
    """Run it all in the folder ``work``; raises ``SystemExit`` if anything is wrong."""
    for folder in ("data", "output", "phases"):
        (work / folder).mkdir()
    tally = Tally()
    _PROCESSES.set_forkserver_preload(["tests.saboteur"])
    authority = Authority() if tls else None
    if authority is not None:
        authority.write(work / "authority.pem")
    lanes = [Lane(number, seed, work, tally, authority) for number in range(LANES)]
    begin = time.monotonic()
    threads = [
        threading.Thread(target=lane.run, args=(kills, begin + minutes * 60)) for lane in lanes
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(5.0)
        done = sum(tally.kills.values())
        print(f"{time.monotonic() - begin:5.0f} s  {done} kills", file=sys.stderr)
    for lane in lanes:
        if lane.failure is not None:
            raise lane.failure
    killed_for = time.monotonic() - begin
    _in_peace(lanes[0], "recover", 0)
    again = _in_peace(lanes[0], "recover", 0)
    must("nothing to recover" in again, f"a second recovery found something: {again}")
    print(_in_peace(lanes[0], "verify", 0).splitlines()[-1])
    print(_in_peace(lanes[0], "audit", 0).splitlines()[-1])
    account, sessions = check(lanes, work / "data")
    print(check_backups(lanes[0], work))
    _print(tally, account, sessions, killed_for, time.monotonic() - begin)
    must(sum(tally.kills.values()) >= kills, f"fewer than {kills} kills in {minutes} minutes")


def _in_peace(lane: Lane, command: str, status: int, data: str = "data") -> str:
    """Run a command undisturbed; what it says."""
    number = len(list((lane.work / "output").iterdir()))
    job = lane._job(command, f"{command}-{number}", Plan())
    job.environment["STOCKTRACE_DATA_DIR"] = str(lane.work / data)
    job.phase.write_bytes(bytes(len(PHASES)))
    ended = status_of(saboteur.play, job)
    text = job.output.read_text()
    must(ended == status, f"{command} ended with {ended}: {text}")
    return text


def check_backups(lane: Lane, work: Path) -> str:
    """Check the backup that the killed ones left, and one that is made now; says what they have."""
    rows = 0
    if (work / "backup" / "data").exists():
        shutil.copytree(work / "backup" / "data", work / "copy")
        _in_peace(lane, "recover", 0, "copy")
        _in_peace(lane, "verify", 0, "copy")
        rows = sum(map(len, compare_rows(work / "copy")[1].values()))
    _in_peace(lane, "backup", 0)
    _in_peace(lane, "verify", 0, "backup/data")
    same = published(work / "backup" / "data") == published(work / "data")
    must(same, "the backup has other trades than the data folder")
    return f"{rows:,} trades in the last backup of a killed process, all in one made at the end"


def compare_rows(
    data: Path,
) -> tuple[list[Session], dict[tuple[str, int, str], list[Row]]]:
    """Compare the published rows with those of the tapes; the sessions and the rows."""
    sessions = [read_session(folder) for folder in sorted(data.glob("tape/*"))]
    found = published(data)
    wanted = {(s.name, *key): rows for s in sessions for key, rows in s.rows.items()}
    for key in sorted(wanted.keys() | found.keys()):
        on_tape, on_disk = wanted.get(key, []), found.get(key, [])
        must(on_tape == on_disk, f"{key}: {len(on_tape)} trades taped, {len(on_disk)} published")
    return sessions, found


def check(lanes: list[Lane], data: Path) -> tuple[Account, list[Session]]:
    """Every trade, and every file."""
    left = [
        path
        for path in data.rglob("*")
        if path.name.endswith((".tmp", ".open", ".csv", ".tape")) or ".scratch" in path.name
    ]
    must(not left, f"left behind: {left}")
    sessions, found = compare_rows(data)
    account, heard = Account(), listening(data)
    for lane in lanes:
        own = [session for session in sessions if session.tickers == lane.tickers]
        account.settle(lane, own, {session.name: heard[session.name] for session in own})
    must(account.arrived > 0, "nothing arrived")
    rows = sum(map(len, found.values()))
    account.refused, account.unrequested = _refused(data), _unrequested(data)
    must(
        account.arrived == rows + account.refused + account.unrequested,
        f"{account.arrived} trades on tapes, {rows} published, {account.refused} refused, "
        f"{account.unrequested} of tickers that nobody asked for",
    )
    account.gaps = sum(
        table.num_rows
        for path in data.glob("coverage/date=*/*.parquet")
        if (table := _gaps(path)) is not None
    )
    return account, sessions


def _refused(data: Path) -> int:
    """The rows in quarantine; a line without one is a frame that is not JSON."""
    return sum(
        json.loads(line)["row"] is not None
        for path in data.glob("quarantine/*.jsonl")
        for line in path.read_text().splitlines()
    )


def _unrequested(data: Path) -> int:
    """The trades of tickers that nobody asked for: on the tape only."""
    reports = (json.loads(path.read_bytes()) for path in data.glob("sessions/*.json"))
    return sum(report["books"].get("unrequested", 0) for report in reports)


def _gaps(path: Path) -> Any:
    table = pq.ParquetFile(path).read()
    return table.filter([state == "gap" for state in table["state"].to_pylist()])


def _print(
    tally: Tally, account: Account, sessions: list[Session], killed_for: float, total: float
) -> None:
    rows = sum(len(each) for session in sessions for each in session.rows.values())
    print(f"{sum(tally.kills.values())} kills in {killed_for:.0f} s, {total:.0f} s in all")
    for name, count in sorted(tally.kills.items(), key=lambda item: -item[1]):
        print(f"  {count:5}  {name}")
    print(f"{sum(tally.outcomes.values())} processes that ended by themselves")
    for name, count in sorted(tally.outcomes.items()):
        print(f"  {count:5}  {name}")
    print(f"{sum(tally.faults.values())} faults of the simulators: {dict(tally.faults)}")
    print(
        f"{len(sessions)} sessions, {account.connections} connections, {account.cut} cut off\n"
        f"{account.sent:,} trades sent = {account.arrived:,} on tapes "
        f"+ {account.sent - account.arrived:,} in flight\n"
        f"{rows:,} trades in Parquet + {account.refused:,} refused "
        f"+ {account.unrequested:,} of tickers that nobody asked for; "
        f"{account.gaps:,} gaps of a ticker in the coverage"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kill captures and account for every trade.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tls", action="store_true", help="over TLS, with its own faults, too")
    parser.add_argument("--keep", action="store_true", help="leave the folder, if all is well, too")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="stocktrace-soak-"))
    print(f"{given.kills} kills, seed {given.seed}, in {work}", file=sys.stderr)
    soak(given.kills, given.minutes, given.seed, work, tls=given.tls)
    if not given.keep:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
