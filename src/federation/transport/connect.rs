//! Connections to other servers: TCP, TLS, HTTP.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use futures_rustls::TlsConnector;
use http::{Request, Response, header, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use rustls::pki_types::ServerName as TlsName;
use smol::{
    Async, Timer, Unblock, channel, future,
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    lock::OnceCell,
};
use smol_hyper::rt::FuturesIo;

use super::{address::is_public, throttle::Throttle, tls::Authorities};
use crate::{
    body_budget::{BodyOwner, BufferedBody, PartialBody},
    executor::Executor,
    federation::Error,
    pool::{Kind, Pool},
};

/// For the TCP connection and for the TLS handshake each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ADDRESSES: usize = 6;
/// When the next address is tried although the one before has not failed yet.
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(500);
/// How many connections are opened at once, and the interval of further ones: home routers track few
/// connections, and a TLS handshake is work for a small board.
const BURST: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(50);
/// The timeouts of a streamed response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// The limit of an error response.
pub const MAX_ERROR_BYTES: usize = 64 * 1024;
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
    /// The `Host` header.
    pub authority: String,
    /// The name that its certificate must have: a host name or an address, without brackets. `None` for a
    /// connection without TLS.
    pub tls_name: Option<String>,
}

pub type Connection = SendRequest<Full<Bytes>>;

/// The limits of a response.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the request to the end of the response.
    pub timeout: Duration,
    /// Of its body.
    pub max_bytes: usize,
}

/// Opens connections. Clones are the same.
#[derive(Clone)]
pub struct Connector(Arc<ConnectorInner>);

struct ConnectorInner {
    authorities: Authorities,
    /// Made from the authorities for the first connection.
    tls: OnceCell<TlsConnector>,
    /// Whether addresses of private networks may be connected to.
    allow_private: bool,
    throttle: Throttle,
    pool: Pool,
    executor: Executor,
}

impl Connector {
    pub fn new(
        authorities: Authorities,
        allow_private: bool,
        pool: &Pool,
        executor: &Executor,
    ) -> Self {
        Self(Arc::new(ConnectorInner {
            authorities,
            tls: OnceCell::new(),
            allow_private,
            throttle: Throttle::new(BURST, INTERVAL),
            pool: pool.clone(),
            executor: executor.clone(),
        }))
    }

    /// Whether the settings allow connections to `address`.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.0.allow_private || is_public(address)
    }

    /// Opens a connection to the first address of `target` that answers, of those that the settings allow. The
    /// next one is tried when the one before fails or is slow.
    pub async fn connect(&self, target: &Target) -> Result<Connection, Error> {
        let mut allowed = target.clone();
        let is_allowed = |address: &SocketAddr| self.allows(address.ip());
        allowed.addresses.retain(is_allowed);
        self.connect_anywhere(&allowed).await
    }

    /// As [`connect`](Self::connect), to any address: the owner has chosen the host.
    pub async fn connect_anywhere(&self, target: &Target) -> Result<Connection, Error> {
        let mut failure = Error::Unresolvable;
        let mut trying = Vec::new();
        let (report, result) = channel::bounded(MAX_ADDRESSES);
        for address in target.addresses.iter().take(MAX_ADDRESSES).copied() {
            let (connector, name) = (self.clone(), target.tls_name.clone());
            let report = report.clone();
            trying.push(self.0.executor.spawn(async move {
                let _ = report
                    .send(connector.connect_to(address, name.as_deref()).await)
                    .await;
            }));
            match with_timeout(NEXT_ADDRESS_DELAY, result.recv()).await {
                Ok(Ok(Ok(connection))) => return Ok(connection),
                Ok(Ok(Err(error))) => failure = error,
                // It is slow, and is waited for below.
                _ => {}
            }
        }
        drop(report);
        while let Ok(tried) = result.recv().await {
            match tried {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn tls(&self) -> Result<&TlsConnector, Error> {
        let made = self.0.tls.get_or_try_init(async || {
            let authorities = self.0.authorities.clone();
            let made = self
                .0
                .pool
                .run(Kind::LookUp, move || authorities.connector());
            made.await.map_err(unreachable)?.map_err(unreachable)
        });
        made.await
    }

    async fn connect_to(
        &self,
        address: SocketAddr,
        tls_name: Option<&str>,
    ) -> Result<Connection, Error> {
        self.0.throttle.wait().await;
        let stream = with_timeout(CONNECT_TIMEOUT, Async::<TcpStream>::connect(address)).await?;
        let stream = stream.map_err(unreachable)?;
        // Requests are written at once.
        stream.get_ref().set_nodelay(true).map_err(unreachable)?;
        let Some(name) = tls_name else {
            return self.handshake(stream).await;
        };
        let name = TlsName::try_from(name.to_owned()).map_err(|_| Error::Unresolvable)?;
        let tls = self.tls().await?;
        let stream = with_timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await?;
        self.handshake(stream.map_err(unreachable)?).await
    }

    async fn handshake<S>(&self, stream: S) -> Result<Connection, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(FuturesIo::new(stream))
            .await;
        let (connection, driver) = handshake.map_err(unreachable)?;
        // It ends when the other side closes the connection, or `connection` is dropped.
        self.0
            .executor
            .spawn(async {
                let _ = driver.await;
            })
            .detach();
        Ok(connection)
    }
}

/// Sends `request` and waits for the whole response, whose body gets memory from a budget.
pub async fn exchange<O: BodyOwner>(
    connection: &mut Connection,
    target: &Target,
    request: Request<Full<Bytes>>,
    limits: Limits,
    mut received: PartialBody<O>,
) -> Result<Response<BufferedBody<O>>, Error> {
    let response = async {
        let (head, body) = send(connection, target, request).await?.into_parts();
        let mut body = Limited::new(body, limits.max_bytes);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::InvalidResponse(error.to_string().into()))?;
            if let Ok(data) = frame.into_data() {
                received.push(&data)?;
            }
        }
        Ok(Response::from_parts(head, received.finish()?))
    };
    with_timeout(limits.timeout, response).await?
}

/// Of a response that is written to a file.
const FILE_BUFFER_BYTES: usize = 256 * 1024;

/// Sends `request` and writes the body of a successful response to `file`. An error response is returned.
pub async fn download(
    connection: &mut Connection,
    target: &Target,
    request: Request<Full<Bytes>>,
    file: File,
    limits: Limits,
) -> Result<Result<File, Response<Bytes>>, Error> {
    let response = async {
        let (head, body) = send(connection, target, request).await?.into_parts();
        if !head.status.is_success() {
            let body = whole(body, MAX_ERROR_BYTES).await?;
            return Ok(Err(Response::from_parts(head, body)));
        }
        let mut body = Limited::new(body, limits.max_bytes);
        let mut out = Unblock::with_capacity(FILE_BUFFER_BYTES, file);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::InvalidResponse(error.to_string().into()))?;
            if let Ok(data) = frame.into_data() {
                out.write_all(&data).await.map_err(Error::disk)?;
            }
        }
        out.flush().await.map_err(Error::disk)?;
        Ok(Ok(out.into_inner().await))
    };
    with_timeout(limits.timeout, response).await?
}

/// A response whose body is received as it is read.
pub struct StreamedResponse {
    pub head: Parts,
    body: Incoming,
    /// The connection is closed when this is dropped.
    _connection: Connection,
}

/// Sends `request` and waits for the head of the response.
pub async fn open(
    mut connection: Connection,
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<StreamedResponse, Error> {
    let (head, body) = with_timeout(HEAD_TIMEOUT, send(&mut connection, target, request))
        .await??
        .into_parts();
    Ok(StreamedResponse {
        head,
        body,
        _connection: connection,
    })
}

impl StreamedResponse {
    /// The next chunk of the body; None at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match with_timeout(CHUNK_TIMEOUT, self.body.frame()).await? {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(unreachable(error)),
        }
    }

    /// The rest of the body, at most so many bytes: few, as they do not count in the budget for responses.
    pub async fn whole(self, max_bytes: usize) -> Result<Bytes, Error> {
        whole(self.body, max_bytes).await
    }
}

async fn send(
    connection: &mut Connection,
    target: &Target,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error> {
    let authority = target.authority.parse();
    let authority = authority.map_err(|_| Error::Unresolvable)?;
    request.headers_mut().insert(header::HOST, authority);
    connection.send_request(request).await.map_err(unreachable)
}

async fn whole(body: Incoming, max_bytes: usize) -> Result<Bytes, Error> {
    let body = Limited::new(body, max_bytes).collect().await;
    let body = body.map_err(|error| Error::InvalidResponse(error.to_string().into()))?;
    Ok(body.to_bytes())
}

fn unreachable(error: impl ToString) -> Error {
    Error::Unreachable(error.to_string().into())
}

/// The output of `work`, or [`Error::TimedOut`].
pub async fn with_timeout<T>(timeout: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    let late = async {
        Timer::after(timeout).await;
        Err(Error::TimedOut)
    };
    future::or(async { Ok(work.await) }, late).await
}
