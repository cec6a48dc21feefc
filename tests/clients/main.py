"""Real clients against a started server: `main.py BINARY [PAIR...]`, a pair being `nio+js` or the like.

Every pair gets a server of its own and plays the same scenario on it."""

import argparse
import asyncio
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1] / "common"))

from chat import Stage, chat
from claims import Claims, Failed
from client import COMMANDS, Client
from crash import crashes
from files import MOST, share
from server import Hearth

PAIRS = ["nio+nio", "js+js", "nio+js"]
LIMIT = 240


async def play(binary, pair, claims, directory):
    """Plays the scenario; raises `Failed`, or `TimeoutError`, after printing which claim failed."""
    kinds = pair.split("+")
    server = Hearth(binary, "localhost", directory, max_upload=MOST)
    alice, bob = (Client(name, kind, directory) for name, kind in zip(("Alice", "Bob"), kinds))
    try:
        with claims.claim("the server starts"):
            server.start()
        for person in (alice, bob):
            await person.start(server.url)
        stage = Stage(claims, server, alice, bob)
        async with asyncio.timeout(LIMIT):
            await chat(stage)
            await share(stage)
            await crashes(stage)
    finally:
        for person in (alice, bob):
            await person.stop()
        server.clean_up()


def show_ends(directory, lines=15):
    """What the processes said last."""
    for log in sorted(directory.glob("*.log")):
        print(f"--- the end of {log.name}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-lines:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("pairs", nargs="*", default=PAIRS)
    arguments = parser.parse_args()
    for pair in arguments.pairs:
        if not set(pair.split("+")) <= COMMANDS.keys() or pair.count("+") != 1:
            parser.error(f"{pair}: a pair is two of {', '.join(COMMANDS)}, joined by +")

    claims = Claims()
    for pair in arguments.pairs:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-clients-"))
        print(f"--- {pair}", flush=True)
        begun = time.monotonic()
        try:
            asyncio.run(play(arguments.binary.resolve(), pair, claims, directory))
        except (Failed, TimeoutError):
            show_ends(directory)
        else:
            print(f"--- {pair} took {time.monotonic() - begun:.0f} s", flush=True)
        shutil.rmtree(directory)
    print(f"{claims.passed} passed, {claims.failed} failed")
    return 1 if claims.failed else 0


sys.exit(main())
