//! Server discovery (server-server API, "Server discovery").

use ruma::{ServerName, api::federation::discovery::discover_homeserver};

use crate::{
    api::{Api, Error, Unauthenticated},
    config::{Config, PublicUrl},
};

/// The default port of the specification.
const FEDERATION_PORT: u16 = 8448;

/// `GET /.well-known/matrix/server`
pub async fn discover_homeserver(
    api: Api,
    _client: Unauthenticated,
    _request: discover_homeserver::Request,
) -> Result<discover_homeserver::Response, Error> {
    let server = delegated(&api.config)
        .and_then(|name| ServerName::parse(name).ok())
        .ok_or_else(|| Error::not_found("no delegation: the server is at its server name"))?;
    Ok(discover_homeserver::Response::new(server))
}

/// The host and port to delegate to. A server name with a port needs no delegation, and a local one has
/// none. Where clients reach the server with TLS, other servers do too. Without TLS listeners the request
/// came through a reverse proxy on port 443.
fn delegated(config: &Config) -> Option<String> {
    let name = &config.server_name;
    if config.is_local() || name.port().is_some() {
        return None;
    }
    if let Some(authority) = config
        .public_url
        .as_ref()
        .and_then(PublicUrl::tls_authority)
    {
        return Some(authority);
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
    fn delegation_names_the_tls_port_or_the_port_of_the_proxy() {
        assert_eq!(at("example.org", "").unwrap(), "example.org:443");
        let port = "\"[::]:443\"";
        assert_eq!(at("example.org", port).unwrap(), "example.org:443");
        let port = "\"[::]:9000\"";
        assert_eq!(at("example.org", port).unwrap(), "example.org:9000");
    }

    #[test]
    fn delegation_names_where_clients_reach_the_server_with_tls() {
        let at = |url: &str| {
            let text = format!("server_name = \"example.org\"\npublic_url = \"{url}\"");
            delegated(&Settings::parse(&text).unwrap().try_into().unwrap()).unwrap()
        };
        assert_eq!(at("https://matrix.example.org/"), "matrix.example.org:443");
        assert_eq!(
            at("https://matrix.example.org:8443"),
            "matrix.example.org:8443"
        );
        assert_eq!(at("http://10.0.0.2:8008"), "example.org:443");
    }

    #[test]
    fn no_delegation_for_the_default_port_a_name_with_port_or_a_local_name() {
        assert_eq!(at("example.org", "\"[::]:443\", \"[::]:8448\""), None);
        assert_eq!(at("example.org:8008", ""), None);
        assert_eq!(at("localhost", ""), None);
        assert_eq!(at("127.0.0.1", ""), None);
    }
}
