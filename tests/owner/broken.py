"""`hearth doctor` in set-ups that are in order, and in which one thing after the other is broken on purpose."""

import contextlib
import os
import re
import time

from certificate_files import Issuer, faked
from certificates import TIMEOUT, wait_until
from checks import CheckFailed
from front import PLACE, Front
from name_server import FAILS
from owned import CAROL, DATA, DISK, SETTINGS
from system import FAKETIME, NO_NEW_PRIVILEGES

# Nobody listens there.
NOWHERE = "127.0.0.99"
# In seconds: there is one order a minute, and it takes a while.
PACE = 90
# Another address of the proxy.
ELSEWHERE = "127.0.0.7"
SERVER_FILE, CLIENT_FILE = "/.well-known/matrix/server", "/.well-known/matrix/client"
JSON = "default_type application/json;"
FOR_ALL = "add_header Access-Control-Allow-Origin *;"


@contextlib.contextmanager
def records(zone, name, **changes):
    """Other records of a name, by their type."""
    before = dict(zone)
    try:
        zone.update({(name, kind): data for kind, data in changes.items()})
        yield
    finally:
        zone.clear()
        zone.update(before)


class Patient:
    """A server whose set-up is broken. `usual` is what doctor says of it anyhow."""

    def __init__(self, owned, checks, usual=()):
        self.owned, self.checks, self.usual = owned, checks, list(usual)

    def is_green(self):
        """A machine that has much to do may look once more."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            green, findings = self.owned.doctor()
            unusual = [words for words in findings if not any(usual in words for usual in self.usual)]
            if green and not unusual:
                return
            assert time.monotonic() < deadline, unusual

    def check(self, what, fault, *findings):
        """Each of `findings` is a state, and parts of the one line that doctor has to say. The other checks do not
        depend on this one."""
        with contextlib.suppress(CheckFailed), self.checks.check(f"doctor names {what}"):
            with fault:
                green, said = self.owned.doctor()
                for state, *parts in findings:
                    has_all = lambda words: f" {state}: " in words and all(part in words for part in parts)
                    assert any(map(has_all, said)), f"{state}, {parts} are not in {said}"
                assert green == (not any(state == "error" for state, *_ in findings)), said
            self.is_green()


def names_and_ports(world, bob, alice, patient):
    """What leads to a server that has its own certificate."""
    zone = world.records
    check = patient.check
    check(
        "a name without an address",
        records(zone, bob.name, A=[]),
        ("error", "dns", "no address in the DNS", "Enter an A record"),
    )
    check(
        "a name that leads to another server",
        records(zone, bob.name, A=[alice.address]),
        ("error", "clients", f"is the server {alice.name}, not {bob.name}", "DNS or well-known file"),
        ("error", "certificate", f"is for {alice.name}, not for {bob.name}"),
    )
    check(
        "an IPv6 address at which nothing answers",
        records(zone, bob.name, AAAA=["::1"]),
        ("error", "federation", "[::1]:443", "Remove the AAAA record"),
    )
    check(
        "name servers that fail",
        records(zone, bob.name, A=FAILS, AAAA=FAILS),
        ("error", "dns", f"{bob.name} cannot be looked up", "name servers answer"),
    )
    check(
        "name servers that fail for IPv6 alone",
        records(zone, bob.name, AAAA=FAILS),
        ("warning", "dns", "The AAAA records", "answer for both kinds"),
    )
    check(
        "an SRV record that is left over",
        records(zone, f"_matrix._tcp.{bob.name}", SRV=["10 5 8448 gone.example"]),
        ("warning", "srv", f"_matrix._tcp.{bob.name} is not used", "Remove it"),
    )
    check(
        "a server that has moved to another port",
        bob.set(tls_listen=[f"{bob.address}:8443"]),
        ("error", "federation", "Or serve all on port 443, where hearth answers /.well-known/matrix/server"),
        ("error", "clients", f"{bob.address}:443", "Forward port 443", "`tls_listen`"),
    )

    @contextlib.contextmanager
    def without_hairpin():
        # It fetches keys again only after a while, or a restart.
        alice.restart()
        with records(bob.records, bob.name, A=[NOWHERE]):
            yield

    check(
        "a network from inside which the public address does not answer",
        without_hairpin(),
        ("warning", "hairpin", "Others reach this server", NOWHERE, "NAT loopback"),
    )


def refusal(world, alice, checks):
    """The authority refuses to renew a certificate. This is not undone here: orders have a pace."""
    with checks.check("doctor names a certificate that is not renewed"):
        world.authority.lead(alice.name, NOWHERE)
        world.authority.suggest_renewal(alice.certificate())

        def is_refused():
            alice.reload()
            return alice.order_failure()

        wait_until(is_refused, "the authority refuses nothing", PACE)
        _, said = alice.doctor()
        words = [f"No new certificate for {alice.name}", "did not find this server", "SIGHUP"]
        assert any(all(part in line for part in words) for line in said), said


def end_of_refusal(world, alice, checks, patient):
    with checks.check("that certificate is renewed when the authority finds the server again"):
        world.authority.lead(alice.name, alice.address)

        def is_renewed():
            alice.reload()
            return not alice.order_failure()

        wait_until(is_renewed, "the certificate is not renewed", PACE)
        patient.is_green()


def unit(bob, patient):
    late = lambda unit: unit.replace("env - ", " ".join(["env -", *faked("+1h", FAKETIME), ""]))
    patient.check(
        "a clock that is wrong",
        bob.changed("/root/unit", late),
        ("error", "clock", "seconds fast", "timedatectl set-ntp true"),
    )
    patient.check(
        "a unit without its sandbox",
        bob.changed("/root/unit", lambda unit: unit.replace(NO_NEW_PRIVILEGES, "")),
        ("warning", "service", "without a sandbox", "Use the unit"),
    )


def certificates(carol, front, authority, patient):
    """Of a proxy, which got them elsewhere."""
    intermediate = authority.root.intermediate("an intermediate")
    other = Issuer.root(authority.directory, "nobody knows")
    for what, files, *words in [
        (
            "a certificate that has ended",
            intermediate.issue(carol.name, clock="-40d"),
            "days ago",
            "Renew it in the web server or proxy",
        ),
        (
            "a certificate for another name",
            intermediate.issue("www.example"),
            f"is for www.example, not for {carol.name}",
            f"Get a certificate for {carol.name}",
        ),
        (
            "a certificate without its chain",
            intermediate.issue(carol.name, is_complete=False),
            "without the certificates between",
            "fullchain.pem",
        ),
        (
            "a certificate of an authority that nobody knows",
            other.intermediate("below it").issue(carol.name),
            "an authority that this machine does not know",
            "Get one from an authority that everybody knows",
        ),
    ]:
        patient.check(what, front.presents(files), ("error", "certificate", *words))


def proxy(alice, carol, front, patient):
    check = patient.check

    @contextlib.contextmanager
    def untrusted():
        elsewhere = ("proxy_pass ", f"proxy_bind {ELSEWHERE};\nproxy_pass ")
        with front.changed(elsewhere), carol.set(trusted_proxies=["10.9.8.7"]):
            yield

    check(
        "a proxy that is stopped",
        front.stopped(),
        ("error", "clients", f"{carol.address}:443", "Forward port 443"),
    )
    check(
        "a proxy that does not find hearth",
        front.changed((f"{carol.address}:8008", f"{carol.address}:8009")),
        ("error", "clients", "does not reach hearth", "`listen`"),
    )
    apps_alone = ("location / {", "location /_matrix/client {")
    check(
        "a proxy that passes only the requests of apps",
        front.changed(apps_alone),
        ("error", "well-known", f"{SERVER_FILE} answers 404", f'{{"m.server":"{carol.name}:443"}}'),
    )
    own_file = f"""{JSON} return 200 '{{"m.server":"{carol.name}:443"}}';"""
    check(
        "a proxy that has the well-known file, and passes only the requests of apps",
        front.changed((PLACE, f"location = {SERVER_FILE} {{ {own_file} }}\n{PLACE}"), apps_alone),
        ("error", "federation", "answers no Matrix server", "pass /_matrix"),
    )
    check(
        "a proxy that decodes paths",
        front.changed((f"{carol.address}:8008;", f"{carol.address}:8008/;")),
        ("error", "proxy", "decodes or rewrites paths", "without a slash at the end"),
    )
    check(
        "a proxy with a small limit of bodies",
        front.changed(("client_max_body_size 100M", "client_max_body_size 1M")),
        ("error", "proxy", "does not pass a body of 8 MB: it answers 413", "client_max_body_size"),
    )
    check(
        "a proxy that removes a header for web apps",
        front.changed(("location / {", "location / {\nproxy_hide_header Access-Control-Allow-Origin;")),
        ("error", "clients", "without the header `Access-Control-Allow-Origin: *`", "neither remove"),
    )
    check(
        "a proxy that adds the same header again",
        front.changed(("location / {", f"location / {{\n{FOR_ALL}")),
        ("error", "clients", "`Access-Control-Allow-Origin` twice", "neither remove"),
    )
    check(
        "a proxy that does not say where requests come from",
        front.changed(("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", "")),
        ("warning", "proxy", "X-Forwarded-For", "share the limits of one", "proxy_set_header"),
    )
    check(
        "a proxy that is not trusted",
        untrusted(),
        ("warning", "proxy", "is not trusted", f'Add "{ELSEWHERE}" to `trusted_proxies`'),
    )
    check(
        "a proxy that leads to another server",
        front.changed((f"{carol.address}:8008", f"{alice.address}:8008")),
        ("error", "federation", f"is the server {alice.name}, not {carol.name}", "Correct the proxy"),
    )


def well_known(world, carol, front, patient):
    """Files of the web site at the server's name."""
    check = patient.check
    check(
        "a well-known file for servers that is no JSON",
        front.answers(SERVER_FILE, f'{JSON} return 200 "m.server: {carol.name}";'),
        ("error", "well-known", SERVER_FILE, "is no JSON", f'{{"m.server":"{carol.name}:443"}}'),
    )
    check(
        "a well-known file that leads other servers to a host that is not there",
        front.answers(SERVER_FILE, f"""{JSON} return 200 '{{"m.server":"matrix.{carol.name}:443"}}';"""),
        ("error", "federation", f"no address for matrix.{carol.name}", SERVER_FILE),
    )
    check(
        "a well-known file behind a redirect that is not encrypted",
        front.answers(SERVER_FILE, f"return 302 http://{carol.name}/matrix;"),
        ("error", "well-known", "is not https"),
    )
    leads_to = lambda url: f"""return 200 '{{"m.homeserver":{{"base_url":"{url}"}}}}';"""
    check(
        "a well-known file that web apps cannot read",
        front.answers(CLIENT_FILE, f"{JSON} {leads_to(f'https://{carol.name}')}"),
        ("error", "well-known", CLIENT_FILE, "web apps cannot read it", "Access-Control-Allow-Origin: *"),
    )
    check(
        "a well-known file that leads apps elsewhere",
        front.answers(CLIENT_FILE, f"{JSON} {FOR_ALL} {leads_to('https://x.example')}"),
        ("warning", "well-known", "https://x.example", "`public_url`"),
    )

    @contextlib.contextmanager
    def services(data):
        with front.answers(SERVER_FILE, "return 404;"):
            with records(world.records, f"_matrix-fed._tcp.{carol.name}", SRV=data):
                yield

    check(
        "an SRV record that leads to a port at which nothing answers",
        services([f"10 5 8449 {carol.name}"]),
        ("error", "federation", f"{carol.address}:8449", "Forward port 8449"),
    )
    check(
        "an SRV record that leads to a host without an address",
        services(["10 5 443 gone.example"]),
        ("error", "srv", "gone.example, which has no address", "correct the SRV record"),
    )
    world.records["www.example", "CNAME"] = carol.name
    check(
        "an SRV record that leads to an alias",
        services(["10 5 443 www.example"]),
        ("error", "srv", "www.example, which is a CNAME", "A or AAAA records"),
    )
    check(
        "name servers that fail for SRV records",
        services(FAILS),
        ("error", "srv", "cannot be looked up", "name a port"),
    )


def run(world, alice, bob, checks):
    with checks.check("doctor is green on both servers"):
        # Truly nobody starts the first one again.
        first = Patient(alice, checks, usual=["service warning: hearth runs as root. Use the unit"])
        first.is_green()
        second = Patient(bob, checks)
        second.is_green()
    with checks.check("doctor says so to people too"):
        printed = bob.system.run("hearth", "doctor")
        assert printed.endswith("Nothing is wrong.\n"), printed
    names_and_ports(world, bob, alice, second)
    unit(bob, second)
    refusal(world, alice, checks)

    with checks.check(f"{CAROL.name} is set up behind nginx"):
        carol = world.own(CAROL, notary=alice.name, is_service=True)
        carol.install("--proxy")
        place = world.directory / "nginx"
        place.mkdir()
        intermediate = world.authority.root.intermediate("an authority below it")
        front = Front(place, carol.name, carol.address, *intermediate.issue(carol.name))
        front.start()
    try:
        third = Patient(carol, checks)
        with checks.check("doctor is green there too"):
            third.is_green()
        behind_a_proxy(world, alice, bob, carol, front, third)
    finally:
        front.stop()
    end_of_refusal(world, alice, checks, first)


def behind_a_proxy(world, alice, bob, carol, front, patient):
    certificates(carol, front, world.authority, patient)
    proxy(alice, carol, front, patient)
    well_known(world, carol, front, patient)
    storage(carol, patient)

    @contextlib.contextmanager
    def unreachable_for_others():
        with records(bob.records, carol.name, A=[NOWHERE]), carol.set(notaries=[bob.name]):
            yield

    patient.check(
        "that another server does not reach this one",
        unreachable_for_others(),
        ("error", "elsewhere", f"{bob.name} does not reach this server", "lets nobody in"),
    )

    @contextlib.contextmanager
    def two_installations():
        settings = carol.system.get(SETTINGS).replace(f"{carol.address}:8008", f"{carol.address}:8010")
        other = re.sub(r"^data_dir = .*\n", "", settings, flags=re.MULTILINE)
        carol.system.put("/root/other.toml", f'data_dir = "/root/other"\n{other}')
        carol.system.serve("hearth", "serve", "--config", "/root/other.toml")
        try:
            wait_until((carol.system.root / "root/other/hearth.sock").exists, "the other one does not start")
            with front.changed((f"{carol.address}:8008", f"{carol.address}:8010")):
                yield
        finally:
            carol.system.stop_serving()

    patient.check(
        "another installation of the same server in its place",
        two_installations(),
        ("error", "federation", f"another installation of {carol.name}", "Stop the other one"),
    )


def storage(carol, patient):
    disk = carol.system.root / DATA.lstrip("/")

    @contextlib.contextmanager
    def nearly_full():
        free = os.statvfs(disk)
        filler = disk / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - DISK * 1024 * 1024 // 50))
        try:
            yield
        finally:
            filler.unlink()

    patient.check(
        "a disk that is nearly full",
        nearly_full(),
        ("error", "disk", "nothing new is accepted", "Make room", "`hearth media usage`"),
    )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    patient.check(
        "a budget of memory that is more than there is",
        carol.set(memory=f"{total}M"),
        ("warning", "memory", f"`memory` is {total}M", "Set `memory` to at most"),
    )
