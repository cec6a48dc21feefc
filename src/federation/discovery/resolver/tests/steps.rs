//! The steps of the specification, one by one.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use http::Request;
use http_body_util::Full;

use super::{DOMAINS, OF_A, OF_B, World, at, delegates};
use crate::federation::{
    Error,
    transport::connect::{Limits, Target, exchange},
};

#[test]
fn step_1_an_address_is_where_it_says_and_nobody_is_asked() {
    let world = World::new("", &[]);
    for (name, address, tls_name) in [
        ("1.2.3.4", "1.2.3.4:8448", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4:80", "1.2.3.4"),
        ("[2001:db8::1]", "[2001:db8::1]:8448", "2001:db8::1"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "2001:db8::1"),
    ] {
        assert_eq!(world.find(name).unwrap(), at(&[address], name, tls_name));
    }
    assert_eq!(world.lookups.server.asked(), [] as [&str; 0]);
    assert_eq!(world.came(), []);
}

#[test]
fn step_2_a_name_with_a_port_has_its_addresses_and_that_port() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 0 0 1 b.example\n\
                d.example 60 CNAME e.example\n\
                e.example 60 A 127.0.0.5\n\
                e.example 60 AAAA ::5";
    let world = World::new(zone, &[(OF_A, &delegates("b.example:2"))]);
    let found = world.find("a.example:80").unwrap();
    assert_eq!(found, at(&["127.0.0.1:80"], "a.example:80", "a.example"));
    let found = world.find("d.example:80").unwrap();
    let both = ["[::5]:80", "127.0.0.5:80"];
    assert_eq!(found, at(&both, "d.example:80", "d.example"));
    assert_eq!(world.came(), []);
}

#[test]
fn step_3_1_a_domain_can_delegate_to_an_address() {
    for (to, address, tls_name) in [
        ("1.2.3.4", "1.2.3.4:8448", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4:80", "1.2.3.4"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "2001:db8::1"),
    ] {
        let world = World::new("", &[(OF_A, &delegates(to))]);
        let found = world.find("a.example").unwrap();
        assert_eq!(found, at(&[address], to, tls_name));
    }
}

#[test]
fn step_3_2_a_domain_can_delegate_to_a_name_with_a_port() {
    let zone = "_matrix-fed._tcp.b.example 60 SRV 0 0 1 c.example";
    let world = World::new(zone, &[(OF_A, &delegates("b.example:80"))]);
    let found = world.find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:80"], "b.example:80", "b.example"));
}

#[test]
fn step_3_3_the_name_delegated_to_can_have_a_service() {
    let zone = "_matrix-fed._tcp.b.example 60 SRV 0 0 80 h.example\n\
                _matrix._tcp.b.example 60 SRV 0 0 81 h.example\n\
                _matrix-fed._tcp.a.example 60 SRV 0 0 82 h.example\n\
                h.example 60 A 127.0.0.8";
    let world = World::new(zone, &[(OF_A, &delegates("b.example"))]);
    let found = world.find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:80"], "b.example", "b.example"));
}

#[test]
fn step_3_4_the_deprecated_service_counts_where_there_is_no_other() {
    let zone = "_matrix._tcp.b.example 60 SRV 0 0 81 h.example\n\
                h.example 60 A 127.0.0.8";
    let world = World::new(zone, &[(OF_A, &delegates("b.example"))]);
    let found = world.find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:81"], "b.example", "b.example"));
}

#[test]
fn step_3_5_without_a_service_the_name_delegated_to_is_at_the_usual_port() {
    let world = World::new("", &[(OF_A, &delegates("b.example"))]);
    let found = world.find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:8448"], "b.example", "b.example"));
    // It is not asked for its own.
    assert_eq!(world.came().len(), 1);
}

#[test]
fn step_4_a_domain_that_does_not_delegate_can_have_a_service() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 0 0 80 h.example\n\
                _matrix._tcp.a.example 60 SRV 0 0 81 h.example\n\
                h.example 60 A 127.0.0.8";
    let world = World::new(zone, &[]);
    let found = world.find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:80"], "a.example", "a.example"));
}

#[test]
fn step_5_there_too_the_deprecated_service_counts() {
    let zone = "_matrix._tcp.a.example 60 SRV 0 0 81 h.example\n\
                h.example 60 A 127.0.0.8";
    let found = World::new(zone, &[]).find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:81"], "a.example", "a.example"));
}

#[test]
fn step_6_without_anything_a_server_is_at_its_name_and_the_usual_port() {
    let found = World::new("", &[]).find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:8448"], "a.example", "a.example"));
}

#[test]
fn a_domain_without_an_address_can_have_a_service_all_the_same() {
    let zone = "_matrix-fed._tcp.d.example 60 SRV 0 0 80 h.example\n\
                h.example 60 A 127.0.0.8";
    let found = World::new(zone, &[]).find("d.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:80"], "d.example", "d.example"));
}

#[test]
fn hosts_of_a_service_come_by_priority_and_those_that_are_not_there_do_not() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 20 0 80 h.example\n\
                _matrix-fed._tcp.a.example 60 SRV 10 0 81 i.example\n\
                _matrix-fed._tcp.a.example 60 SRV 5 0 82 none.example\n\
                h.example 60 A 127.0.0.8\n\
                i.example 60 A 127.0.0.9";
    let found = World::new(zone, &[]).find("a.example").unwrap();
    let both = ["127.0.0.9:81", "127.0.0.8:80"];
    assert_eq!(found, at(&both, "a.example", "a.example"));
}

#[test]
fn a_service_that_is_decidedly_not_there_is_not_looked_for_elsewhere() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 0 0 0 .";
    let found = World::new(zone, &[]).find("a.example");
    assert!(matches!(found, Err(Error::Unresolvable)), "{found:?}");
}

#[test]
fn a_name_server_that_knows_no_services_hides_nobody() {
    let zone = "broken.example 60 A 127.0.0.1";
    let world = World::new(zone, &[]);
    world.lookups.hosts("127.0.0.5 broken.example\n");
    let found = world.find("broken.example").unwrap();
    let expected = at(&["127.0.0.5:8448"], "broken.example", "broken.example");
    assert_eq!(found, expected);
}

#[test]
fn what_a_domain_says_is_of_no_use_unless_it_is_what_the_specification_says() {
    for page in [
        "",
        "{",
        "{}",
        "[]",
        "{\"m.server\": 1}",
        "{\"m.server\": \"a b\"}",
    ] {
        let found = World::new("", &[(OF_A, page)]).find("a.example").unwrap();
        assert_eq!(found, at(&["127.0.0.1:8448"], "a.example", "a.example"));
    }
    let large = delegates("b.example") + &" ".repeat(20_000);
    let found = World::new("", &[(OF_A, &large)]).find("a.example").unwrap();
    assert_eq!(found.authority, "a.example");
}

#[test]
fn redirects_are_followed_but_not_round_and_round() {
    let pages = [
        (OF_A, "->https://b.example:PORT/one"),
        ("b.example/one", "->/two"),
        ("b.example/two", &delegates("c.example:80")),
    ];
    let world = World::new("", &pages);
    let found = world.find("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:80"], "c.example:80", "c.example"));
    let port = world.port;
    let came = |host: &str, authority: &str, path: &str| {
        (host.to_owned(), authority.to_owned(), path.to_owned())
    };
    let with_port = format!("b.example:{port}");
    let expected = [
        came("a.example", "a.example", "/.well-known/matrix/server"),
        came("b.example", &with_port, "/one"),
        came("b.example", &with_port, "/two"),
    ];
    assert_eq!(world.came(), expected);

    world.page(
        "b.example/two",
        "->https://a.example/.well-known/matrix/server",
    );
    let found = world.find("a.example").unwrap();
    assert_eq!(found.authority, "a.example");
    assert_eq!(world.came().len(), 4);
}

#[test]
fn nobody_is_led_to_addresses_of_private_networks() {
    let zone = "_matrix-fed._tcp.c.example 60 SRV 0 0 80 b.example\n\
                m.example 60 AAAA ::ffff:127.0.0.1";
    let pages = [(OF_A, "->https://127.0.0.1:PORT/"), (OF_B, "->/")];
    let world = World::with(zone, &pages, false);
    let names = [
        "a.example",
        "c.example",
        "m.example",
        "127.0.0.1",
        "localhost",
    ];
    for name in names {
        let found = world.find(name).unwrap();
        let target = Target {
            // Whatever the port.
            addresses: found
                .addresses
                .iter()
                .map(|address| SocketAddr::new(address.ip(), world.port))
                .collect(),
            ..found
        };
        let connected = world.run(world.connector.connect(&target));
        assert!(matches!(connected, Err(Error::Unresolvable)), "{name}");
    }
    assert_eq!(world.came(), []);
}

#[test]
fn who_is_found_by_a_service_must_be_who_its_name_says() {
    let world = World::new("", &[("a.example/hello", "hello")]);
    let limits = Limits {
        time: Duration::from_secs(10),
        size: 100,
    };
    let zone = |name: &str| {
        let port = world.port;
        format!(
            "{DOMAINS}_matrix._tcp.{name} 60 SRV 0 0 {port} c.example\nd.example 60 A 127.0.0.1"
        )
    };
    world.lookups.server.know(&zone("a.example"));
    let target = world.find("a.example").unwrap();
    world.came();
    world.run(async {
        let mut connection = world.connector.connect(&target).await.unwrap();
        let request = Request::get("/hello").body(Full::default()).unwrap();
        let answer = exchange(&mut connection, &target, request, limits).await;
        assert_eq!(answer.unwrap().body(), "hello");
    });
    let came = ["a.example", "a.example", "/hello"].map(str::to_owned);
    assert_eq!(world.came(), [came.into()]);

    // The certificate is not for this name, though it is for the host's.
    world.lookups.server.know(&zone("d.example"));
    let target = world.find("d.example").unwrap();
    let connected = world.run(world.connector.connect(&target));
    assert!(matches!(connected, Err(Error::Unreachable(_))));
}

#[test]
fn a_server_whose_first_address_is_dead_is_reached_at_the_next() {
    let world = World::new("", &[]);
    let (dead, alive) = (SocketAddr::from(([127, 0, 0, 9], world.port)), world.port);
    let target = Target {
        addresses: vec![dead, SocketAddr::from(([127, 0, 0, 1], alive))],
        authority: "a.example".to_owned(),
        tls_name: "a.example".to_owned(),
    };
    assert!(world.run(world.connector.connect(&target)).is_ok());
}

#[test]
fn a_server_that_is_silent_at_its_first_address_is_reached_at_the_next() {
    let world = World::new("", &[]);
    // It is connected to, and never says a word.
    let silent = TcpListener::bind(("127.0.0.9", world.port)).unwrap();
    let target = Target {
        addresses: vec![
            silent.local_addr().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], world.port)),
        ],
        authority: "a.example".to_owned(),
        tls_name: "a.example".to_owned(),
    };
    assert!(world.run(world.connector.connect(&target)).is_ok());
}
