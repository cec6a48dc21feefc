"""Owning a server: `main.py BINARY PROGRAMS`, the latter a directory with Pebble."""

import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "common"))

import certificates
from checks import CheckFailed, Checks, print_log_ends


def main():
    binary, programs = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="hearth-owner-") as name:
        directory = pathlib.Path(name)
        try:
            certificates.run(binary, programs, directory, checks)
        except CheckFailed:
            print_log_ends(directory)
    checks.summarize()
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
