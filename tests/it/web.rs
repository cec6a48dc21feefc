//! A small part of the web, on the loopback.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// What is at a path: its type, and the content.
type Page = (&'static str, Vec<u8>);

/// The same, with the length that is announced.
type Announced = (Page, usize);

/// A web server. It goes on until all tests have ended.
pub struct Web {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Web {
    /// A web server with these pages, and nothing else.
    pub fn with<const N: usize>(pages: [(&'static str, Page); N]) -> Self {
        let announced = pages.map(|(path, page)| {
            let length = page.1.len();
            (path, (page, length))
        });
        Self::serving(HashMap::from(announced))
    }

    /// A web server that announces so many bytes at this path, of which none comes.
    pub fn that_promises(path: &'static str, kind: &'static str, length: usize) -> Self {
        Self::serving(HashMap::from([(path, ((kind, Vec::new()), length))]))
    }

    /// A server at `port` that makes up what is at a path when it is asked, one request after the other.
    pub fn answering(port: u16, page: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        Self::on(listener, move |path| {
            let content = page(path)?;
            let length = content.len();
            Some((("application/json", content), length))
        })
    }

    fn serving(pages: HashMap<&'static str, Announced>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        Self::on(listener, move |path| pages.get(path).cloned())
    }

    fn on(
        listener: TcpListener,
        page: impl Fn(&str) -> Option<Announced> + Send + 'static,
    ) -> Self {
        let web = Self {
            port: listener.local_addr().expect("it has an address").port(),
            asked: Arc::default(),
        };
        let (asked, config) = (web.asked.clone(), config());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a connection");
                let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    match stream.read_line(&mut head) {
                        Ok(1..) => {}
                        _ => break,
                    }
                }
                asked.fetch_add(1, Ordering::Relaxed);
                let path = head.split([' ', '?']).nth(1);
                let page = path.and_then(&page);
                // Who asks may have had enough.
                let _ = answer(stream.get_mut(), page.as_ref());
            }
        });
        web
    }

    /// The link to what is at `path`.
    pub fn link(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// Its name, as that of a Matrix server.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// How often it has been asked for something.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(to: &mut impl Write, page: Option<&Announced>) -> std::io::Result<()> {
    let Some(((kind, content), length)) = page else {
        return to.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    };
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    to.write_all(head.as_bytes())?;
    to.write_all(content)?;
    to.flush()
}

/// How it proves that it is `localhost`.
pub fn config() -> Arc<ServerConfig> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests");
    let certificate = CertificateDer::from_pem_file(format!("{directory}/localhost.pem"));
    let key = PrivateKeyDer::from_pem_file(format!("{directory}/localhost.key.pem"));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            let certificate = vec![certificate.expect("a certificate")];
            config
                .with_no_client_auth()
                .with_single_cert(certificate, key.expect("a key"))
        });
    Arc::new(config.expect("it can be served"))
}
