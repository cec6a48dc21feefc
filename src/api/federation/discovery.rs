//! What another server asks to find this one.

use ruma::{ServerName, api::federation::discovery::discover_homeserver};

use crate::{
    api::{Api, Error, Unauthenticated},
    config::Config,
};

/// The port that other servers try when nothing says otherwise.
const FEDERATION_PORT: u16 = 8448;

/// `GET /.well-known/matrix/server`: at which host and port other servers find this one.
pub async fn discover_homeserver(
    api: Api,
    _who: Unauthenticated,
    _request: discover_homeserver::Request,
) -> Result<discover_homeserver::Response, Error> {
    let server = delegated(&api.config)
        .and_then(|name| ServerName::parse(name).ok())
        .ok_or_else(|| Error::not_found("other servers find this one by its name"))?;
    Ok(discover_homeserver::Response::new(server))
}

/// Where to connect, unless the name says it all: a name with a port is complete, and a local one
/// means nothing to others. Without own TLS listeners a proxy on 443 has brought the question
/// here, so 443 is where other servers get through too.
fn delegated(config: &Config) -> Option<String> {
    let name = &config.server_name;
    if config.is_local() || name.port().is_some() {
        return None;
    }
    let ports = config.tls.iter().flat_map(|tls| &tls.listen);
    let own = ports.map(|address| address.port()).collect::<Vec<_>>();
    match own.first() {
        Some(_) if own.contains(&FEDERATION_PORT) => None,
        Some(port) if !own.contains(&443) => Some(format!("{name}:{port}")),
        _ => Some(format!("{name}:443")),
    }
}

#[cfg(test)]
mod tests {
    use super::delegated;
    use crate::config::Settings;

    fn at(name: &str, tls: &str) -> Option<String> {
        let mut text = format!("server_name = \"{name}\"\ntls_listen = [{tls}]\n");
        if !tls.is_empty() {
            text += "tls_certificate = \"a\"\ntls_key = \"b\"\n";
        }
        delegated(&Settings::parse(&text).unwrap().try_into().unwrap())
    }

    #[test]
    fn a_server_is_found_where_it_listens_or_where_its_proxy_does() {
        assert_eq!(at("example.org", "").unwrap(), "example.org:443");
        let port = "\"[::]:443\"";
        assert_eq!(at("example.org", port).unwrap(), "example.org:443");
        let port = "\"[::]:9000\"";
        assert_eq!(at("example.org", port).unwrap(), "example.org:9000");
    }

    #[test]
    fn a_name_that_says_it_all_is_not_delegated() {
        assert_eq!(at("example.org", "\"[::]:443\", \"[::]:8448\""), None);
        assert_eq!(at("example.org:8008", ""), None);
        assert_eq!(at("localhost", ""), None);
        assert_eq!(at("127.0.0.1", ""), None);
    }
}
