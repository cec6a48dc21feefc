//! What this computer has, and where the network leads.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::store::Space;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Of which boards have so much, a quarter is a target that leaves enough for the system.
const MAX_DEFAULT_MEMORY: u64 = 192 * M;

/// A quarter of the memory, at most what the unit allows: a size for `memory`.
pub(super) fn memory() -> String {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let quarter = total.map_or(128 * M, |kib| kib * 1024 / 4);
    // Boards have a little less than they are sold with, as the kernel keeps some of it.
    let rounded = quarter.next_multiple_of(32 * M);
    format!("{}M", rounded.clamp(32 * M, MAX_DEFAULT_MEMORY) / M)
}

/// Half of what is free where `directory` is, or will be: a size for `disk`.
pub(super) fn disk(directory: &Path) -> Option<String> {
    let absolute = std::path::absolute(directory).ok()?;
    let existing = absolute.ancestors().find(|path| path.exists())?;
    let half = Space::of(existing).ok()?.free / 2;
    Some(format!("{}G", (half / G).max(1)))
}

/// Whether another program listens on `port`.
pub(super) fn is_taken(port: u16) -> bool {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    TcpListener::bind(all).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The addresses of `host`; none if it has no address.
pub(super) fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    let (sender, result) = mpsc::sync_channel(1);
    let target = (host.to_owned(), 443);
    thread::spawn(move || {
        let found = target.to_socket_addrs();
        // The result is not waited for any more.
        let _ = sender.send(found.map(|found| found.map(|address| address.ip()).collect()));
    });
    let found = result.recv_timeout(LOOKUP_TIMEOUT);
    let found: io::Result<Vec<IpAddr>> =
        found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut found = found?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Whether `address` is one of this computer's.
pub(super) fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The addresses of this computer with which it reaches the internet, if they are not those of a private network.
/// No packet is sent.
pub(super) fn public_addresses() -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let local = |from: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Addresses that nobody has: RFC 5737 and RFC 3849.
    let (v4, v6) = (
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    );
    let own_v4 = match local(Ipv4Addr::UNSPECIFIED.into(), v4.into()) {
        Some(IpAddr::V4(address)) if is_public(address) => Some(address),
        _ => None,
    };
    let own_v6 = match local(Ipv6Addr::UNSPECIFIED.into(), v6.into()) {
        Some(IpAddr::V6(address)) if address.segments()[0] & 0xe000 == 0x2000 => Some(address),
        _ => None,
    };
    (own_v4, own_v6)
}

fn is_public(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // RFC 6598: the network of a provider that shares an address among its customers.
    let is_shared = first == 100 && second & 0xc0 == 64;
    !(address.is_private() || address.is_loopback() || address.is_link_local() || is_shared)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{disk, is_here, is_public, memory};
    use crate::config::{Memory, Size};

    #[test]
    fn the_sizes_are_settings() {
        memory().parse::<Memory>().unwrap();
        disk(Path::new("/not/there/yet"))
            .unwrap()
            .parse::<Size>()
            .unwrap();
    }

    #[test]
    fn addresses_of_a_network_at_home_or_of_a_provider_are_not_public() {
        for (address, expected) in [
            ("192.168.1.2", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("203.0.113.7", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_loopback_address_is_here_and_one_of_a_book_is_not() {
        assert!(is_here("127.0.0.1".parse().unwrap()));
        assert!(!is_here("192.0.2.1".parse().unwrap()));
    }
}
