//! The address of a client.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use http::{HeaderMap, header};
use log::Level;

use crate::config::{Config, PublicUrl, TrustedProxies};

const HEADER: &str = "x-forwarded-for";

/// Finds the addresses of clients.
#[derive(Debug)]
pub(super) struct ClientAddresses {
    trusted: TrustedProxies,
    /// Whether the log names a proxy that is not trusted, one at home or elsewhere.
    logged: [AtomicBool; 2],
    /// The hosts at which clients find the server, if only proxies connect to it for them.
    proxied_hosts: Vec<String>,
    /// Whether the log names a proxy that does not say where clients are.
    logged_silent: AtomicBool,
}

impl ClientAddresses {
    pub(super) fn new(trusted: TrustedProxies) -> Self {
        Self {
            trusted,
            logged: Default::default(),
            proxied_hosts: Vec::new(),
            logged_silent: AtomicBool::new(false),
        }
    }

    /// For clients and other servers.
    pub(super) fn of_public_listeners(config: &Config) -> Self {
        let url = config.public_url.as_ref();
        let hosts = [
            Some(config.server_name.host()),
            url.and_then(PublicUrl::host),
        ];
        let is_proxied = config.tls.is_none() && !config.is_local();
        let hosts = hosts.into_iter().flatten().filter(|_| is_proxied);
        Self {
            proxied_hosts: hosts.map(str::to_owned).collect(),
            ..Self::new(config.trusted_proxies.clone())
        }
    }

    pub(super) fn is_proxy(&self, connection: IpAddr) -> bool {
        self.trusted.contains(connection)
    }

    /// The client's address: that of the connection or, behind trusted proxies, the last entry of
    /// `X-Forwarded-For` that is none of them. The entries before it are the client's own claim.
    pub(super) fn of(&self, connection: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.is_proxy(connection) {
            if headers.contains_key(HEADER) {
                self.log_untrusted(connection);
            }
            return connection;
        }
        if self.is_silent(headers) && !self.logged_silent.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the reverse proxy at {connection} does not say where requests come from, so that all its clients \
                 share the limits of one: let it set the header X-Forwarded-For, in nginx with `proxy_set_header \
                 X-Forwarded-For $proxy_add_x_forwarded_for;`"
            );
        }
        let lines = headers.get_all(HEADER).iter().rev();
        let entries = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        let mut client = connection;
        for entry in entries {
            let Some(address) = address_of(entry.trim()) else {
                break;
            };
            client = address;
            if !self.is_proxy(client) {
                break;
            }
        }
        client
    }

    /// Whether a proxy has passed a request on without the address of the client. A program on this machine that
    /// needs no proxy names the address of the listener as the host.
    fn is_silent(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        !headers.contains_key(HEADER)
            && self
                .proxied_hosts
                .iter()
                .any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Only what looks like the owner's proxy is worth a warning: everybody can send the header.
    fn log_untrusted(&self, connection: IpAddr) {
        let is_private = is_private(connection);
        let level = if is_private { Level::Warn } else { Level::Info };
        if !self.logged[usize::from(is_private)].swap(true, Ordering::Relaxed) {
            log::log!(
                level,
                "X-Forwarded-For from {connection} is ignored: if this is your reverse proxy, add its \
                 address to `trusted_proxies`, otherwise all its clients share the limits of one"
            );
        }
    }
}

/// An entry of the header, which some proxies write with a port.
fn address_of(entry: &str) -> Option<IpAddr> {
    let address = entry.parse().ok();
    address.or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()))
}

/// Whether `address` belongs to this machine or to a network at home.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_private() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderValue, header};

    use super::{ClientAddresses, is_private};
    use crate::config::{Config, Settings, TrustedProxies};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn from(connection: &str, forwarded: &[&'static str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        ClientAddresses::new(TrustedProxies::default()).of(ip(connection), &headers)
    }

    #[test]
    fn x_forwarded_for_is_believed_from_a_trusted_proxy_only() {
        assert_eq!(from("127.0.0.1", &["192.0.2.7"]), ip("192.0.2.7"));
        assert_eq!(from("127.0.0.1", &["2001:db8::1"]), ip("2001:db8::1"));
        assert_eq!(from("127.0.0.1", &["192.0.2.7:4711"]), ip("192.0.2.7"));
        assert_eq!(from("127.0.0.1", &["[2001:db8::1]:80"]), ip("2001:db8::1"));
        for other in ["10.0.0.2", "192.168.1.1", "fd00::1", "198.51.100.1"] {
            assert_eq!(from(other, &["192.0.2.7"]), ip(other));
        }
        assert_eq!(from("127.0.0.1", &[]), ip("127.0.0.1"));
    }

    #[test]
    fn the_last_entry_of_x_forwarded_for_that_is_no_proxy_counts() {
        let last = ip("192.0.2.7");
        assert_eq!(from("::1", &["203.0.113.9, 192.0.2.7"]), last);
        assert_eq!(from("::1", &["203.0.113.9", "192.0.2.7"]), last);
        assert_eq!(from("::1", &["203.0.113.9, 192.0.2.7, 127.0.0.2"]), last);
        assert_eq!(from("::1", &["192.0.2.7, nonsense"]), ip("::1"));
        assert_eq!(
            from("::1", &["192.0.2.7, nonsense, 127.0.0.2"]),
            ip("127.0.0.2")
        );
    }

    #[test]
    fn a_proxy_that_names_no_client_differs_from_programs_on_this_machine() {
        let is_silent = |settings: &str, host: &'static str, forwarded: Option<&'static str>| {
            let text = format!("server_name = \"example.org\"\n{settings}");
            let config = Config::try_from(Settings::parse(&text).unwrap()).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(value) = forwarded {
                headers.insert("x-forwarded-for", HeaderValue::from_static(value));
            }
            ClientAddresses::of_public_listeners(&config).is_silent(&headers)
        };
        let elsewhere = "public_url = \"https://matrix.example.org\"\n";
        assert!(is_silent("", "example.org", None));
        assert!(is_silent(elsewhere, "Matrix.example.org:443", None));
        assert!(!is_silent("", "example.org", Some("192.0.2.7")));
        assert!(!is_silent("", "127.0.0.1:8008", None));
        let own_tls = "acme = \"you@example.org\"\n";
        assert!(!is_silent(own_tls, "example.org", None));
    }

    #[test]
    fn addresses_of_this_machine_and_of_networks_at_home_are_private() {
        for text in [
            "127.0.0.1",
            "192.168.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(ip(text)), "{text}");
        }
        for text in ["192.0.2.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!is_private(ip(text)), "{text}");
        }
    }
}
