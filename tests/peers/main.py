"""Servers of different make in one room: `main.py BINARY [SCENARIO...] [--cast hearth+synapse]...`

A cast is a list of servers; the scenarios know of no make. With `synapse+synapse` they can be shown to be
true without hearth."""

import argparse
import asyncio
import contextlib
import dataclasses
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

sys.path.append(str(pathlib.Path(__file__).parents[1] / "common"))

from chat import chat
from claims import Claims, Failed
from history import history
from joins import joins, upgrade
from lies import lies
from outage import outage
from play import Play
from server import free_port
from servers import KINDS
from signs import signs
from trust import Trust
from user import User

CASTS = ["hearth+synapse"]
VERSIONS = ["6", "9", "10", "11", "12"]


@dataclasses.dataclass
class Scenario:
    play: Callable[[Play], Awaitable]
    versions: list[str]
    # Whether each of the two is the host once; and whether nothing else may go on meanwhile
    both_ways: bool = True
    alone: bool = False


SCENARIOS = {
    "chat": Scenario(chat, VERSIONS),
    "joins": Scenario(joins, VERSIONS),
    "upgrade": Scenario(upgrade, VERSIONS),
    "history": Scenario(history, VERSIONS),
    "signs": Scenario(signs, ["11"]),
    "outage": Scenario(outage, ["11"], alone=True),
    "lies": Scenario(lies, ["11"], both_ways=False, alone=True),
}
LIMIT = 240


async def meet(arguments, cast, claims, directory):
    """Starts the servers of a cast and plays all scenarios on them."""
    trust = Trust(directory)
    servers = []
    people = []
    try:
        for number, kind in enumerate(cast.split("+")):
            home = directory / f"{number}-{kind}"
            home.mkdir()
            port = free_port()
            name = f"{('localhost', '127.0.0.1')[number % 2]}:{port}"
            servers.append(KINDS[kind](arguments.binary, name, home, trust, port))
        with claims.claim("the servers start"):
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        for server, name in zip(servers, ("alice", "bob", "carol")):
            people.append(User(server, name))
            with claims.claim(f"{name} is on {server.name} ({server.directory.name})"):
                await people[-1].start()
        await play(arguments, claims, people, trust)
    finally:
        for person in people:
            await person.stop()
        for server in servers:
            server.clean_up()


async def play(arguments, claims, people, trust):
    """Plays each scenario in all its versions and directions, side by side if it may be."""
    alice, bob = people
    for name in arguments.scenarios:
        begun = time.monotonic()
        scenario = SCENARIOS[name]
        pairs = ((alice, bob), (bob, alice)) if scenario.both_ways else ((alice, bob),)
        versions = arguments.versions or scenario.versions
        plays = [Play(claims, *pair, version, trust) for version in versions for pair in pairs]
        turns = [[play] for play in plays] if scenario.alone else [plays]
        for turn in turns:
            await asyncio.gather(*(limited(scenario.play(play)) for play in turn))
        print(f"--- {name} took {time.monotonic() - begun:.0f} s", flush=True)


async def limited(scenario):
    """A scenario that fails stops no other."""
    with contextlib.suppress(Failed, TimeoutError):
        async with asyncio.timeout(LIMIT):
            await scenario


def show_ends(directory, lines=15):
    """What the servers said last."""
    for log in sorted(directory.glob("*/*.log")):
        print(f"--- the end of {log.relative_to(directory)}")
        for line in log.read_text(errors="replace").splitlines()[-lines:]:
            print(line[:300])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--cast", action="append", dest="casts")
    parser.add_argument("--version", action="append", dest="versions", choices=VERSIONS)
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    for cast in arguments.casts or CASTS:
        if not set(cast.split("+")) <= KINDS.keys() or cast.count("+") != 1:
            parser.error(f"{cast}: a cast is two of {', '.join(KINDS)}, joined by +")
    claims = Claims()
    for cast in arguments.casts or CASTS:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-peers-"))
        print(f"--- {cast}", flush=True)
        begun, failed = time.monotonic(), claims.failed
        with contextlib.suppress(Failed):
            asyncio.run(meet(arguments, cast, claims, directory))
        if claims.failed > failed:
            show_ends(directory)
        print(f"--- {cast} took {time.monotonic() - begun:.0f} s", flush=True)
        shutil.rmtree(directory)
    print(f"{claims.passed} passed, {claims.failed} failed")
    return 1 if claims.failed else 0


sys.exit(main())
