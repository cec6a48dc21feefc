"""An ACME authority on this machine: Pebble, with a name server of its own."""

import json
import os
import pathlib
import ssl
import subprocess
import time
import urllib.request

from certificate_files import Issuer
from name_server import NameServer
from server import free_port

START_TIMEOUT = 20  # seconds
BLOCKED = "blocked.example"
# Every order is validated, at once.
ENVIRONMENT = {"PEBBLE_AUTHZREUSE": "0", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}


class Authority:
    """For it every name leads to 127.0.0.1, unless `lead` says otherwise. It connects to `tls_port` and `http_port`."""

    def __init__(self, programs, directory, tls_port, http_port):
        self.programs = pathlib.Path(programs)
        self.directory = directory
        self.tls_port, self.http_port = tls_port, http_port
        self.port, self.management = free_port(), free_port()
        self.records = {}
        self.name_server = None
        self.process = None
        # Of its own server; a client that trusts it trusts what it signs.
        self.root = Issuer.root(directory, "the authority")
        self.ca = self.root.certificate
        self.key, self.certificate = self.root.issue("localhost")

    @property
    def url(self):
        return f"https://localhost:{self.port}/dir"

    def start(self):
        directory = self.directory
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.certificate),
            "privateKey": str(self.key),
            "tlsPort": self.tls_port,
            "httpPort": self.http_port,
            "domainBlocklist": [BLOCKED],
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {"default": {"description": "90 days", "validityPeriod": 90 * 86400}},
        }
        (directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        self.name_server = NameServer("127.0.0.1", 0, self.records, default="127.0.0.1")
        command = [self.programs / "pebble", "-config", directory / "pebble.json", "-strict"]
        environment = os.environ | ENVIRONMENT
        with (directory / "pebble.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-dnsserver", self.name_server.address],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._get(self.url)
                return
            except OSError:
                assert time.monotonic() < deadline, "the authority does not answer"
                time.sleep(0.1)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.name_server.stop()

    def roots(self):
        """What a client has to trust."""
        return self._get(f"https://localhost:{self.management}/roots/0").decode()

    def orders(self):
        """How many orders were made."""
        return (self.directory / "pebble.log").read_text().count("Added order ")

    def lead(self, name, address):
        self.records[name, "A"] = [address]

    def suggest_renewal(self, certificate):
        """The authority wants the certificate renewed since yesterday."""
        day = 86400
        at = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * day)) for days in (2, 1)]
        hint = {"suggestedWindow": {"start": at[0], "end": at[1]}}
        body = json.dumps({"certificate": certificate, "ariResponse": json.dumps(hint)}).encode()
        self._get(f"https://localhost:{self.management}/set-renewal-info/", body)

    def _get(self, url, body=None):
        context = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(url, body, timeout=10, context=context) as response:
            return response.read()
