"""Keys and certificates in files, made with openssl."""

import pathlib
import subprocess

DAYS = 30


class Issuer:
    """Who signs certificates: with a key and a certificate of its own, in `directory`."""

    def __init__(self, directory, key, certificate, chain):
        self.directory = directory
        self.key, self.certificate = key, certificate
        # What a server sends after its own certificate.
        self.chain = chain

    @classmethod
    def root(cls, directory, name):
        key, certificate = (directory / f"root of {name}.{end}" for end in ("key", "pem"))
        subject = ["-subj", f"/CN={name}", "-keyout", key, "-out", certificate]
        openssl("req", "-x509", *new_key(), "-days", DAYS, *subject)
        return cls(directory, key, certificate, "")

    def intermediate(self, name):
        """One below this one."""
        key, certificate = self.issue(name, extensions="basicConstraints=critical,CA:TRUE")
        return Issuer(self.directory, key, certificate, certificate.read_text() + self.chain)

    def issue(self, name, extensions="basicConstraints=CA:FALSE", is_complete=True, clock=None):
        """The files of a new key and a certificate for `name`, with the chain if it is complete, made when libfaketime
        shows `clock`."""
        number = len(list(self.directory.iterdir()))
        key, request, extended, certificate = (
            self.directory / f"{name} {number}.{end}" for end in ("key", "csr", "ext", "pem")
        )
        extended.write_text(f"subjectAltName=DNS:{name.replace(' ', '-')}\n{extensions}\n")
        openssl("req", *new_key(), "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed = ["-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", DAYS]
        openssl("x509", "-req", "-in", request, *signed, "-extfile", extended, "-out", certificate, clock=clock)
        if is_complete:
            certificate.write_text(certificate.read_text() + self.chain)
        return key, certificate


def new_key():
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments, clock=None):
    command = ["env", *faked(clock, faketime_library()), "openssl"] if clock else ["openssl"]
    subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True)


def faketime_library():
    # The program `faketime` would be a process between.
    return next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def faked(clock, library):
    """For `env`: a process with another clock, such as `+1h`. Its timers stay right."""
    return [f"LD_PRELOAD={library}", f"FAKETIME={clock}", "DONT_FAKE_MONOTONIC=1"]
