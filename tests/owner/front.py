"""nginx in front of a server, with the file of the README."""

import contextlib
import pathlib
import socket
import subprocess
import time

README = pathlib.Path(__file__).parents[1] / "proxies" / "nginx.conf"
START_TIMEOUT = 20  # seconds
PLACE = "        location / {\n"


class Front:
    """It listens on port 443 of `address` for `name`, and passes all on to port 8008 there."""

    def __init__(self, directory, name, address, key, certificate):
        self.directory, self.address = directory, address
        self.key, self.certificate = key, certificate
        self.process = None
        self.text = README.read_text()
        # As the program itself, its processes are those of root: the files below are nobody else's.
        here = f"user root;\ndaemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n"
        for old, new in [
            ("listen 443 ssl", f"listen {address}:443 ssl"),
            ("        listen [::]:443 ssl http2;\n", ""),
            ("/etc/letsencrypt/live/example.org/fullchain.pem", f'"{certificate}"'),
            ("/etc/letsencrypt/live/example.org/privkey.pem", f'"{key}"'),
            ("server_name example.org;", f"server_name {name};"),
            ("127.0.0.1:8008", f"{address}:8008"),
            ("events {}", f"{here}events {{}}"),
            ("http {", f"http {{\n    access_log off;\n    client_body_temp_path {directory};"),
        ]:
            self.text = replaced(self.text, old, new)

    def start(self):
        config = self.directory / "nginx.conf"
        config.write_text(self.text)
        with (self.directory / "nginx.log").open("ab") as log:
            command = ["nginx", "-c", config, "-p", self.directory]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, 443), timeout=5):
                return
            assert self.process.poll() is None and time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.02)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def stopped(self):
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def changed(self, *changes):
        """With other lines for a while: pairs of old and new ones."""
        text = self.text
        try:
            self.stop()
            for old, new in changes:
                self.text = replaced(self.text, old, new)
            self.start()
            yield
        finally:
            self.stop()
            self.text = text
            self.start()

    def presents(self, files):
        """Another certificate, of files with a key and the certificate."""
        key, certificate = files
        return self.changed((f'"{self.key}"', f'"{key}"'), (f'"{self.certificate}"', f'"{certificate}"'))

    def answers(self, path, lines):
        """It answers a path itself."""
        return self.changed((PLACE, f"        location = {path} {{ {lines} }}\n{PLACE}"))


def replaced(text, old, new):
    assert old in text, f"nginx.conf has no {old}"
    return text.replace(old, new, 1)
