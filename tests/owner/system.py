"""Clean Debian systems, without containers: a directory of debootstrap, in which programs run with mounts of
their own. They share the network and the processes of this machine."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

# Of this machine, whose binary the package has.
SUITE = next(
    line.split("=")[1].strip('"\n')
    for line in pathlib.Path("/etc/os-release").open()
    if line.startswith("VERSION_CODENAME=")
)

SYSTEMCTL = b"""#!/bin/sh
echo "$*" >>/root/systemctl.log
case "$*" in
    *"enable --now hearth.service")
        hearth serve --config /etc/hearth/hearth.toml </dev/null >>/root/server.log 2>&1 &
        echo $! >/root/server.pid
        until [ -S /var/lib/hearth/hearth.sock ]; do
            kill -0 $! || exit 1
            sleep 0.1
        done
        ;;
esac
"""


def fresh(cache):
    """The directory with a Debian in which nothing was installed. It is made once."""
    root, complete = cache / f"debian-{SUITE}", cache / f"debian-{SUITE}.complete"
    if not complete.exists():
        shutil.rmtree(root, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, root]
        with (cache / "debootstrap.log").open("w") as log:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        complete.touch()
    return root


class System:
    """A copy of the fresh system."""

    def __init__(self, fresh, directory, nameserver):
        self.root = directory / "root"
        self.log = directory / "server.log"
        self.server = None
        directory.mkdir()
        subprocess.run(["cp", "-a", "--reflink=auto", fresh, self.root], check=True)
        (self.root / "etc/resolv.conf").unlink(missing_ok=True)
        (self.root / "etc/resolv.conf").write_text(f"nameserver {nameserver}\n")

    def command(self, *arguments):
        """Each program replaces the one before: the process is that of the last."""
        inside = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        unshare = ["unshare", "--mount", "sh", "-c", inside, self.root]
        return [*map(str, unshare), *map(str, arguments)]

    def run(self, *arguments, input=None):
        """What a command prints that succeeds."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        finished = subprocess.run(
            self.command(*arguments), input=input or "", capture_output=True, text=True, env=environment
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(map(str, arguments))}\n{finished.stdout}{finished.stderr}")
        assert finished.returncode == 0, f"{arguments}: {finished.stdout}{finished.stderr}"
        return finished.stdout

    def put(self, path, content, mode=0o644):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)

    def pretend_systemd(self):
        """Instead of systemd, which needs a machine or a container of its own: a `systemctl` that starts the server
        when it is to be enabled, and writes down what it was called with."""
        (self.root / "run/systemd/system").mkdir(parents=True)
        self.put("/usr/bin/systemctl", SYSTEMCTL, mode=0o755)

    def systemctl_calls(self):
        return (self.root / "root/systemctl.log").read_text().splitlines()

    def serve(self, *arguments):
        with self.log.open("ab") as log:
            command = self.command(*arguments)
            environment = os.environ | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            self.server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def clean_up(self):
        if self.server:
            self.server.kill()
            self.server.wait()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.root / "root/server.pid").read_text()), signal.SIGKILL)
