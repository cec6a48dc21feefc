//! What each setting expects, for error messages.

/// Old or foreign names of settings, by which people look for them.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("bind", "listen"),
    ("database", "data_dir"),
    ("domain", "server_name"),
    ("enable_registration", "registration"),
    ("hostname", "server_name"),
    ("name", "server_name"),
    ("path", "data_dir"),
    ("port", "listen"),
    ("server_notices", "server_notices_localpart"),
    ("shared_secret", "registration_shared_secret"),
    ("static_auth_secret", "turn_secret"),
];

/// What the value of the setting `key` has to be.
pub(super) fn value(key: &str) -> Option<&'static str> {
    Some(match key {
        "server_name" => "a domain name such as \"example.org\", which is the end of every user id",
        "data_dir" => "the path of a directory, such as \"/var/lib/hearth\"",
        "backup_dir" => "the path of a directory, such as \"/var/lib/hearth-backup\"",
        "listen" => {
            "a list of addresses with ports, such as [\"127.0.0.1:8008\"], or of paths, such as \
             [\"unix:/run/hearth/hearth.sock\"]; a host name in it has to resolve"
        }
        "metrics_listen" => "a list of addresses with ports, such as [\"127.0.0.1:9090\"]",
        "tls_listen" => {
            "a list of addresses with ports, such as [\"[::]:8448\"]; a host name in it has to resolve"
        }
        "tls_certificate" | "tls_key" | "extra_ca" => "the path of a PEM file in quotes",
        "acme" => "your e-mail address, such as \"you@example.org\"",
        "acme_directory" => "the https address of an ACME directory in quotes",
        "contact" => {
            "a list of user ids, e-mail addresses and at most one page, such as [\"@you:example.org\", \
             \"you@example.org\", \"https://example.org/help\"]"
        }
        "trusted_proxies" => {
            "a list of IP addresses and networks, such as [\"172.17.0.1\", \"10.0.0.0/8\"]"
        }
        "registration" => "\"closed\", \"token\" or \"open\"",
        "registration_token" | "registration_shared_secret" | "turn_secret" => "a text in quotes",
        "turn_uris" => {
            "a list of addresses of TURN servers, such as [\"turn:turn.example.org?transport=udp\"]"
        }
        "turn_ttl" => "a time between a minute and a year, such as \"1day\"",
        "user_directory" => "\"shared\" or \"local\"",
        "server_notices_localpart" => "a user name without `@` and server, such as \"notices\"",
        "federation" => "\"on\", \"off\" or a list of server names, such as [\"example.org\"]",
        "notaries" => "a list of server names, such as [\"matrix.org\"]",
        "memory" => "an amount of at least 32 MB, such as \"128M\"",
        "max_upload" | "user_quota" | "disk" => "an amount, such as \"100M\" or \"10G\"",
        "push_gateways" => {
            "a list of addresses and names, such as [\"http://10.0.0.2:8000\", \"ntfy.lan\"]"
        }
        "public_url" => "the address of the server for clients, such as \"https://example.org\"",
        "unauthenticated_media" => "\"none\", \"all\" or a date such as \"2026-12-01\"",
        "allow_private_addresses"
        | "url_previews"
        | "search"
        | "share_device_names"
        | "rate_limits" => "true or false",
        "log" => "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        _ => return None,
    })
}

/// The setting that somebody means who writes `key`: by another name of it, or the most similar one.
pub(super) fn nearest(key: &str, known: &[&'static str]) -> &'static str {
    if let Some((_, setting)) = OTHER_NAMES.iter().find(|(name, _)| *name == key) {
        return setting;
    }
    let similarity = |name| strsim::normalized_damerau_levenshtein(key, name);
    known
        .iter()
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
        .expect("there are settings")
}
