//! The same, encrypted.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Client, Server, VERSIONS, connect};
use crate::http::limits::Times;

fn tls_client(address: SocketAddr) -> Client<StreamOwned<ClientConnection, TcpStream>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests/root.pem");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(root).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    Client::new(StreamOwned::new(session, connect(address)))
}

#[test]
fn what_is_served_is_served_with_tls_too() {
    let server = Server::start();
    let mut client = tls_client(server.tls);
    for _ in 0..2 {
        assert_eq!(client.send(VERSIONS).answer().status, 200);
    }
    client.send(server.head("GET", "/_matrix/client/v3/sync", ""));
    assert_eq!(client.answer().body, b"{\"next_batch\":\"s1\"}");
    server.stop();
}

#[test]
fn who_does_not_shake_hands_is_closed() {
    let times = Times {
        handshake: Duration::from_millis(200),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    assert!(Client::new(connect(server.tls)).is_closed());
    let mut plain = Client::new(connect(server.tls));
    plain.send(VERSIONS);
    assert!(!plain.read().is_ok_and(|answer| answer.status == 200));
    assert_eq!(tls_client(server.tls).send(VERSIONS).answer().status, 200);
    server.stop();
}
