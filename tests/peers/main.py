"""Scenarios on federating servers: `main.py BINARY [SCENARIO...] [--servers hearth+synapse]...`

The scenarios do not depend on the implementation of the servers. Run with `--servers synapse+synapse`, they
prove that their checks hold without hearth."""

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

from certificates import Certificates
from chat import chat
from checks import CheckFailed, Checks, print_log_ends
from context import Environment, ScenarioContext
from ephemeral import ephemeral
from false_claims import false_claims
from history import history
from joins import joins, upgrade
from links import links
from malicious import malicious
from media import media
from network import Network
from outage import outage
from random_liars import LIARS, random_liars
from server import free_port
from servers import IMPLEMENTATIONS
from user import User

SERVER_SETS = ["hearth+synapse", "hearth+hearth", "hearth+hearth+hearth", "synapse+hearth+hearth"]
NAMES = ("alice", "bob", "carol")
VERSIONS = ["6", "9", "10", "11", "12"]
# Rooms of the first two are made by Synapse only. Scenarios share much code, so each has some of these.
OLD_VERSIONS = ["1", "2", "3", "4", "5"]
TIMEOUT = 240  # seconds


@dataclasses.dataclass
class Scenario:
    run: Callable[[ScenarioContext], Awaitable]
    versions: list[str]
    # Runs twice, with each of two users as the host
    both_directions: bool = True
    # Runs while no other scenario does
    exclusive: bool = False
    servers: int = 2
    timeout: int = TIMEOUT


SCENARIOS = {
    "chat": Scenario(chat, OLD_VERSIONS + VERSIONS),
    "joins": Scenario(joins, ["1", "2", "5", *VERSIONS]),
    "upgrade": Scenario(upgrade, ["1", "2", "3", "5", *VERSIONS]),
    "history": Scenario(history, ["1", "2", "3", *VERSIONS]),
    "ephemeral": Scenario(ephemeral, ["11"]),
    "media": Scenario(media, ["11"]),
    "outage": Scenario(outage, ["11"], exclusive=True),
    "malicious": Scenario(malicious, ["11"], both_directions=False, exclusive=True),
    "false_claims": Scenario(false_claims, ["3", "6", "10", "11", "12"], both_directions=False),
    "random_liars": Scenario(
        random_liars, ["5", "6", "10", "11", "12"], both_directions=False, exclusive=True, timeout=TIMEOUT + 2 * LIARS
    ),
    # Version 1 with a Synapse, see `is_default`
    "links": Scenario(links, ["1", "3", "10", "12"], both_directions=False, exclusive=True, servers=3),
}


async def run_on(implementations, arguments, checks, directory):
    """Starts servers of these implementations and runs the scenarios for that many servers."""
    certificates = Certificates(directory)
    servers = []
    async with contextlib.AsyncExitStack() as stack:
        for number, implementation in enumerate(implementations):
            home = directory / f"{number}-{implementation}"
            home.mkdir()
            port = free_port()
            name = f"{('localhost', '127.0.0.1')[number % 2]}:{port}"
            tls_port = port if len(implementations) == 2 else free_port()
            create = IMPLEMENTATIONS[implementation]
            servers.append(create(arguments.binary, name, home, certificates, tls_port))
            stack.callback(servers[-1].clean_up)
        network = await stack.enter_async_context(Network(servers)) if len(servers) == 3 else None
        with checks.check("the servers start"):
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        users = [User(server, name) for server, name in zip(servers, NAMES)]
        environment = Environment(checks, certificates, users, network)
        for user in users:
            stack.push_async_callback(user.stop)
            with checks.check(f"{user} registers on {user.server.name} ({user.server.directory.name})"):
                await user.start()
        for name in arguments.scenarios:
            if SCENARIOS[name].servers == len(servers):
                started = time.monotonic()
                await run_scenario(SCENARIOS[name], arguments.versions, environment)
                print(f"--- {name} took {time.monotonic() - started:.0f} s", flush=True)


async def run_scenario(scenario, versions, environment):
    """Runs a scenario in all room versions and directions, concurrently unless it is exclusive."""
    alice, bob, *_ = environment.users
    pairs = ((alice, bob), (bob, alice)) if scenario.both_directions else ((alice, bob),)
    contexts = [
        ScenarioContext(environment, *pair, version)
        for version in versions or scenario.versions
        for pair in pairs
        if pair[0].may_create_room(version) and (versions or is_default(environment, version))
    ]
    groups = [[ctx] for ctx in contexts] if scenario.exclusive else [contexts]
    for group in groups:
        await asyncio.gather(*(run_with_timeout(scenario, ctx) for ctx in group))


def is_default(environment, version):
    """A Synapse is the first of three servers only for versions of which hearth creates no rooms."""
    users = environment.users
    return len(users) == 2 or any(not user.may_create_room(version) for user in users) or not users[0].may_create_room("1")


async def run_with_timeout(scenario, ctx):
    """A failed scenario does not stop the others."""
    with contextlib.suppress(CheckFailed, TimeoutError):
        async with asyncio.timeout(scenario.timeout):
            await scenario.run(ctx)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--servers", action="append")
    parser.add_argument("--version", action="append", dest="versions", choices=OLD_VERSIONS + VERSIONS)
    arguments = parser.parse_args()
    # SIGTERM runs the clean-up, so that no servers are left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"unknown scenario {', '.join(unknown)}; the scenarios: {', '.join(SCENARIOS)}")
    server_sets = arguments.servers or SERVER_SETS
    for servers in server_sets:
        if not set(servers.split("+")) <= IMPLEMENTATIONS.keys() or servers.count("+") not in (1, 2):
            parser.error(f"{servers}: expected two or three of {', '.join(IMPLEMENTATIONS)}, joined by +")
    checks = Checks()
    for servers in server_sets:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-peers-"))
        print(f"--- {servers}", flush=True)
        started, failed = time.monotonic(), checks.failed
        try:
            with contextlib.suppress(CheckFailed):
                asyncio.run(run_on(servers.split("+"), arguments, checks, directory))
            if checks.failed > failed:
                print_log_ends(directory)
        finally:
            shutil.rmtree(directory)
        print(f"--- {servers} took {time.monotonic() - started:.0f} s", flush=True)
    checks.summarize()
    return 1 if checks.failed else 0


sys.exit(main())
