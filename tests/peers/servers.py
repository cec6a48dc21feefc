"""The server implementations, started in the same way.

The name of a server is a loopback address with a port, so that no DNS is needed. Its TLS listener may be on
another port than the one in its name, with a proxy in between."""

import json
import sys

from server import Hearth, Server, free_port
from signedjson.key import generate_signing_key, write_signing_keys


class FederatedHearth(Hearth):
    unsupported = frozenset({"creation of rooms of versions 1 and 2"})

    def __init__(self, binary, name, directory, certificates, tls_port):
        self.tls_port = tls_port
        super().__init__(
            binary,
            name,
            directory,
            tls_listen=[f"127.0.0.1:{tls_port}"],
            tls_certificate=str(certificates.certificate),
            tls_key=str(certificates.key),
            extra_ca=str(certificates.ca_certificate),
            allow_private_addresses=True,
            notaries=[],
        )


class Synapse(Server):
    unsupported = frozenset(
        {
            # Version 1.163 does not store through which server it has knocked, does not send the rejection of
            # a knock to servers outside of the room, and accepts only invites of rooms that it is not in.
            "retraction of knocks",
            "rejection of knocks",
            # It answers 500.
            "rejection of unpaired surrogates",
            # It processes the events of a room one after the other, including requests for missing events.
            "concurrent processing of a room",
            # It uses the CA of the test for other servers, but not for the targets of their redirects.
            "media redirects",
            # It returns the part before the end of the connection.
            "rejection of truncated media",
            # Its memory grows by twice the size of the response.
            "size limit of responses",
            "refusal of deep EDUs",
            # It leaves out what refers to missing events.
            "joins with an omitted auth chain",
            # What it responds to its user when a join fails is not looked at.
            "joins without internal errors",
            # Keys that a claimed state omits can vanish from the room.
            "distrust of claimed states",
        }
    )

    def __init__(self, binary, name, directory, certificates, tls_port):
        """`binary` is ignored."""
        self.tls_port = tls_port
        port = free_port()
        super().__init__(name, directory, port)
        files = {file: str(directory / file) for file in ("homeserver.db", "signing.key", "log.yaml", "media")}
        config = directory / "homeserver.yaml"
        # JSON is valid YAML.
        config.write_text(
            json.dumps(
                {
                    "server_name": name,
                    "listeners": [listener(port, "client"), listener(tls_port, "federation", tls=True)],
                    "tls_certificate_path": str(certificates.certificate),
                    "tls_private_key_path": str(certificates.key),
                    "federation_custom_ca_list": [str(certificates.ca_certificate)],
                    "ip_range_blacklist": [],
                    "trusted_key_servers": [],
                    "database": {"name": "sqlite3", "args": {"database": files["homeserver.db"]}},
                    "signing_key_path": files["signing.key"],
                    "media_store_path": files["media"],
                    "log_config": files["log.yaml"],
                    "report_stats": False,
                    "bcrypt_rounds": 4,
                    "enable_registration": True,
                    "enable_registration_without_verification": True,
                    "allow_public_rooms_over_federation": True,
                    "room_list_publication_rules": [{"action": "allow"}],
                    "experimental_features": {"msc3814_enabled": True},
                    "federation": {
                        "client_timeout": "10s",
                        "max_short_retries": 1,
                        "max_long_retries": 1,
                        "destination_min_retry_interval": 500,
                        "destination_max_retry_interval": "2s",
                    },
                    **NO_LIMITS,
                }
            )
        )
        (directory / "log.yaml").write_text(json.dumps(LOG))
        self.command = [sys.executable, "-m", "synapse.app.homeserver", "--config-path", config]
        with (directory / "signing.key").open("w") as file:
            write_signing_keys(file, [generate_signing_key("1")])


def listener(port, resource, tls=False):
    return {
        "port": port,
        "tls": tls,
        "type": "http",
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": [resource]}],
    }


NO_LIMIT = {"per_second": 10_000, "burst_count": 10_000}
NO_LIMITS = {
    **dict.fromkeys(
        ("rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation", "rc_profile"), NO_LIMIT
    ),
    "rc_login": {key: NO_LIMIT for key in ("address", "account", "failed_attempts")},
    "rc_joins": {key: NO_LIMIT for key in ("local", "remote")},
    "rc_invites": {key: NO_LIMIT for key in ("per_room", "per_user", "per_issuer")},
    "rc_presence": {"per_user": NO_LIMIT},
    "rc_federation": {"sleep_limit": 10_000, "reject_limit": 10_000, "concurrent": 100},
}
LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stream": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stream"]},
    "loggers": {"synapse.storage": {"level": "WARNING"}, "synapse.util": {"level": "WARNING"}},
}

IMPLEMENTATIONS = {"hearth": FederatedHearth, "synapse": Synapse}
