"""A reverse tunnel of OpenSSH: a server on this machine stands for the one with a public address."""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

from server import free_port

START_TIMEOUT = 20  # seconds
# As in the README, where the destination follows.
COMMAND = "ssh -N -o ExitOnForwardFailure=yes -R 127.0.0.1:8008:127.0.0.1:8008"


@contextlib.contextmanager
def tunnel(directory, port):
    """The port on the public machine that leads to `port` here, by the command of the README."""
    public, outside = free_port(), free_port()
    for name in ("host", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]
        subprocess.run(command, check=True)
    shutil.copy(directory / "key.pub", directory / "authorized_keys")
    # Where Debian's sshd runs its unprivileged part.
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "Port": public,
        "ListenAddress": "127.0.0.1",
        "HostKey": directory / "host",
        "AuthorizedKeysFile": directory / "authorized_keys",
        # The directory is below /tmp.
        "StrictModes": "no",
        "PidFile": "none",
        "UsePAM": "no",
    }
    server = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *(f"-o{key}={value}" for key, value in options.items())]
    known = ["-oStrictHostKeyChecking=accept-new", f"-oUserKnownHostsFile={directory}/known", "-F", "/dev/null"]
    user = pwd.getpwuid(os.getuid()).pw_name
    readme = COMMAND.replace("8008", str(outside), 1).replace("8008", str(port)).split()
    client = [*readme, *known, "-i", directory / "key", "-p", str(public), f"{user}@127.0.0.1"]
    processes = []
    try:
        for command, opened in [(server, public), (client, outside)]:
            with (directory / f"{pathlib.Path(command[0]).name}.log").open("wb") as log:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            processes.append(process)
            wait_for(opened, process)
        yield outside
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def wait_for(port, process):
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        assert process.poll() is None and time.monotonic() < deadline, "the tunnel does not open"
        time.sleep(0.1)
