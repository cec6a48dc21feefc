"""The kinds of server that meet each other here, each started in the same way.

A server is named by an address on loopback with a port, so nobody asks a name server for it. Its TLS
listener may be at another port than the name says, with a proxy in between."""

import json
import sys

from server import Hearth, Server, free_port
from signedjson.key import generate_signing_key, write_signing_keys


class FederatedHearth(Hearth):
    lacks = frozenset({"to show with an event what replaced it"})

    def __init__(self, binary, name, directory, trust, tls_port):
        self.tls_port = tls_port
        super().__init__(
            binary,
            name,
            directory,
            tls_listen=[f"127.0.0.1:{tls_port}"],
            tls_certificate=str(trust.certificate),
            tls_key=str(trust.key),
            extra_ca=str(trust.authority),
            allow_private_addresses=True,
            notaries=[],
        )


class Synapse(Server):
    lacks = frozenset(
        {
            # Version 1.163 forgets which server it has knocked through, tells nobody who is not in the room
            # that it has refused a knock, and of a room that it is not in works in invitations only.
            "to take a knock back",
            "to hear that a knock was refused",
            # It answers 500.
            "to refuse half a surrogate pair",
            # It works in one event of a room after the other, whatever it has to ask for.
            "to go on in a room while it waits for one server",
            # It trusts the authority of the test only about servers, not about where they redirect to.
            "to fetch media from elsewhere",
            # It shows the beginning.
            "to refuse media that break off",
            # It grows by twice the answer's size.
            "to refuse a huge answer",
        }
    )

    def __init__(self, binary, name, directory, trust, tls_port):
        """`binary` is not asked for."""
        self.tls_port = tls_port
        port = free_port()
        super().__init__(name, directory, port)
        files = {file: str(directory / file) for file in ("homeserver.db", "signing.key", "log.yaml", "media")}
        config = directory / "homeserver.yaml"
        # YAML holds JSON.
        config.write_text(
            json.dumps(
                {
                    "server_name": name,
                    "listeners": [listener(port, "client"), listener(tls_port, "federation", tls=True)],
                    "tls_certificate_path": str(trust.certificate),
                    "tls_private_key_path": str(trust.key),
                    "federation_custom_ca_list": [str(trust.authority)],
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

KINDS = {"hearth": FederatedHearth, "synapse": Synapse}
