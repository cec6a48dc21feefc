//! The steps, with a name server and web servers on the loopback.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_rustls::TlsAcceptor;
use http::Request;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ruma::{OwnedServerName, ServerName, server_name};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use smol::{
    Async, Executor, Timer,
    io::{AsyncReadExt, AsyncWriteExt},
};
use tempfile::TempDir;

use super::{Ports, Resolver, Search, WAITING, search::target, stored};
use crate::{
    clock::Clock,
    federation::{
        Error,
        connect::{Connector, Limits, Target, exchange, in_time},
        dns::tests::Lookups,
        tls::Authorities,
    },
    pool::Pool,
    store::{self, Options, Reader, Rows, Store, Tx, records::Whereabouts},
};

/// Where a test's servers are if nothing is said of a port.
const MATRIX: u16 = 8448;
/// Every domain of these tests is here, for its `.well-known`.
const DOMAINS: &str = "a.example 60 A 127.0.0.1\n\
                       b.example 60 A 127.0.0.1\n\
                       c.example 60 A 127.0.0.1\n";

/// What a web server has at a host and path: a body, or after `->` where to go instead.
type Pages = HashMap<&'static str, String>;

/// A request that came: whose certificate was wanted, the `Host` and the path.
type Came = (String, String, String);

struct World {
    executor: Arc<Executor<'static>>,
    lookups: Lookups,
    connector: Connector,
    pages: Arc<Mutex<Pages>>,
    came: Arc<Mutex<Vec<Came>>>,
    port: u16,
}

impl World {
    /// The domains with these records besides, and these pages.
    fn new(zone: &str, pages: &[(&'static str, &str)]) -> Self {
        Self::with(zone, pages, true)
    }

    fn with(zone: &str, pages: &[(&'static str, &str)], allow_private: bool) -> Self {
        let executor = Arc::new(Executor::new());
        let (authority, acceptor) = authority();
        let authorities = Authorities::of(vec![authority]);
        let connector = Connector::new(authorities, allow_private, &Pool::default(), &executor);
        let lookups = Lookups::new(&executor, &format!("{DOMAINS}{zone}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let world = Self {
            port: listener.local_addr().unwrap().port(),
            pages: Arc::default(),
            came: Arc::default(),
            executor,
            lookups,
            connector,
        };
        for (place, page) in pages {
            world.page(place, page);
        }
        let serve = serve(
            Async::new(listener).unwrap(),
            acceptor,
            world.pages.clone(),
            world.came.clone(),
        );
        world.executor.spawn(serve).detach();
        world
    }

    /// Has something else at a host and path.
    fn page(&self, place: &'static str, page: &str) {
        let page = page.replace("PORT", &self.port.to_string());
        self.pages.lock().unwrap().insert(place, page);
    }

    fn search(&self) -> Search {
        let ports = Ports {
            matrix: MATRIX,
            https: self.port,
        };
        Search::new(&self.connector, self.lookups.dns.clone(), ports)
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.executor.run(future))
    }

    fn find(&self, name: &str) -> Result<Target, Error> {
        let name = <&ServerName>::try_from(name).unwrap();
        let found = self.run(self.search().find(name, None, 0))?;
        Ok(target(name, &found))
    }

    fn came(&self) -> Vec<Came> {
        std::mem::take(&mut self.came.lock().unwrap())
    }
}

/// An authority, and a server for which it vouches under every name of these tests.
fn authority() -> (CertificateDer<'static>, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names = ["a.example", "b.example", "c.example", "127.0.0.1"];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names.map(str::to_owned))
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (authority.der().clone(), TlsAcceptor::from(Arc::new(config)))
}

async fn serve(
    listener: Async<TcpListener>,
    acceptor: TlsAcceptor,
    pages: Arc<Mutex<Pages>>,
    came: Arc<Mutex<Vec<Came>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // Who does not like the certificate goes away.
        if let Ok(stream) = acceptor.accept(stream).await {
            answer(stream, &pages, &came).await;
        }
    }
}

async fn answer(
    mut stream: futures_rustls::server::TlsStream<Async<TcpStream>>,
    pages: &Mutex<Pages>,
    came: &Mutex<Vec<Came>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let host = head.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.unwrap().to_owned();
    let sni = stream.get_ref().1.server_name().unwrap_or("").to_owned();
    let place = format!("{}{path}", host.split(':').next().unwrap());
    came.lock().unwrap().push((sni, host, path));
    let page = pages.lock().unwrap().get(&*place).cloned();
    let answer = match page.as_deref() {
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        Some(page) => match page.strip_prefix("->") {
            Some(to) => {
                format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
            }
            None => format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            ),
        },
    };
    // It may have had enough.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.close().await;
}

const OF_A: &str = "a.example/.well-known/matrix/server";
const OF_B: &str = "b.example/.well-known/matrix/server";

fn delegates(to: &str) -> String {
    format!("{{\"m.server\": \"{to}\"}}")
}

fn at(addresses: &[&str], authority: &str, tls_name: &str) -> Target {
    let addresses = addresses.iter().map(|address| address.parse().unwrap());
    Target {
        addresses: addresses.collect::<Vec<SocketAddr>>(),
        authority: authority.to_owned(),
        tls_name: tls_name.to_owned(),
    }
}

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

/// A resolver, what it stores, and its clock.
struct House<'w> {
    world: &'w World,
    resolver: Resolver,
    store: Store,
    clock: Clock,
    directory: TempDir,
}

impl<'w> House<'w> {
    fn new(world: &'w World) -> Self {
        Self::at(
            world,
            Clock::manual(1_000_000),
            tempfile::tempdir().unwrap(),
        )
    }

    fn at(world: &'w World, clock: Clock, directory: TempDir) -> Self {
        let options = Options {
            directory: directory.path().to_owned(),
            cache: 1 << 20,
        };
        let store = Store::open(&options, Pool::default()).unwrap();
        world.executor.spawn(store.clone().publish(|_| ())).detach();
        Self {
            resolver: Resolver::new(world.search(), &store, &clock, &world.executor),
            world,
            store,
            clock,
            directory,
        }
    }

    fn resolve(&self, name: &str) -> Result<Target, Error> {
        let name = <&ServerName>::try_from(name).unwrap();
        self.world.run(self.resolver.resolve(name))
    }

    fn resolve_again(&self, name: &str) -> Option<Target> {
        let name = <&ServerName>::try_from(name).unwrap();
        self.world.run(self.resolver.resolve_again(name))
    }

    /// Whether anybody is asked to resolve `name`, and if so waits until that is over.
    fn asks_for(&self, name: &str) -> bool {
        self.world.lookups.server.asked();
        let _ = self.resolve(name);
        let search = {
            let searches = self.resolver.0.searches.lock().unwrap();
            searches.get(name).cloned()
        };
        if let Some(search) = search {
            let _ = self.world.run(search.recv());
        }
        !self.world.lookups.server.asked().is_empty()
    }

    /// Waits for what is to be stored soon.
    fn settle(&self) {
        let nothing = self.store.write(|_| Ok::<_, store::Error>(()));
        self.world.run(nothing).unwrap();
    }

    fn restart(self) -> Self {
        self.settle();
        self.world.run(self.store.close());
        Self::at(self.world, self.clock.clone(), self.directory)
    }
}

const DAY: Duration = Duration::from_hours(24);

#[test]
fn after_a_restart_nobody_is_asked_where_fifty_known_servers_are() {
    let zone: String = (0..50)
        .map(|n| format!("s{n}.example 60 A 127.0.0.{n}\n"))
        .collect();
    let world = World::new(&zone, &[]);
    let names: Vec<_> = (0..50).map(|n| format!("s{n}.example:{n}")).collect();
    let house = House::new(&world);
    let before: Vec<_> = names.iter().map(|name| house.resolve(name)).collect();
    assert!(!world.lookups.server.asked().is_empty());
    let house = house.restart();
    for (name, before) in names.iter().zip(before) {
        assert_eq!(house.resolve(name).unwrap(), before.unwrap());
    }
    assert_eq!(world.lookups.server.asked(), [] as [&str; 0]);
}

#[test]
fn what_may_be_old_is_used_while_it_is_looked_for_anew() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    let before = house.resolve("d.example:80").unwrap();
    house.settle();
    house.clock.advance(2 * DAY);
    world.lookups.server.know("d.example 60 A 127.0.0.5");
    assert_eq!(house.resolve("d.example:80").unwrap(), before);
    let after = at(&["127.0.0.5:80"], "d.example:80", "d.example");
    let is_found = async || {
        while house
            .resolver
            .resolve(server_name!("d.example:80"))
            .await
            .unwrap()
            != after
        {
            Timer::after(Duration::from_millis(2)).await;
        }
    };
    world
        .run(in_time(Duration::from_secs(20), is_found()))
        .unwrap();
}

#[test]
fn what_is_not_found_any_more_is_still_where_it_was() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    let before = house.resolve("d.example:80").unwrap();
    world.lookups.server.know("");
    house.settle();
    house.clock.advance(2 * DAY);
    assert!(house.asks_for("d.example:80"));
    assert_eq!(house.resolve("d.example:80").unwrap(), before);
    house.clock.advance(DAY);
    assert_eq!(house.resolve("d.example:80").unwrap(), before);
}

#[test]
fn that_somebody_is_not_found_is_remembered_for_a_minute() {
    let world = World::new("", &[]);
    let house = House::new(&world);
    house.resolve("none.example").unwrap_err();
    assert!(!house.asks_for("none.example"));
    house.clock.advance(Duration::from_mins(2));
    assert!(house.asks_for("none.example"));
}

#[test]
fn what_a_domain_says_holds_longer_than_where_its_server_is() {
    let world = World::new(
        "d.example 60 A 127.0.0.4",
        &[(OF_A, &delegates("d.example:80"))],
    );
    let house = House::new(&world);
    house.resolve("a.example").unwrap();
    world.came();
    house.settle();
    house.clock.advance(Duration::from_hours(2));
    assert!(house.asks_for("a.example"));
    assert_eq!(world.came(), []);
    house.settle();
    house.clock.advance(DAY);
    assert!(house.asks_for("a.example"));
    assert_eq!(world.came().len(), 1);
}

#[test]
fn a_domain_that_cannot_be_asked_says_what_it_said() {
    let world = World::new(
        "d.example 60 A 127.0.0.4",
        &[(OF_A, &delegates("d.example:80"))],
    );
    let house = House::new(&world);
    let before = house.resolve("a.example").unwrap();
    house.settle();
    world.lookups.server.know("d.example 60 A 127.0.0.4");
    house.clock.advance(2 * DAY);
    assert!(house.asks_for("a.example"));
    assert_eq!(house.resolve("a.example").unwrap(), before);
    // One that says that there is nothing, says so.
    world.lookups.server.know(DOMAINS);
    world.pages.lock().unwrap().clear();
    house.settle();
    house.clock.advance(2 * DAY);
    assert!(house.asks_for("a.example"));
    assert_eq!(house.resolve("a.example").unwrap().authority, "a.example");
}

#[test]
fn who_is_not_where_it_was_is_looked_for_once() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    house.resolve("d.example:80").unwrap();
    let house = house.restart();
    world.lookups.server.asked();
    world.lookups.server.know("d.example 60 A 127.0.0.5");
    let elsewhere = at(&["127.0.0.5:80"], "d.example:80", "d.example");
    assert_eq!(house.resolve_again("d.example:80"), Some(elsewhere));
    assert_eq!(world.lookups.server.asked().len(), 2);
    assert_eq!(house.resolve_again("d.example:80"), None);
    assert_eq!(world.lookups.server.asked(), [] as [&str; 0]);
}

#[test]
fn who_is_looked_for_by_many_is_looked_for_once() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    let resolve = || {
        let resolver = house.resolver.clone();
        let name = server_name!("d.example:80");
        world
            .executor
            .spawn(async move { resolver.resolve(name).await })
    };
    let tasks: Vec<_> = (0..20).map(|_| resolve()).collect();
    world.run(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(world.lookups.server.asked().len(), 2);
}

#[test]
fn not_everybody_is_looked_for_at_once() {
    let world = World::new("", &[]);
    let house = House::new(&world);
    // Nothing runs meanwhile.
    let start = |n: usize| {
        let name = OwnedServerName::try_from(format!("s{n}.example")).unwrap();
        house.resolver.start(&name, None).map(drop)
    };
    let started = (0..1000).take_while(|n| start(*n).is_ok()).count();
    assert_eq!(started, WAITING);
    // Who looks for the same waits with the others.
    start(0).unwrap();
}

#[test]
fn what_is_stored_has_an_end() {
    let world = World::new("", &[]);
    let house = House::new(&world);
    let job = |tx: &Tx| {
        for n in 0..2100 {
            let name = OwnedServerName::try_from(format!("s{n}.example")).unwrap();
            let found = Whereabouts {
                delegated: None,
                delegated_until_ts: n,
                endpoints: Vec::new(),
                until_ts: n,
            };
            stored::put(tx, &name, &found)?;
        }
        tx.whereabouts()?.len()
    };
    assert_eq!(world.run(house.store.write(job)).unwrap(), 1900);
    let stored = |name| house.store.read(|s| stored::get(s, name)).unwrap();
    assert_eq!(stored(server_name!("s199.example")), None);
    assert!(stored(server_name!("s200.example")).is_some());
    assert!(stored(server_name!("s2099.example")).is_some());
}
