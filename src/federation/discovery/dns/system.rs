//! `/etc/resolv.conf` and `/etc/hosts`.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
    time::Duration,
};

use resolv_conf::{Config, ScopedIp};

use crate::config::Network;

/// How much of a file is read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// As many as the C library uses.
const MAX_NAME_SERVERS: usize = 3;
/// The bounds of `timeout` and `attempts`.
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u32> = 1..=5;
const ATTEMPTS: std::ops::RangeInclusive<u32> = 1..=3;

#[derive(Clone, Debug)]
pub struct SystemFiles {
    /// See resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// See hosts(5).
    pub hosts: PathBuf,
    /// The port of the name servers.
    pub port: u16,
}

impl From<&Network> for SystemFiles {
    fn from(network: &Network) -> Self {
        Self {
            resolv_conf: network.resolv_conf.clone(),
            hosts: network.hosts.clone(),
            port: network.name_server_port,
        }
    }
}

/// The name servers, and how to query them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServers {
    /// In the order in which they are queried.
    pub servers: Vec<SocketAddr>,
    pub timeout: Duration,
    /// How often each is queried.
    pub attempts: u32,
    /// Whether to query by TCP at once.
    pub only_tcp: bool,
}

impl SystemFiles {
    /// The addresses of `host` by `/etc/hosts`. Reads a file.
    pub fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let host = host.to_ascii_lowercase();
        let text = read(&self.hosts).unwrap_or_default();
        let mut found = in_hosts(&text, &host);
        // RFC 6761, section 6.3: name servers are not queried.
        if found.is_empty() && (host == "localhost" || host.ends_with(".localhost")) {
            found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        found
    }

    /// Whom to query. Reads a file; without it, there is a name server on this machine.
    pub fn resolvers(&self) -> NameServers {
        let text = read(&self.resolv_conf).unwrap_or_default();
        // What cannot be parsed is left out.
        let (config, _) = Config::parse_with_errors(text.as_bytes());
        let servers = config.get_nameservers_or_local();
        let servers = servers.iter().filter_map(|server| self.address(server));
        NameServers {
            servers: servers.take(MAX_NAME_SERVERS).collect(),
            timeout: Duration::from_secs(
                config
                    .timeout
                    .clamp(*TIMEOUT_SECONDS.start(), *TIMEOUT_SECONDS.end())
                    .into(),
            ),
            attempts: config.attempts.clamp(*ATTEMPTS.start(), *ATTEMPTS.end()),
            only_tcp: config.use_vc,
        }
    }

    fn address(&self, server: &ScopedIp) -> Option<SocketAddr> {
        match server {
            ScopedIp::V4(address) => Some(SocketAddr::new((*address).into(), self.port)),
            ScopedIp::V6(address, scope) => {
                let scope = scope.as_deref().map_or(Some(0), scope_id)?;
                Some(SocketAddrV6::new(*address, self.port, 0, scope).into())
            }
        }
    }
}

/// The number of a network interface, by itself or by its name.
fn scope_id(scope: &str) -> Option<u32> {
    let by_name = || {
        let path = Path::new("/sys/class/net").join(scope).join("ifindex");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    scope.parse().ok().or_else(by_name)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The addresses of `host`, in lower case, in the text of `/etc/hosts`.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let address = words.next().and_then(|address| address.parse().ok());
        if let Some(address) = address
            && words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{fs, net::IpAddr, time::Duration};

    use super::{NameServers, SystemFiles, in_hosts};

    fn files(resolv_conf: &str) -> (tempfile::TempDir, SystemFiles) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, resolv_conf).unwrap();
        let files = SystemFiles {
            resolv_conf: path,
            hosts: directory.path().join("none"),
            port: 53,
        };
        (directory, files)
    }

    #[test]
    fn a_host_has_all_its_addresses_of_the_hosts_file_whatever_the_case() {
        let text = "127.0.0.1 localhost # not.this\n\
                    192.0.2.1\tA.example  b.example.\n\
                    2001:db8::1 a.example\n\
                    fe80::1%eth0 a.example\n\
                    192.0.2.1 a.example\n";
        let of = |host| in_hosts(text, host);
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(of("a.example"), addresses);
        assert_eq!(of("b.example"), addresses[..1]);
        assert_eq!(of("not.this"), [] as [IpAddr; 0]);
    }

    #[test]
    fn localhost_is_loopback_even_without_a_hosts_file() {
        let (_directory, files) = files("");
        for host in ["localhost", "a.localhost", "LOCALHOST"] {
            let addresses = files.addresses(host);
            assert!(!addresses.is_empty(), "{host}");
            assert!(addresses.iter().all(IpAddr::is_loopback), "{host}");
        }
        assert_eq!(files.addresses("notlocalhost"), [] as [IpAddr; 0]);
    }

    #[test]
    fn three_name_servers_are_queried_with_the_options_within_bounds() {
        let (_directory, files) = files(
            "# mine\nsearch example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n\
             nameserver fe80::1%7\nnameserver 192.0.2.2\n\
             options timeout:60 attempts:2 use-vc nonsense\nnonsense\n",
        );
        let servers = ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"];
        let expected = NameServers {
            servers: servers.map(|server| server.parse().unwrap()).into(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            only_tcp: true,
        };
        assert_eq!(files.resolvers(), expected);
    }

    #[test]
    fn without_name_servers_in_resolv_conf_the_one_of_this_machine_is_queried() {
        let (_directory, files) = files("");
        let servers = files.resolvers().servers;
        assert!(!servers.is_empty());
        assert!(servers.iter().all(|server| server.ip().is_loopback()));
    }
}
