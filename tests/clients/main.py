"""Real clients with a server: `main.py BINARY [PAIR...]`. A pair is two SDKs, such as `nio+js`, or `apps`.

The same scenario runs for every pair, each on its own server. `apps` are those of `apps.py`."""

import argparse
import asyncio
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1] / "common"))

from apps import apps
from chat import ScenarioContext, chat
from checks import CheckFailed, Checks, print_log_ends
from client import COMMANDS, Client
from crash import crashes
from files import MAX_UPLOAD, share_files
from server import Hearth
from threads import thread_of_a_new_device, threads

PAIRS = ["nio+nio", "js+js", "nio+js", "apps"]
TIMEOUT = 240  # seconds


async def run_pair(binary, pair, checks, directory):
    """Runs the scenario. Raises `CheckFailed` or `TimeoutError`, after the failed check is printed."""
    kinds = pair.split("+")
    server = Hearth(binary, "localhost", directory, max_upload=MAX_UPLOAD)
    alice, bob = (Client(name, kind, directory) for name, kind in zip(("Alice", "Bob"), kinds))
    try:
        with checks.check("the server starts"):
            server.start()
        for client in (alice, bob):
            await client.start(server.url)
        ctx = ScenarioContext(checks, server, alice, bob)
        async with asyncio.timeout(TIMEOUT):
            await chat(ctx)
            await threads(ctx)
            await share_files(ctx)
            if "js" in kinds:
                await thread_of_a_new_device(ctx, directory)
            await crashes(ctx)
    finally:
        for client in (alice, bob):
            await client.stop()
        server.clean_up()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("pairs", nargs="*", default=PAIRS)
    arguments = parser.parse_args()
    for pair in arguments.pairs:
        if pair != "apps" and (not set(pair.split("+")) <= COMMANDS.keys() or pair.count("+") != 1):
            parser.error(f"{pair}: expected two of {', '.join(COMMANDS)}, joined by +, or apps")

    checks = Checks()
    for pair in arguments.pairs:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-clients-"))
        print(f"--- {pair}", flush=True)
        started = time.monotonic()
        try:
            binary = arguments.binary.resolve()
            scenario = apps(binary, checks, directory) if pair == "apps" else run_pair(binary, pair, checks, directory)
            asyncio.run(scenario)
        except (CheckFailed, TimeoutError):
            print_log_ends(directory)
        else:
            print(f"--- {pair} took {time.monotonic() - started:.0f} s", flush=True)
        shutil.rmtree(directory)
    checks.summarize()
    return 1 if checks.failed else 0


sys.exit(main())
