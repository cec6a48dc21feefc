//! Server discovery, with a name server and web servers on the loopback.

mod caching;
mod steps;
mod web;

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use futures_rustls::TlsAcceptor;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ruma::ServerName;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use smol::{
    Async,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::{Discovery, discovery::target};
use crate::{
    executor::Executor,
    federation::{
        Error,
        discovery::{
            dns::tests::Lookups,
            hosts::{Hosts, Ports},
        },
        transport::{
            connect::{Connector, Target},
            tls::Authorities,
        },
    },
    pool::Pool,
};

/// The port of servers whose names have none.
const MATRIX: u16 = 8448;
/// The domains of these tests, all of which have a web server.
const DOMAINS: &str = "a.example 60 A 127.0.0.1\n\
                       b.example 60 A 127.0.0.1\n\
                       c.example 60 A 127.0.0.1\n";

/// The pages of the web server by host and path: a body, or `->` and the location of a redirect.
type Pages = HashMap<&'static str, String>;

/// A request: the server name of TLS, the `Host` header and the path.
type WebRequest = (String, String, String);

struct World {
    executor: Executor,
    lookups: Lookups,
    connector: Connector,
    pages: Arc<Mutex<Pages>>,
    requests: Arc<Mutex<Vec<WebRequest>>>,
    port: u16,
}

impl World {
    /// `zone` has further records.
    fn new(zone: &str, pages: &[(&'static str, &str)]) -> Self {
        Self::with(zone, pages, true)
    }

    fn with(zone: &str, pages: &[(&'static str, &str)], allow_private: bool) -> Self {
        let executor = Executor::default();
        let (authority, acceptor) = authority();
        let authorities = Authorities::of(vec![authority]);
        let connector = Connector::new(authorities, allow_private, &Pool::default(), &executor);
        let lookups = Lookups::new(&executor, &format!("{DOMAINS}{zone}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let world = Self {
            port: listener.local_addr().unwrap().port(),
            pages: Arc::default(),
            requests: Arc::default(),
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
            world.requests.clone(),
        );
        world.executor.spawn(serve).detach();
        world
    }

    fn page(&self, place: &'static str, page: &str) {
        let page = page.replace("PORT", &self.port.to_string());
        self.pages.lock().unwrap().insert(place, page);
    }

    fn hosts(&self) -> Hosts {
        let ports = Ports {
            matrix: MATRIX,
            http: self.port,
            https: self.port,
        };
        Hosts::new(&self.connector, self.lookups.dns.clone(), ports)
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.executor.run(future))
    }

    fn discovery(&self) -> Discovery {
        Discovery::new(self.hosts())
    }

    fn resolve(&self, name: &str) -> Result<Target, Error> {
        let name = <&ServerName>::try_from(name).unwrap();
        let resolved = self.run(self.discovery().resolve(name, None, 0))?;
        Ok(target(name, &resolved))
    }

    fn requests(&self) -> Vec<WebRequest> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// A certificate authority, and a server with a certificate for every name of these tests.
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
    requests: Arc<Mutex<Vec<WebRequest>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // It fails if the client rejects the certificate.
        if let Ok(stream) = acceptor.accept(stream).await {
            answer(stream, &pages, &requests).await;
        }
    }
}

async fn answer(
    mut stream: futures_rustls::server::TlsStream<Async<TcpStream>>,
    pages: &Mutex<Pages>,
    requests: &Mutex<Vec<WebRequest>>,
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
    requests.lock().unwrap().push((sni, host, path));
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
    // The client may have closed the connection.
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
        tls_name: Some(tls_name.to_owned()),
    }
}
