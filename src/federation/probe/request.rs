//! A request to one address of a server.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use futures_rustls::TlsConnector;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame},
    client::conn::http1,
};
use rustls::{
    ClientConfig,
    client::WebPkiServerVerifier,
    crypto::ring,
    pki_types::{ServerName as TlsName, UnixTime},
};
use smol::{Async, stream};
use smol_hyper::rt::FuturesIo;

use super::{
    certificate::{PeerCertificate, Recorder},
    lookup::Probe,
};
use crate::{federation::transport::connect::with_timeout, pool::Kind};

/// For the TCP connection and for the TLS handshake each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// For the request with its body, and the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_BODY_BYTES: usize = 64 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

pub type ProbeBody = UnsyncBoxBody<Bytes, Infallible>;

/// A host and port with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The name that its certificate must have, without brackets.
    pub host: String,
    /// The `Host` header.
    pub authority: String,
    pub port: u16,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the connection is refused")]
    Refused,
    #[error("nothing answers in time")]
    TimedOut,
    /// This machine has no address of that family.
    #[error("this machine has no route there")]
    NoRoute,
    #[error("{0}")]
    Other(String),
    #[error("what answers there does not speak TLS: {0}")]
    Tls(String),
    #[error("the answer is no HTTP: {0}")]
    Http(String),
}

/// What a server with TLS answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub certificate: PeerCertificate,
    pub response: Result<Response<Bytes>, Failure>,
    /// When it was received, by the clock of this machine, in milliseconds since the epoch.
    pub received_ms: u64,
}

pub fn empty_body() -> ProbeBody {
    Empty::new().boxed_unsync()
}

pub fn whole_body(bytes: Vec<u8>) -> ProbeBody {
    Full::new(Bytes::from(bytes)).boxed_unsync()
}

/// A body of so many zero bytes, which is never whole in memory.
pub fn zeros(chunks: usize) -> (ProbeBody, usize) {
    static CHUNK: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
    let frames = (0..chunks).map(|_| Ok(Frame::data(Bytes::from_static(&CHUNK))));
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    (body, chunks * CHUNK_BYTES)
}

impl Probe {
    /// Sends `request` to `site` at `address`.
    pub async fn request(
        &self,
        site: &Site,
        address: IpAddr,
        request: Request<ProbeBody>,
    ) -> Result<Reply, Failure> {
        let address = SocketAddr::new(address, site.port);
        let connect = Async::<TcpStream>::connect(address);
        let stream = with_timeout(CONNECT_TIMEOUT, connect).await;
        let stream = stream.map_err(|_| Failure::TimedOut)?.map_err(of_tcp)?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.0.clock.now_ms()));
        let recorder = Arc::new(Recorder::new(self.verifier().await?, now));
        let tls = TlsConnector::from(Arc::new(client_config(recorder.clone())?));
        let name = TlsName::try_from(site.host.clone());
        let name = name.map_err(|_| Failure::Other("this is no name of a host".to_owned()))?;
        let stream = with_timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await;
        let stream = stream.map_err(|_| Failure::TimedOut)?.map_err(of_tls)?;
        let certificate = recorder.take();
        let certificate =
            certificate.ok_or_else(|| Failure::Tls("it has no certificate".to_owned()))?;
        let exchange = async {
            let handshake = http1::Builder::new()
                .max_buf_size(MAX_HEAD_BYTES)
                .handshake(FuturesIo::new(stream))
                .await;
            let (mut sender, connection) = handshake.map_err(of_http)?;
            let driving = self.0.executor.spawn(async {
                let _ = connection.await;
            });
            let mut request = request;
            let authority = HeaderValue::from_str(&site.authority);
            let authority = authority.map_err(|error| Failure::Other(error.to_string()))?;
            request.headers_mut().insert(header::HOST, authority);
            let response = sender.send_request(request).await.map_err(of_http)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
            let body = body.map_err(|error| Failure::Http(error.to_string()))?;
            drop(driving);
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let response = with_timeout(RESPONSE_TIMEOUT, exchange).await;
        Ok(Reply {
            certificate,
            response: response.unwrap_or(Err(Failure::TimedOut)),
            received_ms: self.0.clock.now_ms(),
        })
    }

    /// Reads the files of the system, once.
    async fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, Failure> {
        let made = self.0.verifier.get_or_try_init(async || {
            let authorities = self.0.authorities.clone();
            let make = move || {
                let roots = Arc::new(authorities.roots().map_err(in_words)?);
                let provider = Arc::new(ring::default_provider());
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider);
                verifier.build().map_err(in_words)
            };
            let made = self.0.pool.run(Kind::LookUp, make).await;
            made.map_err(in_words)?
        });
        made.await.cloned()
    }
}

fn client_config(recorder: Arc<Recorder>) -> Result<ClientConfig, Failure> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(in_words)?
        .dangerous()
        .with_custom_certificate_verifier(recorder)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn in_words(error: impl ToString) -> Failure {
    Failure::Other(error.to_string())
}

fn of_tcp(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable => Failure::NoRoute,
        _ => Failure::Other(error.to_string()),
    }
}

fn of_tls(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            Failure::Tls("it closes the connection".to_owned())
        }
        _ => Failure::Tls(error.to_string()),
    }
}

fn of_http(error: hyper::Error) -> Failure {
    match error.is_parse() {
        true => Failure::Http(error.to_string()),
        false => Failure::Other("it closes the connection".to_owned()),
    }
}
