"""Servers of different make in one room: `main.py BINARY [SCENARIO...] [--cast hearth+synapse]...`

A cast is a list of servers; the scenarios know of no make. With `synapse+synapse` they can be shown to be
true without hearth."""

import argparse
import asyncio
import contextlib
import dataclasses
import pathlib
import shutil
import signal
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
from links import links
from outage import outage
from net import Net
from pictures import pictures
from play import Cast, Play
from server import free_port
from servers import KINDS
from signs import signs
from trust import Trust
from user import User

CASTS = ["hearth+synapse", "hearth+hearth", "hearth+hearth+hearth"]
NAMES = ("alice", "bob", "carol")
VERSIONS = ["6", "9", "10", "11", "12"]


@dataclasses.dataclass
class Scenario:
    play: Callable[[Play], Awaitable]
    versions: list[str]
    # Whether each of the two is the host once; and whether nothing else may go on meanwhile
    both_ways: bool = True
    alone: bool = False
    servers: int = 2


SCENARIOS = {
    "chat": Scenario(chat, VERSIONS),
    "joins": Scenario(joins, VERSIONS),
    "upgrade": Scenario(upgrade, VERSIONS),
    "history": Scenario(history, VERSIONS),
    "signs": Scenario(signs, ["11"]),
    "pictures": Scenario(pictures, ["11"]),
    "outage": Scenario(outage, ["11"], alone=True),
    "lies": Scenario(lies, ["11"], both_ways=False, alone=True),
    "links": Scenario(links, ["10", "12"], both_ways=False, alone=True, servers=3),
}
LIMIT = 240


async def meet(arguments, kinds, claims, directory):
    """Starts the servers of a cast and plays the scenarios for that many."""
    trust = Trust(directory)
    servers = []
    async with contextlib.AsyncExitStack() as stack:
        for number, kind in enumerate(kinds):
            home = directory / f"{number}-{kind}"
            home.mkdir()
            port = free_port()
            name = f"{('localhost', '127.0.0.1')[number % 2]}:{port}"
            tls_port = port if len(kinds) == 2 else free_port()
            servers.append(KINDS[kind](arguments.binary, name, home, trust, tls_port))
            stack.callback(servers[-1].clean_up)
        net = await stack.enter_async_context(Net(servers)) if len(kinds) == 3 else None
        with claims.claim("the servers start"):
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        cast = Cast(claims, trust, [User(server, name) for server, name in zip(servers, NAMES)], net)
        for person in cast.people:
            stack.push_async_callback(person.stop)
            with claims.claim(f"{person} is on {person.server.name} ({person.server.directory.name})"):
                await person.start()
        for name in arguments.scenarios:
            if SCENARIOS[name].servers == len(kinds):
                begun = time.monotonic()
                await play(SCENARIOS[name], arguments.versions, cast)
                print(f"--- {name} took {time.monotonic() - begun:.0f} s", flush=True)


async def play(scenario, versions, cast):
    """Plays a scenario in all its versions and directions, side by side if it may be."""
    alice, bob, *_ = cast.people
    pairs = ((alice, bob), (bob, alice)) if scenario.both_ways else ((alice, bob),)
    plays = [Play(cast, *pair, version) for version in versions or scenario.versions for pair in pairs]
    turns = [[play] for play in plays] if scenario.alone else [plays]
    for turn in turns:
        await asyncio.gather(*(limited(scenario.play(play)) for play in turn))


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
    # Whoever ends this program leaves no servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    for cast in arguments.casts or CASTS:
        if not set(cast.split("+")) <= KINDS.keys() or cast.count("+") not in (1, 2):
            parser.error(f"{cast}: a cast is two or three of {', '.join(KINDS)}, joined by +")
    claims = Claims()
    for cast in arguments.casts or CASTS:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-peers-"))
        print(f"--- {cast}", flush=True)
        begun, failed = time.monotonic(), claims.failed
        try:
            with contextlib.suppress(Failed):
                asyncio.run(meet(arguments, cast.split("+"), claims, directory))
            if claims.failed > failed:
                show_ends(directory)
        finally:
            shutil.rmtree(directory)
        print(f"--- {cast} took {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{claims.passed} passed, {claims.failed} failed")
    return 1 if claims.failed else 0


sys.exit(main())
