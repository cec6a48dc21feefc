"""Clean Debian systems, without containers: a directory of debootstrap, in which programs run with mounts of
their own. They share the network and the processes of this machine."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

from certificate_files import faketime_library

# Of this machine, whose binary the package has.
SUITE = next(
    line.split("=")[1].strip('"\n')
    for line in pathlib.Path("/etc/os-release").open()
    if line.startswith("VERSION_CODENAME=")
)

STOP_TIMEOUT = 30  # seconds
COMMAND_TIMEOUT = 90  # seconds
# The user of the service.
USER = 990
# What `systemctl` starts, with what of the unit the server can see: its user, its sandbox, and that systemd started
# it. It gets the privilege to listen on port 443 of its own address, as the socket of the unit is for all addresses.
UNIT = """exec setpriv --reuid USER --regid USER --clear-groups --no-new-privs \\
    --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \\
    env - PATH=/usr/bin SYSTEMD_EXEC_PID=$$ hearth serve --config /etc/hearth/hearth.toml
""".replace("USER", str(USER))
NO_NEW_PRIVILEGES = "--no-new-privs"
FAKETIME = "/usr/local/lib/libfaketime.so.1"

SYSTEMCTL = f"""#!/bin/sh
echo "$*" >>/root/systemctl.log
stop() {{
    [ -e /root/server.pid ] || return 0
    read -r pid </root/server.pid
    kill "$pid" 2>/dev/null
    # There is no program any more in a process that nobody waits for.
    while [ -e "/proc/$pid/exe" ]; do sleep 0.05; done
}}
start() {{
    install -d -m 700 -o {USER} -g {USER} /var/lib/hearth
    sh /root/unit </dev/null >>/root/server.log 2>&1 &
    echo $! >/root/server.pid
    until [ -S /var/lib/hearth/hearth.sock ]; do
        kill -0 $! || exit 1
        sleep 0.05
    done
}}
case "$*" in
    *"stop hearth.service") stop ;;
    *"enable --now hearth.service") start ;;
    "restart hearth") stop; start ;;
    "reload hearth") kill -HUP "$(cat /root/server.pid)" ;;
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
        self.mounts = []
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
        finished = self.try_to_run(*arguments, input=input)
        assert finished.returncode == 0, f"{arguments}: {finished.stdout}{finished.stderr}"
        return finished.stdout

    def try_to_run(self, *arguments, input=None):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        finished = subprocess.run(
            self.command(*arguments),
            input=input or "",
            capture_output=True,
            text=True,
            env=environment,
            timeout=COMMAND_TIMEOUT,
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(map(str, arguments))}\n{finished.stdout}{finished.stderr}")
        return finished

    def put(self, path, content, mode=0o644):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(mode)

    def get(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def pretend_systemd(self):
        """Instead of systemd, which needs a machine or a container of its own: a `systemctl` that starts and stops the
        server as the unit does, and writes down what it was called with."""
        (self.root / "run/systemd/system").mkdir(parents=True)
        self.put("/usr/bin/systemctl", SYSTEMCTL, mode=0o755)
        self.put("/root/unit", UNIT)
        self.put("/root/server.log", "")
        (self.root.parent / "service.log").symlink_to("root/root/server.log")
        self.put(FAKETIME, faketime_library().read_bytes())

    def systemctl_calls(self):
        return self.get("/root/systemctl.log").splitlines()

    def small_disk(self, path, megabytes):
        """A disk of its own for a directory."""
        target = self.root / path.lstrip("/")
        target.mkdir(parents=True)
        options = f"size={megabytes}M,mode=700,uid={USER},gid={USER}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", target], check=True)
        self.mounts.append(target)

    def serve(self, *arguments):
        with self.log.open("ab") as log:
            command = self.command(*arguments)
            environment = os.environ | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def stop_serving(self):
        self.server.terminate()
        self.server.wait(STOP_TIMEOUT)
        self.server = None

    def clean_up(self):
        if self.server:
            self.server.kill()
            self.server.wait()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(self.get("/root/server.pid")), signal.SIGKILL)
        for target in self.mounts:
            subprocess.run(["umount", "--lazy", target], check=True)
