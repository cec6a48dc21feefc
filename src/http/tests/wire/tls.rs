//! The same, encrypted.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

use tempfile::TempDir;

use super::{Client, Server, VERSIONS, config, connect};
use crate::{
    config::{CertificateSource, Config},
    http::limits::Timeouts,
};

type TlsClient = Client<StreamOwned<ClientConnection, TcpStream>>;

/// The authority of these tests.
fn root() -> CertificateDer<'static> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests/root.pem");
    CertificateDer::from_pem_file(root).unwrap()
}

fn tls_client(address: SocketAddr) -> TlsClient {
    tls_client_of(address, root())
}

fn tls_client_of(address: SocketAddr, root: CertificateDer<'static>) -> TlsClient {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
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
fn requests_are_served_over_tls() {
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
fn a_connection_without_tls_handshake_is_closed_after_its_timeout() {
    let timeouts = Timeouts {
        handshake: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    assert!(Client::new(connect(server.tls)).is_closed());
    let mut plain = Client::new(connect(server.tls));
    plain.send(VERSIONS);
    assert!(!plain.read().is_ok_and(|answer| answer.status == 200));
    assert_eq!(tls_client(server.tls).send(VERSIONS).answer().status, 200);
    server.stop();
}

/// Files of a certificate that can be replaced.
struct Files {
    directory: TempDir,
    config: Config,
}

impl Files {
    /// With the certificate of all tests.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config();
        let CertificateSource::Files(files) = &mut config.tls.as_mut().unwrap().source else {
            panic!("the certificate is in files");
        };
        for (file, name) in [(&mut files.certificate, "cert"), (&mut files.key, "key")] {
            let copy = directory.path().join(name);
            fs::copy(&file, &copy).unwrap();
            *file = copy;
        }
        Self { directory, config }
    }

    /// Puts another file there, as programs do that renew certificates.
    fn replace(&self, name: &str, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.directory.path().join(name)).unwrap();
    }

    /// Puts another certificate there, and returns it.
    fn renew(&self) -> CertificateDer<'static> {
        let names = vec!["localhost".to_owned()];
        let renewed = rcgen::generate_simple_self_signed(names).unwrap();
        self.replace("cert", &renewed.cert.pem());
        self.replace("key", &renewed.signing_key.serialize_pem());
        renewed.cert.der().clone()
    }

    fn serve(&self, looks: Duration) -> Server {
        let timeouts = Timeouts {
            certificate_check: looks,
            ..Timeouts::default()
        };
        Server::of(&self.config, timeouts, 100)
    }
}

/// Whether a server shows a certificate that is signed by `root`.
fn shows(server: &Server, root: &CertificateDer<'static>) -> bool {
    let mut client = tls_client_of(server.tls, root.clone());
    client.try_send(VERSIONS).is_ok() && client.read().is_ok_and(|answer| answer.status == 200)
}

const AT_EVERY_CONNECTION: Duration = Duration::ZERO;
const NEVER: Duration = Duration::MAX;

#[test]
fn a_changed_certificate_is_used_for_new_connections_only() {
    let files = Files::new();
    let server = files.serve(AT_EVERY_CONNECTION);
    let mut before = tls_client(server.tls);
    assert_eq!(before.send(VERSIONS).answer().status, 200);
    let renewed = files.renew();
    assert!(shows(&server, &renewed) && !shows(&server, &root()));
    assert_eq!(before.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn reload_reads_the_certificate_at_once() {
    let files = Files::new();
    let server = files.serve(NEVER);
    let renewed = files.renew();
    assert!(shows(&server, &root()) && !shows(&server, &renewed));
    smol::block_on(server.certificate.reload());
    assert!(shows(&server, &renewed));
    server.stop();
}

#[test]
fn invalid_certificate_files_leave_the_old_certificate_in_use() {
    let files = Files::new();
    let server = files.serve(AT_EVERY_CONNECTION);
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    // A key that is not the certificate's, something that is no key, and a file that is gone.
    for text in [pem.as_str(), "nonsense"] {
        files.replace("key", text);
        assert!(shows(&server, &root()));
        smol::block_on(server.certificate.reload());
        assert!(shows(&server, &root()));
    }
    fs::remove_file(files.directory.path().join("cert")).unwrap();
    assert!(shows(&server, &root()));
    smol::block_on(server.certificate.reload());
    assert!(shows(&server, &root()));
    assert!(shows(&server, &files.renew()));
    server.stop();
}
