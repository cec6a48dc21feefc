"""Starts, stops and kills homeservers. `Hearth` runs any binary as `BINARY serve --config FILE`."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

STARTUP_TIMEOUT = 60
STOP_TIMEOUT = 20


class Server:
    """A server process with its own directory. It has the same ports at every start."""

    # Features that this implementation is known to lack. Scenarios do not use them.
    unsupported = frozenset()

    def __init__(self, name, directory, port):
        self.name = name
        self.process = None
        self.url = f"http://127.0.0.1:{port}"
        self.directory = directory
        self.log = directory / "server.log"
        self.command = []

    def start(self):
        """Starts the server; returns the seconds until its first response."""
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self.is_ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server exited with {self.process.returncode} during startup")
            if time.monotonic() - started > STARTUP_TIMEOUT:
                raise RuntimeError(f"the server did not respond within {STARTUP_TIMEOUT} s")
            time.sleep(0.01)
        return time.monotonic() - started

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/_matrix/client/versions", timeout=5) as response:
                return "versions" in json.load(response)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self):
        """Sends SIGKILL, which leaves the data as a power cut does."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_TIMEOUT)

    def clean_up(self):
        if self.process and self.process.poll() is None:
            self.kill()


class Hearth(Server):
    """`settings` are added to the configuration, or replace what stands there."""

    def __init__(self, binary, name, directory, **settings):
        port = free_port()
        super().__init__(name, directory, port)
        settings = {
            "server_name": name,
            "data_dir": str(directory / "data"),
            "listen": [f"127.0.0.1:{port}"],
            "registration": "open",
            "rate_limits": False,
        } | settings
        config = directory / "hearth.toml"
        # The JSON of strings, lists of strings and booleans is valid TOML.
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        self.command = [binary, "serve", "--config", config]


def free_port():
    """Below the range of outgoing connections, so that the port is still free when a server restarts."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
