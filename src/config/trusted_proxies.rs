use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, de};

/// The addresses of the owner's reverse proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl Default for TrustedProxies {
    fn default() -> Self {
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        Self(vec![
            loopback.into(),
            IpAddr::from(Ipv6Addr::LOCALHOST).into(),
        ])
    }
}

impl<'de> Deserialize<'de> for TrustedProxies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let networks = Vec::<String>::deserialize(deserializer)?;
        let networks = networks.iter().map(|text| {
            let network = IpNet::from_str(text).or_else(|_| text.parse().map(IpAddr::into));
            network.map_err(|_| de::Error::custom("not an IP address or network"))
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::TrustedProxies;
    use crate::config::Settings;

    fn read(value: &str) -> Option<TrustedProxies> {
        let settings = Settings::parse(&format!("trusted_proxies = {value}"));
        settings.ok().map(|settings| settings.trusted_proxies)
    }

    fn contains(proxies: &TrustedProxies, address: &str) -> bool {
        proxies.contains(address.parse().unwrap())
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let proxies = read(r#"["192.0.2.1", "172.17.0.0/16", "2001:db8::/64"]"#).unwrap();
        for address in ["192.0.2.1", "::ffff:192.0.2.1", "172.17.3.4", "2001:db8::5"] {
            assert!(contains(&proxies, address), "{address}");
        }
        for address in ["127.0.0.1", "192.0.2.2", "172.18.0.1", "2001:db8:0:1::5"] {
            assert!(!contains(&proxies, address), "{address}");
        }
        for value in [
            r#"["proxy.example"]"#,
            r#"["192.0.2.1/40"]"#,
            r#""127.0.0.1""#,
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[test]
    fn loopback_is_trusted_by_default_and_other_private_networks_are_not() {
        let proxies = TrustedProxies::default();
        assert!(contains(&proxies, "127.1.2.3") && contains(&proxies, "::1"));
        for address in ["10.0.0.1", "192.168.1.1", "fd00::1", "fe80::1"] {
            assert!(!contains(&proxies, address), "{address}");
        }
    }
}
