//! An HTTPS server on loopback with prepared responses.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
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

/// Content type and content.
type Page = (&'static str, Vec<u8>);

#[derive(Clone)]
struct PreparedResponse {
    page: Page,
    content_length: usize,
}

impl From<Page> for PreparedResponse {
    fn from(page: Page) -> Self {
        let content_length = page.1.len();
        Self {
            page,
            content_length,
        }
    }
}

/// Runs until the process of the tests ends.
pub struct MockWebServer {
    port: u16,
    request_count: Arc<AtomicUsize>,
}

impl MockWebServer {
    /// Serves these pages, and 404 at all other paths.
    pub fn with<const N: usize>(pages: [(&'static str, Page); N]) -> Self {
        Self::serve(pages.map(|(path, page)| (path, page.into())).into())
    }

    /// Serves an empty body with this `Content-Length` at `path`.
    pub fn with_content_length(
        path: &'static str,
        content_type: &'static str,
        content_length: usize,
    ) -> Self {
        let response = PreparedResponse {
            page: (content_type, Vec::new()),
            content_length,
        };
        Self::serve(HashMap::from([(path, response)]))
    }

    /// Serves the JSON that `respond` returns for a path on `port`, one request at a time.
    pub fn with_json(
        port: u16,
        respond: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        Self::serve_on(listener, move |path| {
            Some(("application/json", respond(path)?).into())
        })
    }

    fn serve(responses: HashMap<&'static str, PreparedResponse>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        Self::serve_on(listener, move |path| responses.get(path).cloned())
    }

    fn serve_on(
        listener: TcpListener,
        respond: impl Fn(&str) -> Option<PreparedResponse> + Send + 'static,
    ) -> Self {
        let server = Self {
            port: listener.local_addr().expect("it has an address").port(),
            request_count: Arc::default(),
        };
        let (request_count, config) = (server.request_count.clone(), tls_config());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a connection");
                let count_and_respond = |path: &str| {
                    request_count.fetch_add(1, Ordering::Relaxed);
                    respond(path)
                };
                respond_to(StreamOwned::new(connection, stream), &count_and_respond);
            }
        });
        server
    }

    /// Serves one page without TLS, at any path. Returns the URL.
    pub fn without_tls(page: Page) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let response = PreparedResponse::from(page);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                respond_to(stream, &|_| Some(response.clone()));
            }
        });
        format!("http://localhost:{port}/")
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The name of this server as a Matrix server.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn request_count(&self) -> usize {
        self.request_count.load(Ordering::Relaxed)
    }
}

/// Reads a request and writes the response.
fn respond_to(stream: impl Read + Write, respond: &impl Fn(&str) -> Option<PreparedResponse>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match stream.read_line(&mut head) {
            Ok(1..) => {}
            _ => break,
        }
    }
    let path = head.split([' ', '?']).nth(1);
    // Fails if the client has closed the connection.
    let _ = write_response(stream.get_mut(), path.and_then(respond).as_ref());
}

fn write_response(
    stream: &mut impl Write,
    response: Option<&PreparedResponse>,
) -> std::io::Result<()> {
    let Some(response) = response else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    };
    let ((content_type, content), length) = (&response.page, response.content_length);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    )?;
    stream.write_all(content)?;
    stream.flush()
}

/// The certificate is for `localhost`.
pub fn tls_config() -> Arc<ServerConfig> {
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
    Arc::new(config.expect("a valid certificate and key"))
}
