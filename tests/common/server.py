"""Starts, kills and stops homeservers. Hearth is any binary that is run as `BINARY serve --config FILE`."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

START_DEADLINE = 60
STOP_DEADLINE = 20


class Server:
    """One server with a directory of its own; it answers on the same ports at every start."""

    # What a server of this make is known not to do; a scenario does not ask it for that.
    lacks = frozenset()

    def __init__(self, name, directory, port):
        self.name = name
        self.process = None
        self.url = f"http://127.0.0.1:{port}"
        self.directory = directory
        self.log = directory / "server.log"
        self.command = []

    def start(self):
        """Starts the server and returns how many seconds it took until it answered."""
        begun = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self.answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode} instead of answering")
            if time.monotonic() - begun > START_DEADLINE:
                raise RuntimeError(f"the server did not answer within {START_DEADLINE} s")
            time.sleep(0.01)
        return time.monotonic() - begun

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/_matrix/client/versions", timeout=5) as answer:
                return "versions" in json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self):
        """SIGKILL: what a power cut leaves of a process."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM, as an init system stops it; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_DEADLINE)

    def clean_up(self):
        if self.process and self.process.poll() is None:
            self.kill()


class Hearth(Server):
    """`settings` are lines of `hearth.toml` beyond those that every test needs."""

    def __init__(self, binary, name, directory, **settings):
        port = free_port()
        super().__init__(name, directory, port)
        settings |= {
            "server_name": name,
            "data_dir": str(directory / "data"),
            "listen": [f"127.0.0.1:{port}"],
            "registration": "open",
            "rate_limits": False,
        }
        config = directory / "hearth.toml"
        # What JSON writes for texts, lists of them and booleans is TOML too.
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        self.command = [binary, "serve", "--config", config]


def free_port():
    """A port below those that outgoing connections get, so that a server finds it free at each start."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
