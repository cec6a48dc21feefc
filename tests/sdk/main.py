"""The engine of Element X with a server: `main.py BINARY AGENT`. The agent is the binary of this crate.

Alice and Dave use matrix-sdk-ui, Carol uses matrix-js-sdk, and Bob has no SDK."""

import argparse
import asyncio
import pathlib
import shutil
import signal
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).parents[1]
sys.path += [str(TESTS / "common"), str(TESTS / "clients")]

from checks import CheckFailed, Checks, print_log_ends
from scenario import Scenario
from server import Hearth

TIMEOUT = 400  # seconds


async def run(binary, agent, checks, directory):
    """Runs the scenario. Raises `CheckFailed` or `TimeoutError`, after the failed check is printed."""
    server = Hearth(binary, "localhost", directory)
    scenario = Scenario(checks, server, agent, directory)
    try:
        async with asyncio.timeout(TIMEOUT):
            await scenario.run()
    finally:
        await scenario.stop()
        server.clean_up()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("agent", type=lambda path: pathlib.Path(path).resolve())
    arguments = parser.parse_args()
    # SIGTERM runs the clean-up, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    checks = Checks()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="hearth-sdk-"))
    started = time.monotonic()
    try:
        asyncio.run(run(arguments.binary, arguments.agent, checks, directory))
    except (CheckFailed, TimeoutError):
        print_log_ends(directory)
    except Exception:
        # Not from a check: the scenario is wrong.
        print_log_ends(directory)
        raise
    finally:
        shutil.rmtree(directory)
    print(f"--- took {time.monotonic() - started:.0f} s")
    checks.summarize()
    return 1 if checks.failed else 0


sys.exit(main())
