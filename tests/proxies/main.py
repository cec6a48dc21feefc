"""hearth behind the reverse proxies and the tunnel that the README shows: `main.py BINARY`."""

import http.client
import json
import pathlib
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "common"))

from checks import CheckFailed, Checks
from server import Hearth, free_port
from tunnel import COMMAND, tunnel

CLIENT = "127.0.0.2"
START_TIMEOUT = 20  # seconds


def request(port, method, path, body=None, token=None, tls=True):
    """Sends a request from the address `CLIENT`; returns the status and the JSON of the response."""
    arguments = {"timeout": 30, "source_address": (CLIENT, 0)}
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("localhost", port, context=context, **arguments)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, **arguments)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if isinstance(body, dict):
        body = json.dumps(body)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def check_readme():
    """The README shows the blocks of the files."""
    readme = (HERE.parents[1] / "README.md").read_text()
    readme = "\n".join(line.strip() for line in readme.splitlines())
    for name in ("nginx.conf", "Caddyfile"):
        lines = (HERE / name).read_text().splitlines()
        start = next(index for index, line in enumerate(lines) if line.strip() in ("location / {", "example.org {"))
        end = next(index for index in range(start, len(lines)) if lines[index].strip() == "}")
        block = "\n".join(line.strip() for line in lines[start : end + 1])
        assert block in readme, f"the README lacks the block of {name}: {block}"
    assert COMMAND in readme, f"the README lacks {COMMAND}"


def nginx(directory, upstream):
    """The command and the port of nginx with the file of the README. `upstream` is a port or the path of a socket."""
    port = free_port()
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    text = (HERE / "nginx.conf").read_text()
    for old, new in [
        ("listen 443 ", f"listen {port} "),
        ("listen [::]:443 ", f"listen [::]:{port} "),
        ("/etc/letsencrypt/live/example.org/fullchain.pem", str(certificate)),
        ("/etc/letsencrypt/live/example.org/privkey.pem", str(key)),
        ("server_name example.org;", "server_name localhost;"),
        ("127.0.0.1:8008", f"127.0.0.1:{upstream}" if isinstance(upstream, int) else f"unix:{upstream}"),
        ("events {}", f"events {{}}\ndaemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;"),
        ("http {", f"http {{\n    access_log off;\n    client_body_temp_path {directory};"),
    ]:
        assert old in text, f"nginx.conf has no {old}"
        text = text.replace(old, new, 1)
    config = directory / "nginx.conf"
    config.write_text(text)
    return ["nginx", "-c", config, "-p", directory], port


def caddy(directory, upstream):
    """The same of Caddy."""
    port = free_port()
    text = (HERE / "Caddyfile").read_text()
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tdefault_sni localhost\n}\n"
    storage = f"storage file_system {directory}/caddy"
    for old, new in [
        ("example.org {", f"localhost:{port} {{\n\ttls internal"),
        ("127.0.0.1:8008", f"127.0.0.1:{upstream}" if isinstance(upstream, int) else f"unix/{upstream}"),
    ]:
        assert old in text, f"Caddyfile has no {old}"
        text = text.replace(old, new)
    config = directory / "Caddyfile"
    config.write_text(options.replace("admin off", f"admin off\n\t{storage}") + text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", config], port


def wait_until_ready(port, process):
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            if request(port, "GET", "/_matrix/client/versions")[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        assert process.poll() is None, "the proxy exited"
        assert time.monotonic() < deadline, "the proxy does not answer"
        time.sleep(0.1)


def behind(name, make, upstream, hearth_port, checks, directory):
    command, port = make(directory, upstream)
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with checks.check(f"{name} starts with the file of the README"):
            wait_until_ready(port, process)
        with checks.check(f"an account is made through {name}"):
            body = {"username": name, "password": "a long password", "auth": {"type": "m.login.dummy"}}
            status, account = request(port, "POST", "/_matrix/client/v3/register", body)
            assert status == 200, account
            token = account["access_token"]
        with checks.check(f"{name} passes on paths as they are"):
            path = "/_matrix/client/v3/rooms/!a%2Fb%3Alocalhost/state/m.x/a%2F%2Fb%20c"
            through = request(port, "GET", path, token=token)
            assert through == request(hearth_port, "GET", path, token=token, tls=False), through
            assert through[1]["errcode"] == "M_FORBIDDEN", through
        with checks.check(f"{name} passes on a large upload and a poll of two seconds"):
            path = "/_matrix/media/v3/upload?filename=large"
            status, uploaded = request(port, "POST", path, bytes(20_000_000), token)
            assert status == 200, uploaded
            _, synced = request(port, "GET", "/_matrix/client/v3/sync", token=token)
            path = f"/_matrix/client/v3/sync?timeout=2000&since={synced['next_batch']}"
            assert request(port, "GET", path, token=token)[0] == 200
        with checks.check(f"behind {name} the address of a client is known"):
            # It was stored with the upload.
            status, device = request(port, "GET", f"/_matrix/client/v3/devices/{account['device_id']}", token=token)
            assert device.get("last_seen_ip") == CLIENT, device
    finally:
        process.terminate()
        process.wait()


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="hearth-proxies-") as name:
        directory = pathlib.Path(name)
        # nginx enters it as another user.
        directory.chmod(0o711)
        port, sock = free_port(), directory / "hearth.sock"
        hearth = Hearth(
            pathlib.Path(sys.argv[1]), "localhost", directory, listen=[f"127.0.0.1:{port}", f"unix:{sock}"]
        )
        hearth.url = f"http://127.0.0.1:{port}"
        try:
            with checks.check("the README shows these files"):
                check_readme()
            hearth.start()
            with tunnel(directory, port) as outside:
                for name, make, upstream in [
                    ("nginx", nginx, port),
                    ("caddy", caddy, port),
                    ("nginx-at-a-socket", nginx, sock),
                    ("caddy-at-a-socket", caddy, sock),
                    ("caddy-at-a-tunnel", caddy, outside),
                ]:
                    place = directory / name
                    place.mkdir()
                    behind(name, make, upstream, port, checks, place)
        except CheckFailed:
            for log in sorted(directory.rglob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
        finally:
            hearth.clean_up()
    checks.summarize()
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
