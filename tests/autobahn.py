"""``BatchSocket`` before the Autobahn test suite itself: its client cases, answered by an echo.

    virtualenv --python python2.7 autobahn        # the suite knows no later Python
    autobahn/bin/pip install autobahntestsuite==25.10.1
    python -m tests.autobahn autobahn/bin/python

With ``--tls`` the connections go through a relay that speaks TLS.
Prints what the suite says of each section. Exit status 1 if it says anything else of a case than
``tests/feed/rfc6455`` does, or knows other cases; a minute or two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from websocket import ABNF, WebSocketException

from stocktrace.feed.socket import BatchSocket
from tests.feed.rfc6455 import BULKS, CASES
from tests.tls import Authority, relay

PATIENCE_S = 120.0
AGENT = "stocktrace"
#: Compression, which we do not ask for.
LEFT_OUT = ["12.*", "13.*"]
#: What the suite sends as binary messages, and wants back as such.
BINARY = ("1.2.", "9.2.", "9.4.", "9.6.", "9.8.")

# The suite's own command listens on all interfaces.
SERVER = """
import sys
from twisted.internet import reactor
listen = reactor.listenTCP
def listen_here(port, factory, *_):
    listen(port, factory, interface="127.0.0.1")
    sys.__stderr__.write("listening\\n")
reactor.listenTCP = listen_here
sys.argv[1:] = ["--mode", "fuzzingserver", "--spec", sys.argv[1], "--webport", "0"]
from autobahntestsuite.wstest import run
run()
"""


@contextlib.contextmanager
def suite(python: str, folder: Path) -> Iterator[str]:
    """Run the suite's server, which writes its report into ``folder``, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "url": url,
                "outdir": str(folder),
                "cases": ["*"],
                "exclude-cases": LEFT_OUT,
                "exclude-agent-cases": {},
            }
        )
    )
    with subprocess.Popen(
        [python, "-c", SERVER, str(spec)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            if line == "listening\n":
                break
            said.append(line)
        else:
            sys.exit(f"The suite did not start.\n{''.join(said)}")
        try:
            yield url
        finally:
            server.terminate()


@contextlib.contextmanager
def over_tls(url: str, folder: Path) -> Iterator[str]:
    """Yield an address that speaks TLS, which we trust, for one that does not."""
    authority = Authority()
    authority.write(folder / "authority.pem")
    os.environ["SSL_CERT_FILE"] = str(folder / "authority.pem")
    port = int(url.rpartition(":")[2])
    host = "127.0.0.2"  # the suite refuses a client that names another port than its own
    with relay(port, address=(host, port), near=authority.server(host)):
        yield f"wss://{host}:{port}"


def talk(url: str, echo: int | None = None) -> list[bytes]:
    """All messages until the server's close; sent back, if asked, as this opcode."""
    found: list[bytes] = []
    ours = BatchSocket()
    ours.connect(url, timeout=PATIENCE_S)
    with contextlib.suppress(OSError, WebSocketException):
        while True:
            batch = ours.recv_batch()
            found += batch.frames
            if batch.closed is not None:
                break
            for message in batch.frames if echo else ():
                ours.send(message, echo or ABNF.OPCODE_TEXT)
    ours.shutdown()
    return found


def judged(python: str, *, tls: bool) -> dict[str, tuple[str, str]]:
    """The suite's words for each case: for what was done, and for how it was closed."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        url = stack.enter_context(suite(python, Path(name)))
        if tls:
            url = stack.enter_context(over_tls(url, Path(name)))
        (count,) = talk(f"{url}/getCaseCount")
        for at in range(1, int(count) + 1):
            number = json.loads(talk(f"{url}/getCaseInfo?case={at}")[0])["id"]
            echo = ABNF.OPCODE_BINARY if number.startswith(BINARY) else ABNF.OPCODE_TEXT
            talk(f"{url}/runCase?case={at}&agent={AGENT}", echo)
        talk(f"{url}/updateReports?agent={AGENT}")
        report = json.loads((Path(name) / "index.json").read_text())[AGENT]
    return {number: (case["behavior"], case["behaviorClose"]) for number, case in report.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", help="a Python 2.7 that has autobahntestsuite")
    parser.add_argument("--tls", action="store_true", help="over TLS")
    given = parser.parse_args()
    found = judged(given.python, tls=given.tls)
    words = Counter((number.partition(".")[0], word) for number, (word, _) in found.items())
    for (section, word), count in sorted(words.items(), key=lambda item: int(item[0][0])):
        print(f"section {section:>2}: {count:>3} {word}")
    expected = {number: case.verdict for number, case in CASES.items()} | dict.fromkeys(BULKS, "OK")
    odd = [
        f"{number}: {found.get(number)}, not {expected.get(number)}"
        for number in sorted(found.keys() | expected.keys())
        if number not in found
        or found[number][0] != expected.get(number)
        or (found[number][0] == "OK" and found[number][1] != "OK")
    ]
    print(*odd or [f"all {len(found)} cases as expected"], sep="\n")
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
