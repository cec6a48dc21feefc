use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer, de};

/// The addresses of listeners. A name, as `localhost`, stands for an address that it has when the settings
/// are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<SocketAddr>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let addresses = texts.iter().map(|text| {
            resolve(text).ok_or_else(|| de::Error::custom("not an address and a port"))
        });
        addresses.collect::<Result<_, _>>().map(Self)
    }
}

/// Listeners without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    pub addresses: Vec<SocketAddr>,
    /// Absolute paths of Unix sockets.
    pub paths: Vec<PathBuf>,
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut listen = Self::default();
        for text in Vec::<String>::deserialize(deserializer)? {
            if let Some(path) = text.strip_prefix("unix:") {
                let path = PathBuf::from(path);
                if !path.is_absolute() {
                    return Err(de::Error::custom("not an absolute path"));
                }
                listen.paths.push(path);
            } else {
                let address = resolve(&text);
                let address =
                    address.ok_or_else(|| de::Error::custom("not an address and a port"))?;
                listen.addresses.push(address);
            }
        }
        Ok(listen)
    }
}

/// An IPv4 address, if the name has one: IPv6 may be switched off where the name has it.
fn resolve(text: &str) -> Option<SocketAddr> {
    let mut addresses = text.to_socket_addrs().ok()?;
    let first = addresses.next()?;
    let mut all = std::iter::once(first).chain(addresses);
    all.find(SocketAddr::is_ipv4).or(Some(first))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Settings;

    #[test]
    fn an_address_may_have_a_name() {
        let settings = Settings::parse("listen = [\"localhost:8009\", \"[::1]:8010\"]").unwrap();
        let shown: Vec<_> = settings
            .listen
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["127.0.0.1:8009", "[::1]:8010"]);
    }

    #[test]
    fn a_listener_without_tls_may_be_a_unix_socket() {
        let settings = Settings::parse("listen = [\"unix:/run/hearth/hearth.sock\"]").unwrap();
        assert_eq!(
            settings.listen.paths,
            [Path::new("/run/hearth/hearth.sock")]
        );
        assert!(settings.listen.addresses.is_empty());
        for wrong in [
            "listen = [\"unix:hearth.sock\"]",
            "tls_listen = [\"unix:/a\"]",
        ] {
            Settings::parse(wrong).unwrap_err();
        }
    }
}
