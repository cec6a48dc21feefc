//! The steps of the specification.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use http::Request;
use http_body_util::Full;
use ruma::owned_server_name;

use super::{DOMAINS, OF_A, OF_B, World, at, delegates};
use crate::{
    body_budget::BodyBudget,
    federation::{
        Error,
        transport::connect::{Limits, Target, exchange},
    },
};

#[test]
fn step_1_an_ip_literal_is_used_without_a_query() {
    let world = World::new("", &[]);
    for (name, address, tls_name) in [
        ("1.2.3.4", "1.2.3.4:8448", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4:80", "1.2.3.4"),
        ("[2001:db8::1]", "[2001:db8::1]:8448", "2001:db8::1"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "2001:db8::1"),
    ] {
        assert_eq!(world.resolve(name).unwrap(), at(&[address], name, tls_name));
    }
    assert_eq!(world.lookups.server.queries(), [] as [&str; 0]);
    assert_eq!(world.requests(), []);
}

#[test]
fn step_2_a_name_with_a_port_has_the_addresses_of_the_host_and_that_port() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 0 0 1 b.example\n\
                d.example 60 CNAME e.example\n\
                e.example 60 A 127.0.0.5\n\
                e.example 60 AAAA ::5";
    let world = World::new(zone, &[(OF_A, &delegates("b.example:2"))]);
    let found = world.resolve("a.example:80").unwrap();
    assert_eq!(found, at(&["127.0.0.1:80"], "a.example:80", "a.example"));
    let found = world.resolve("d.example:80").unwrap();
    let both = ["[::5]:80", "127.0.0.5:80"];
    assert_eq!(found, at(&both, "d.example:80", "d.example"));
    assert_eq!(world.requests(), []);
}

#[test]
fn step_3_1_a_domain_can_delegate_to_an_ip_literal() {
    for (to, address, tls_name) in [
        ("1.2.3.4", "1.2.3.4:8448", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4:80", "1.2.3.4"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "2001:db8::1"),
    ] {
        let world = World::new("", &[(OF_A, &delegates(to))]);
        let found = world.resolve("a.example").unwrap();
        assert_eq!(found, at(&[address], to, tls_name));
    }
}

#[test]
fn step_3_2_a_domain_can_delegate_to_a_name_with_a_port() {
    let zone = "_matrix-fed._tcp.b.example 60 SRV 0 0 1 c.example";
    let world = World::new(zone, &[(OF_A, &delegates("b.example:80"))]);
    let found = world.resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:80"], "b.example:80", "b.example"));
}

#[test]
fn step_3_3_the_delegated_name_can_have_srv_records() {
    let zone = "_matrix-fed._tcp.b.example 60 SRV 0 0 80 h.example\n\
                _matrix._tcp.b.example 60 SRV 0 0 81 h.example\n\
                _matrix-fed._tcp.a.example 60 SRV 0 0 82 h.example\n\
                h.example 60 A 127.0.0.8";
    let world = World::new(zone, &[(OF_A, &delegates("b.example"))]);
    let found = world.resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:80"], "b.example", "b.example"));
}

#[test]
fn step_3_4_the_deprecated_srv_records_are_used_if_there_are_no_others() {
    let zone = "_matrix._tcp.b.example 60 SRV 0 0 81 h.example\n\
                h.example 60 A 127.0.0.8";
    let world = World::new(zone, &[(OF_A, &delegates("b.example"))]);
    let found = world.resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:81"], "b.example", "b.example"));
}

#[test]
fn step_3_5_without_srv_records_the_delegated_name_has_the_default_port() {
    let world = World::new("", &[(OF_A, &delegates("b.example"))]);
    let found = world.resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:8448"], "b.example", "b.example"));
    // It cannot delegate further.
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn step_4_a_domain_that_does_not_delegate_can_have_srv_records() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 0 0 80 h.example\n\
                _matrix._tcp.a.example 60 SRV 0 0 81 h.example\n\
                h.example 60 A 127.0.0.8";
    let world = World::new(zone, &[]);
    let found = world.resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:80"], "a.example", "a.example"));
}

#[test]
fn step_5_the_deprecated_srv_records_are_used_if_there_are_no_others() {
    let zone = "_matrix._tcp.a.example 60 SRV 0 0 81 h.example\n\
                h.example 60 A 127.0.0.8";
    let found = World::new(zone, &[]).resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:81"], "a.example", "a.example"));
}

#[test]
fn step_6_otherwise_the_name_itself_has_the_default_port() {
    let found = World::new("", &[]).resolve("a.example").unwrap();
    assert_eq!(found, at(&["127.0.0.1:8448"], "a.example", "a.example"));
}

#[test]
fn a_domain_without_an_address_can_have_srv_records() {
    let zone = "_matrix-fed._tcp.d.example 60 SRV 0 0 80 h.example\n\
                h.example 60 A 127.0.0.8";
    let found = World::new(zone, &[]).resolve("d.example").unwrap();
    assert_eq!(found, at(&["127.0.0.8:80"], "d.example", "d.example"));
}

#[test]
fn hosts_of_srv_records_are_ordered_by_priority_and_unresolvable_ones_left_out() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 20 0 80 h.example\n\
                _matrix-fed._tcp.a.example 60 SRV 10 0 81 i.example\n\
                _matrix-fed._tcp.a.example 60 SRV 5 0 82 none.example\n\
                h.example 60 A 127.0.0.8\n\
                i.example 60 A 127.0.0.9";
    let found = World::new(zone, &[]).resolve("a.example").unwrap();
    let both = ["127.0.0.9:81", "127.0.0.8:80"];
    assert_eq!(found, at(&both, "a.example", "a.example"));
}

#[test]
fn an_srv_record_without_a_host_means_that_there_is_no_server() {
    let zone = "_matrix-fed._tcp.a.example 60 SRV 0 0 0 .";
    let found = World::new(zone, &[]).resolve("a.example");
    assert!(matches!(found, Err(Error::Unresolvable)), "{found:?}");
}

#[test]
fn a_failure_of_srv_lookups_falls_back_to_the_name_itself() {
    let zone = "broken.example 60 A 127.0.0.1";
    let world = World::new(zone, &[]);
    world.lookups.hosts("127.0.0.5 broken.example\n");
    let found = world.resolve("broken.example").unwrap();
    let expected = at(&["127.0.0.5:8448"], "broken.example", "broken.example");
    assert_eq!(found, expected);
}

#[test]
fn an_invalid_or_large_well_known_response_is_ignored() {
    for page in [
        "",
        "{",
        "{}",
        "[]",
        "{\"m.server\": 1}",
        "{\"m.server\": \"a b\"}",
    ] {
        let found = World::new("", &[(OF_A, page)])
            .resolve("a.example")
            .unwrap();
        assert_eq!(found, at(&["127.0.0.1:8448"], "a.example", "a.example"));
    }
    let large = delegates("b.example") + &" ".repeat(20_000);
    let found = World::new("", &[(OF_A, &large)])
        .resolve("a.example")
        .unwrap();
    assert_eq!(found.authority, "a.example");
}

#[test]
fn redirects_of_well_known_are_followed_up_to_a_limit() {
    let pages = [
        (OF_A, "->https://b.example:PORT/one"),
        ("b.example/one", "->/two"),
        ("b.example/two", &delegates("c.example:80")),
    ];
    let world = World::new("", &pages);
    let found = world.resolve("a.example").unwrap();
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
    assert_eq!(world.requests(), expected);

    world.page(
        "b.example/two",
        "->https://a.example/.well-known/matrix/server",
    );
    let found = world.resolve("a.example").unwrap();
    assert_eq!(found.authority, "a.example");
    assert_eq!(world.requests().len(), 4);
}

#[test]
fn private_addresses_are_not_connected_to() {
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
        let found = world.resolve(name).unwrap();
        let target = Target {
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
    assert_eq!(world.requests(), []);
}

#[test]
fn a_server_with_srv_records_needs_a_certificate_for_its_name() {
    let world = World::new("", &[("a.example/hello", "hello")]);
    let limits = Limits {
        timeout: Duration::from_secs(10),
        max_bytes: 100,
    };
    let zone = |name: &str| {
        let port = world.port;
        format!(
            "{DOMAINS}_matrix._tcp.{name} 60 SRV 0 0 {port} c.example\nd.example 60 A 127.0.0.1"
        )
    };
    world.lookups.server.set_zone(&zone("a.example"));
    let target = world.resolve("a.example").unwrap();
    world.requests();
    world.run(async {
        let mut connection = world.connector.connect(&target).await.unwrap();
        let request = Request::get("/hello").body(Full::default()).unwrap();
        let memory = BodyBudget::new(4096, 0).begin(owned_server_name!("a.example"));
        let answer = exchange(&mut connection, &target, request, limits, memory).await;
        assert_eq!(answer.unwrap().body_mut().take(), b"hello");
    });
    let came = ["a.example", "a.example", "/hello"].map(str::to_owned);
    assert_eq!(world.requests(), [came.into()]);

    // The certificate is for the host of the SRV record, but not for the server name.
    world.lookups.server.set_zone(&zone("d.example"));
    let target = world.resolve("d.example").unwrap();
    let connected = world.run(world.connector.connect(&target));
    assert!(matches!(connected, Err(Error::Unreachable(_))));
}

#[test]
fn a_server_whose_first_address_refuses_is_reached_at_the_next() {
    let world = World::new("", &[]);
    let (dead, alive) = (SocketAddr::from(([127, 0, 0, 9], world.port)), world.port);
    let target = Target {
        addresses: vec![dead, SocketAddr::from(([127, 0, 0, 1], alive))],
        authority: "a.example".to_owned(),
        tls_name: Some("a.example".to_owned()),
    };
    assert!(world.run(world.connector.connect(&target)).is_ok());
}

#[test]
fn a_server_that_does_not_answer_at_its_first_address_is_reached_at_the_next() {
    let world = World::new("", &[]);
    // It accepts connections and never sends anything.
    let silent = TcpListener::bind(("127.0.0.9", world.port)).unwrap();
    let target = Target {
        addresses: vec![
            silent.local_addr().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], world.port)),
        ],
        authority: "a.example".to_owned(),
        tls_name: Some("a.example".to_owned()),
    };
    assert!(world.run(world.connector.connect(&target)).is_ok());
}
