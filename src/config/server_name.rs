use std::net::IpAddr;

use ruma::ServerName;

/// Whether only this machine is reached by `name`.
pub fn is_local(name: &ServerName) -> bool {
    let host = name.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}
