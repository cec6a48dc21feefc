"""Real clients with encryption: `main.py BINARY [PAIR...] [--cast CAST]...`, a pair being `nio+js` or the like.

A cast is the server that all are on, or two that federate, the first of them Alice's: `hearth`,
`hearth+synapse`. With `synapse` the scenario can be shown to be true without hearth."""

import argparse
import asyncio
import contextlib
import pathlib
import shutil
import signal
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).parents[1]
sys.path += [str(TESTS / "common"), str(TESTS / "clients"), str(TESTS / "peers")]

from claims import Claims, Failed
from client import ENCRYPTED, LACKS
from encryption import encryption
from household import Person, Stage
from server import free_port
from servers import KINDS
from trust import Trust

# Those that take longest come first.
CASTS = {
    "synapse+hearth": ["js+nio"],
    "hearth+synapse": ["js+js", "js+nio"],
    "hearth+hearth": ["js+js"],
    "hearth": ["js+js", "nio+js", "nio+nio"],
}
AT_ONCE = 2
LIMIT = 500


async def play_all(binary, plays, claims):
    """Plays the scenario with every pair on every cast; one that fails stops no other."""
    turn = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for cast, pair in plays:
            group.create_task(play_in_turn(turn, binary, cast, pair, claims))


async def play_in_turn(turn, binary, cast, pair, claims):
    async with turn:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-secrets-"))
        begun, outcome = time.monotonic(), "passed"
        try:
            await play(binary, cast, pair, claims, directory)
        except (Failed, TimeoutError):
            outcome = "failed"
            show_ends(directory)
        finally:
            shutil.rmtree(directory)
        print(f"--- {pair} on {cast} {outcome} in {time.monotonic() - begun:.0f} s", flush=True)


async def play(binary, cast, pair, claims, directory):
    """Plays the scenario; raises `Failed`, or `TimeoutError`, after printing which claim failed."""
    trust = Trust(directory)
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for number, kind in enumerate(cast.split("+")):
            home = directory / f"{number}-{kind}"
            home.mkdir()
            port = free_port()
            servers.append(KINDS[kind](binary, f"localhost:{port}", home, trust, port))
            stack.callback(servers[-1].clean_up)
        kinds = pair.split("+")
        people = [
            Person("Alice", kinds[0], servers[0], directory),
            Person("Bob", kinds[1], servers[-1], directory),
            Person("Carol", kinds[1], servers[-1], directory),
        ]
        for person in people:
            stack.push_async_callback(person.stop)
        stage = Stage(claims, f"{pair} on {cast}", *people)
        with stage.claim("the servers start"):
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        async with asyncio.timeout(LIMIT):
            await encryption(stage)


def show_ends(directory, lines=15):
    """What the processes said last."""
    for log in sorted([*directory.glob("*.log"), *directory.glob("*/*.log")]):
        print(f"--- the end of {log.relative_to(directory)}")
        for line in log.read_text(errors="replace").splitlines()[-lines:]:
            print(line[:300])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("pairs", nargs="*", metavar="PAIR")
    parser.add_argument("--cast", action="append", dest="casts")
    arguments = parser.parse_args()
    # Whoever ends this program leaves no servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for pair in arguments.pairs:
        if not set(pair.split("+")) <= ENCRYPTED.keys() or pair.count("+") != 1:
            parser.error(f"{pair}: a pair is two of {', '.join(ENCRYPTED)}, joined by +")
    for cast in arguments.casts or CASTS:
        if not set(cast.split("+")) <= KINDS.keys() or cast.count("+") > 1:
            parser.error(f"{cast}: a cast is one or two of {', '.join(KINDS)}, joined by +")
    for kind, lacks in LACKS.items():
        print(f"--- {kind} has no {', no '.join(sorted(lacks)) or 'lack'}")
    claims = Claims()
    plays = [
        (cast, pair)
        for cast in arguments.casts or CASTS
        for pair in arguments.pairs or CASTS.get(cast, CASTS["hearth"])
    ]
    asyncio.run(play_all(arguments.binary, plays, claims))
    print(f"{claims.passed} passed, {claims.failed} failed")
    return 1 if claims.failed else 0


sys.exit(main())
