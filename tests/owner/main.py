"""Owning a server: `main.py BINARY PROGRAMS PACKAGE CACHE`: directories with Pebble and for a clean Debian, and the
Debian package of the binary. Root runs this."""

import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "common"))

import broken
import certificates
import ten_minutes
from checks import CheckFailed, Checks, print_log_ends
from owned import World


def main():
    binary, programs, package, cache = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="hearth-owner-") as name:
        directory = pathlib.Path(name)
        try:
            for part in ("certificates", "servers"):
                (directory / part).mkdir()
            with World(package, programs, cache, directory / "servers") as world:
                broken.run(world, *ten_minutes.run(world, checks), checks)
            certificates.run(binary, programs, directory / "certificates", checks)
        except CheckFailed:
            for part in directory.iterdir():
                print_log_ends(part)
    checks.summarize()
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
