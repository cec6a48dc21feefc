"""An ACME authority on this machine: Pebble, with a name server of its own."""

import json
import os
import pathlib
import ssl
import subprocess
import time
import urllib.request

from server import free_port

START_TIMEOUT = 20  # seconds
BLOCKED = "blocked.example"


class Authority:
    """Every name leads to 127.0.0.1, unless `lead` says otherwise. It connects to `tls_port` and `http_port`. Others
    can use its name server if it has an address, where it listens on port 53."""

    def __init__(self, programs, directory, tls_port, http_port, nameserver=None):
        self.programs = pathlib.Path(programs)
        self.directory = directory
        self.tls_port, self.http_port = tls_port, http_port
        self.port, self.management, self.dns, self.dns_management = (free_port() for _ in range(4))
        self.dns = f"{nameserver}:53" if nameserver else f"127.0.0.1:{self.dns}"
        self.processes = []
        self.ca = directory / "authority.pem"
        self._certificate()

    @property
    def url(self):
        return f"https://localhost:{self.port}/dir"

    def start(self):
        directory = self.directory
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(directory / "localhost.pem"),
            "privateKey": str(directory / "localhost.key"),
            "tlsPort": self.tls_port,
            "httpPort": self.http_port,
            "domainBlocklist": [BLOCKED],
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {"default": {"description": "90 days", "validityPeriod": 90 * 86400}},
        }
        (directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        none = [f"-{server}="for server in ("doh", "http01", "https01", "tlsalpn01")]
        resolver = ["-defaultIPv6=", "-defaultIPv4=127.0.0.1", f"-dnsserver={self.dns}", *none]
        self._run("pebble-challtestsrv", *resolver, f"-management=127.0.0.1:{self.dns_management}")
        pebble = ["-config", directory / "pebble.json", "-dnsserver", self.dns]
        self._run("pebble", *pebble, "-strict", PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0")
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._get(self.url)
                return
            except OSError:
                assert time.monotonic() < deadline, "the authority does not answer"
                time.sleep(0.1)

    def stop(self):
        for process in self.processes:
            process.terminate()
            process.wait()
        self.processes.clear()

    def roots(self):
        """What a client has to trust."""
        return self._get(f"https://localhost:{self.management}/roots/0").decode()

    def orders(self):
        """How many orders were made."""
        return (self.directory / "pebble.log").read_text().count("Added order ")

    def lead(self, name, address):
        body = json.dumps({"host": f"{name}.", "addresses": [address]}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.dns_management}/add-a", body).read()

    def suggest_renewal(self, certificate):
        """The authority wants the certificate renewed since yesterday."""
        day = 86400
        at = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * day)) for days in (2, 1)]
        hint = {"suggestedWindow": {"start": at[0], "end": at[1]}}
        body = json.dumps({"certificate": certificate, "ariResponse": json.dumps(hint)}).encode()
        self._get(f"https://localhost:{self.management}/set-renewal-info/", body)

    def _run(self, program, *arguments, **environment):
        with (self.directory / f"{program}.log").open("ab") as log:
            command = [self.programs / program, *arguments]
            environment = os.environ | environment
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self.processes.append(process)

    def _get(self, url, body=None):
        context = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(url, body, timeout=10, context=context) as response:
            return response.read()

    def _certificate(self):
        """A root, and the certificate of the authority's own server."""
        key, request, extensions = (self.directory / f"localhost.{end}" for end in ("key", "csr", "ext"))
        extensions.write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        root = ["-keyout", self.directory / "root.key", "-out", self.ca, "-subj", "/CN=the authority"]
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", *root)
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=localhost")
        signed = ["-CA", self.ca, "-CAkey", self.directory / "root.key", "-CAcreateserial", "-days", "30"]
        openssl("x509", "-req", "-in", request, *signed, "-extfile", extensions, "-out", self.directory / "localhost.pem")


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
