//! Fetching from the web, where only some addresses may be asked.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use super::World;
use crate::federation::{
    Error,
    transport::web::{Place, Reach, get},
};

/// What nobody is to make this server ask.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn is_outside(address: IpAddr) -> bool {
    address.to_canonical() != IpAddr::V4(INSIDE)
}

/// Fetches `url`, in which `PORT` is the world's; the place where it was in the end.
fn fetch(world: &World, url: &str, reach: Reach) -> Result<String, Error> {
    let url = url.replace("PORT", &world.port.to_string());
    let place = Place::of(&url).unwrap();
    let (place, _) = world.run(get(&world.search(), place, reach))?;
    Ok(format!("{}{}", place.host, place.path))
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_inside_is_not_asked_whatever_name_it_has_and_whoever_sends_there() {
    let zone = "inside.example 60 A 127.0.0.2\n\
                both.example 60 A 127.0.0.2\n\
                mapped.example 60 AAAA ::ffff:127.0.0.2";
    let world = World::new(zone, &[]);
    let door = TcpListener::bind(SocketAddr::from((INSIDE, world.port))).unwrap();
    door.set_nonblocking(true).unwrap();
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
            let refused = fetch(&world, from, Reach::Only(is_outside));
            assert!(matches!(refused, Err(Error::Unresolvable)), "{inside}");
        }
        let knocked = door.accept().expect_err("somebody came");
        assert_eq!(knocked.kind(), ErrorKind::WouldBlock, "{inside}");
    }
    // Where one is sent is gone to, if it is outside.
    assert_eq!(world.came().len(), 6 * 3);
    world.page("a.example/there", "->https://b.example:PORT/here");
    world.page("b.example/here", "a page");
    let found = fetch(
        &world,
        "https://a.example:PORT/there",
        Reach::Only(is_outside),
    );
    assert_eq!(found.unwrap(), "b.example/here");
}

#[test]
fn nobody_is_sent_round_in_circles() {
    let world = World::new("", &[]);
    world.page("a.example/", "->https://b.example:PORT/");
    world.page("b.example/", "->https://a.example:PORT/");
    let lost = fetch(&world, "https://a.example:PORT/", Reach::AsServers);
    assert!(matches!(lost, Err(Error::Nonsense(_))));
    assert_eq!(world.came().len(), 4);
}
