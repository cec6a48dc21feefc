//! The address of a client.

use std::net::IpAddr;

use http::HeaderMap;

/// Whether `address` may be the owner's reverse proxy: loopback or private.
pub(super) fn may_be_proxy(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_private() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// The client's address: that of the connection or, behind a reverse proxy, the last entry of
/// `X-Forwarded-For`, which the proxy has added. The entries before are the client's own claim.
pub(super) fn address(connection: IpAddr, headers: &HeaderMap) -> IpAddr {
    let named = || {
        let last = headers.get_all("x-forwarded-for").iter().next_back()?;
        last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    };
    if may_be_proxy(connection) {
        named().unwrap_or(connection)
    } else {
        connection
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderValue};

    use super::{address, may_be_proxy};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn from(connection: &str, forwarded: &[&'static str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        address(ip(connection), &headers)
    }

    #[test]
    fn x_forwarded_for_is_believed_from_a_private_address_only() {
        assert_eq!(from("127.0.0.1", &["192.0.2.7"]), ip("192.0.2.7"));
        assert_eq!(from("10.0.0.2", &["2001:db8::1"]), ip("2001:db8::1"));
        assert_eq!(from("198.51.100.1", &["192.0.2.7"]), ip("198.51.100.1"));
        assert_eq!(from("127.0.0.1", &[]), ip("127.0.0.1"));
    }

    #[test]
    fn only_the_last_entry_of_x_forwarded_for_counts() {
        let last = ip("192.0.2.7");
        assert_eq!(from("::1", &["203.0.113.9, 192.0.2.7"]), last);
        assert_eq!(from("::1", &["203.0.113.9", "192.0.2.7"]), last);
        assert_eq!(from("::1", &["192.0.2.7, nonsense"]), ip("::1"));
    }

    #[test]
    fn only_loopback_and_private_addresses_may_be_proxies() {
        for text in [
            "127.0.0.1",
            "192.168.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(may_be_proxy(ip(text)), "{text}");
        }
        for text in ["192.0.2.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!may_be_proxy(ip(text)), "{text}");
        }
    }
}
