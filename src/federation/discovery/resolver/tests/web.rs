//! Requests to web servers with restricted addresses.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use super::World;
use crate::federation::{
    Error,
    transport::{
        web::{Allowed, AllowedAddresses, get},
        web_url::WebUrl,
    },
};

/// An address that is not allowed.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn is_allowed(address: IpAddr) -> bool {
    address.to_canonical() != IpAddr::V4(INSIDE)
}

/// Requests `url`, in which `PORT` is the world's. Returns the host and path of the last URL.
fn fetch(world: &World, url: &str, addresses: AllowedAddresses) -> Result<String, Error> {
    let url = url.replace("PORT", &world.port.to_string());
    let url = WebUrl::parse(&url).unwrap();
    let allowed = Allowed {
        http: false,
        addresses,
    };
    let (url, _) = world.run(get(&world.hosts(), url, allowed))?;
    Ok(format!("{}{}", url.host, url.path))
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_that_is_not_allowed_is_not_connected_to_by_name_or_redirect() {
    let zone = "inside.example 60 A 127.0.0.2\n\
                both.example 60 A 127.0.0.2\n\
                mapped.example 60 AAAA ::ffff:127.0.0.2";
    let world = World::new(zone, &[]);
    let listener = TcpListener::bind(SocketAddr::from((INSIDE, world.port))).unwrap();
    listener.set_nonblocking(true).unwrap();
    for inside in [
        "127.0.0.2",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
        "inside.example",
        "both.example",
        "mapped.example",
    ] {
        let url = format!("https://{inside}:PORT/x");
        world.page("a.example/there", &format!("->{url}"));
        world.page("b.example/further", "->https://a.example:PORT/there");
        for from in [
            &*url,
            "https://a.example:PORT/there",
            "https://b.example:PORT/further",
        ] {
            let refused = fetch(&world, from, AllowedAddresses::Only(is_allowed));
            assert!(matches!(refused, Err(Error::Unresolvable)), "{inside}");
        }
        let connected = listener.accept().expect_err("a connection");
        assert_eq!(connected.kind(), ErrorKind::WouldBlock, "{inside}");
    }
    // Redirects to allowed addresses are followed.
    assert_eq!(world.requests().len(), 6 * 3);
    world.page("a.example/there", "->https://b.example:PORT/here");
    world.page("b.example/here", "a page");
    let found = fetch(
        &world,
        "https://a.example:PORT/there",
        AllowedAddresses::Only(is_allowed),
    );
    assert_eq!(found.unwrap(), "b.example/here");
}

#[test]
fn http_is_requested_only_where_it_is_allowed() {
    let world = World::new("", &[]);
    world.page("a.example/", "->http://b.example:PORT/");
    for url in ["https://a.example:PORT/", "http://b.example:PORT/"] {
        let refused = fetch(&world, url, AllowedAddresses::AsServers);
        assert!(matches!(refused, Err(Error::InvalidResponse(_))), "{url}");
    }
}

#[test]
fn a_redirect_loop_is_an_error() {
    let world = World::new("", &[]);
    world.page("a.example/", "->https://b.example:PORT/");
    world.page("b.example/", "->https://a.example:PORT/");
    let response = fetch(
        &world,
        "https://a.example:PORT/",
        AllowedAddresses::AsServers,
    );
    assert!(matches!(response, Err(Error::InvalidResponse(_))));
    assert_eq!(world.requests().len(), 4);
}
