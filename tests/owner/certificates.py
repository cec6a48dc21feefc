"""Certificates that hearth gets by itself, from an authority on this machine."""

import contextlib
import signal
import socket
import ssl
import stat
import time

from authority import BLOCKED, Authority
from certificate_files import faked, faketime_library
from server import Hearth, free_port

TIMEOUT = 30  # seconds
# Nobody else listens there on port 80.
HTTP_ADDRESS = "127.0.0.80"


class Owned(Hearth):
    """A server with certificates of `authority`."""

    def __init__(self, binary, name, directory, authority, **settings):
        directory.mkdir()
        self.authority = authority
        self.tls_port = settings.pop("tls_port", authority.tls_port)
        settings = {
            "acme": "you@example.org",
            "acme_directory": authority.url,
            "extra_ca": str(authority.ca),
            "tls_listen": [f"127.0.0.1:{self.tls_port}"],
            "registration": "closed",
            "federation": "off",
        } | settings
        super().__init__(binary, name, directory, **settings)
        self.data = directory / "data"

    def retry(self):
        self.process.send_signal(signal.SIGHUP)

    def certificate(self, name):
        """What a client gets that trusts the authority, as PEM; raises `OSError` if it would not connect."""
        context = ssl.create_default_context(cadata=self.authority.roots())
        with socket.create_connection(("127.0.0.1", self.tls_port), timeout=10) as connection:
            with context.wrap_socket(connection, server_hostname=name) as client:
                client.sendall(f"GET /_matrix/client/versions HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
                assert client.recv(12) == b"HTTP/1.1 200"
                return ssl.DER_cert_to_PEM_cert(client.getpeercert(binary_form=True))

    def wait_for_certificate(self, name, other_than=None):
        found = None

        def is_there():
            nonlocal found
            with contextlib.suppress(OSError):
                found = self.certificate(name)
            return found not in (None, other_than)

        wait_until(is_there, f"{name} has no certificate")
        return found

    def wait_for_log(self, text, since=0):
        wait_until(lambda: text in self.log_since(since), f"the log lacks: {text}")

    def log_since(self, position):
        return self.log.read_text()[position:]

    def log_end(self):
        return len(self.log.read_text())


def wait_until(condition, failure, seconds=TIMEOUT):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.1)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def issue_and_renew(binary, directory, authority, checks):
    hearth = Owned(binary, "example.org", directory / "renewed", authority)
    name = "example.org"
    try:
        with checks.check("without the authority hearth runs, and says what to do"):
            hearth.start()
            hearth.wait_for_log("the authority cannot be reached")
            assert "no TLS certificate for example.org" in hearth.log_since(0)
        with checks.check("a failure is waited out over a restart"):
            authority.start()
            hearth.stop()
            hearth.start()
            time.sleep(2)
            assert authority.orders() == 0
        with checks.check("SIGHUP gets the certificate at once, by TLS-ALPN-01"):
            hearth.retry()
            first = hearth.wait_for_certificate(name)
        with checks.check("only the server's user can read the keys"):
            files = list((hearth.data / "acme").iterdir())
            assert {file.name for file in files} == {"account.der", "example.org.json", "example.org.pem"}, files
            assert mode(hearth.data / "acme") == 0o700 and {mode(file) for file in files} == {0o600}
        with checks.check("a restart uses the certificate that is there"):
            orders = authority.orders()
            hearth.stop()
            hearth.start()
            assert hearth.certificate(name) == first
            assert authority.orders() == orders
        with checks.check("a certificate is renewed when the authority suggests it, without a restart"):
            authority.suggest_renewal(first)
            hearth.retry()
            hearth.wait_for_certificate(name, other_than=first)
        with checks.check("a damaged certificate is ordered again, with a damaged account too"):
            hearth.stop()
            (hearth.data / "acme" / "account.der").write_text("")
            (hearth.data / "acme" / "example.org.pem").write_text("-----BEGIN NOTHING-----\n")
            (hearth.data / "acme" / "example.org.json").write_text("{")
            hearth.start()
            hearth.wait_for_certificate(name)
    finally:
        hearth.clean_up()


def refused(binary, directory, authority, checks):
    """The authority is running."""
    authority.lead("elsewhere.example", "127.0.0.9")
    for name, words in [
        (BLOCKED, "the authority gives no certificate for this name"),
        ("elsewhere.example", "the authority did not find this server under the name"),
    ]:
        hearth = Owned(binary, name, directory / name, authority)
        try:
            with checks.check(f"of a refusal the log has the reason and what to do: {words}"):
                hearth.start()
                hearth.wait_for_log(words)
            with checks.check(f"after the refusal of {name} there is no second order at once"):
                orders = authority.orders()
                time.sleep(2)
                assert authority.orders() == orders
        finally:
            hearth.clean_up()
    settings = {"public_url": "https://matrix.elsewhere.example"}
    hearth = Owned(binary, "elsewhere.example", directory / "two", authority, **settings)
    try:
        with checks.check("a name that is elsewhere keeps no certificate from the one that is here"):
            hearth.start()
            hearth.wait_for_certificate("matrix.elsewhere.example")
            hearth.wait_for_log("as it should be if https://elsewhere.example is on another machine")
    finally:
        hearth.clean_up()


def wrong_clock(binary, directory, authority, checks):
    """The authority is running."""
    hearth = Owned(binary, "late.example", directory / "late", authority)
    command = hearth.command
    hearth.command = ["env", *faked("@2019-01-01 12:00:00", faketime_library()), *command]
    try:
        with checks.check("with a wrong clock the log says to set it"):
            hearth.start()
            hearth.wait_for_log("set its clock")
        with checks.check("when the clock is right the certificate comes"):
            hearth.stop()
            hearth.command = command
            hearth.start()
            hearth.wait_for_certificate("late.example")
    finally:
        hearth.clean_up()


def by_http(binary, directory, authority, checks):
    """The authority is running."""
    name = "http.example"
    authority.lead(name, HTTP_ADDRESS)
    hearth = Owned(binary, name, directory / "http", authority, listen=[f"{HTTP_ADDRESS}:80"], tls_port=free_port())
    hearth.url = f"http://{HTTP_ADDRESS}"
    try:
        with checks.check("where port 80 is listened on, the second try is by HTTP-01"):
            hearth.start()
            hearth.wait_for_log("the authority did not find this server under the name")
            hearth.retry()
            hearth.wait_for_certificate(name)
    finally:
        hearth.clean_up()


def run(binary, programs, directory, checks):
    authority = Authority(programs, directory, tls_port=free_port(), http_port=80)
    try:
        issue_and_renew(binary, directory, authority, checks)
        refused(binary, directory, authority, checks)
        wrong_clock(binary, directory, authority, checks)
        by_http(binary, directory, authority, checks)
    finally:
        authority.stop()
