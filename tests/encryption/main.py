"""Real clients with encryption: `main.py BINARY [PAIR...] [--servers SERVERS]...`.

A pair is two SDKs, such as `nio+js`. SERVERS is one server for all users, or two that federate, the first for
Alice: `hearth`, `hearth+synapse`. With `synapse`, the scenario proves that its checks hold without hearth."""

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

from certificates import Certificates
from checks import CheckFailed, Checks, print_log_ends
from client import ENCRYPTED_COMMANDS, UNSUPPORTED
from devices import ScenarioContext, User
from scenario import encryption
from server import free_port
from servers import IMPLEMENTATIONS

# The slowest first
SERVER_SETS = {
    "synapse+hearth": ["js+nio"],
    "hearth+synapse": ["js+js", "js+nio"],
    "hearth+hearth": ["js+js"],
    "hearth": ["js+js", "nio+js", "nio+nio"],
}
CONCURRENCY = 2
TIMEOUT = 500  # seconds


async def run_all(binary, runs, checks):
    """Runs the scenario for all runs. A failed run does not stop the others."""
    permits = asyncio.Semaphore(CONCURRENCY)
    async with asyncio.TaskGroup() as group:
        for server_set, pair in runs:
            group.create_task(run_with_permit(permits, binary, server_set, pair, checks))


async def run_with_permit(permits, binary, server_set, pair, checks):
    async with permits:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-encryption-"))
        started, outcome = time.monotonic(), "passed"
        try:
            await run_pair(binary, server_set, pair, checks, directory)
        except (CheckFailed, TimeoutError):
            outcome = "failed"
            print_log_ends(directory)
        finally:
            shutil.rmtree(directory)
        print(f"--- {pair} on {server_set} {outcome} in {time.monotonic() - started:.0f} s", flush=True)


async def run_pair(binary, server_set, pair, checks, directory):
    """Runs the scenario. Raises `CheckFailed` or `TimeoutError`, after the failed check is printed."""
    certificates = Certificates(directory)
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for number, implementation in enumerate(server_set.split("+")):
            home = directory / f"{number}-{implementation}"
            home.mkdir()
            port = free_port()
            servers.append(IMPLEMENTATIONS[implementation](binary, f"localhost:{port}", home, certificates, port))
            stack.callback(servers[-1].clean_up)
        sdks = pair.split("+")
        users = [
            User("Alice", sdks[0], servers[0], directory),
            User("Bob", sdks[1], servers[-1], directory),
            User("Carol", sdks[1], servers[-1], directory),
        ]
        for user in users:
            stack.push_async_callback(user.stop)
        ctx = ScenarioContext(checks, f"{pair} on {server_set}", *users)
        with ctx.check("the servers start"):
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        async with asyncio.timeout(TIMEOUT):
            await encryption(ctx)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("pairs", nargs="*", metavar="PAIR")
    parser.add_argument("--servers", action="append")
    arguments = parser.parse_args()
    # SIGTERM runs the clean-up, so that no servers are left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for pair in arguments.pairs:
        if not set(pair.split("+")) <= ENCRYPTED_COMMANDS.keys() or pair.count("+") != 1:
            parser.error(f"{pair}: expected two of {', '.join(ENCRYPTED_COMMANDS)}, joined by +")
    for server_set in arguments.servers or SERVER_SETS:
        if not set(server_set.split("+")) <= IMPLEMENTATIONS.keys() or server_set.count("+") > 1:
            parser.error(f"{server_set}: expected one or two of {', '.join(IMPLEMENTATIONS)}, joined by +")
    for sdk, unsupported in UNSUPPORTED.items():
        print(f"--- {sdk} lacks: {', '.join(sorted(unsupported)) or 'nothing'}")
    checks = Checks()
    runs = [
        (server_set, pair)
        for server_set in arguments.servers or SERVER_SETS
        for pair in arguments.pairs or SERVER_SETS.get(server_set, SERVER_SETS["hearth"])
    ]
    asyncio.run(run_all(arguments.binary, runs, checks))
    checks.summarize()
    return 1 if checks.failed else 0


sys.exit(main())
