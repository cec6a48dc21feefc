"""Starts, kills and stops the server under test: a binary that is run as `BINARY serve --config FILE`."""

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

SERVER_NAME = "localhost"
START_DEADLINE = 60
STOP_DEADLINE = 20


class Server:
    """One server with a data directory of its own, on the same port at every start."""

    def __init__(self, binary, directory):
        self.binary = binary
        self.directory = directory
        self.process = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "server.log"
        self.config = directory / "hearth.toml"
        self.config.write_text(
            f'server_name = "{SERVER_NAME}"\n'
            f'data_dir = "{directory / "data"}"\n'
            f'listen = ["127.0.0.1:{self.port}"]\n'
            'registration = "open"\n'
            "rate_limits = false\n"
        )

    def start(self):
        """Starts the server and returns how many seconds it took until it answered."""
        begun = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
