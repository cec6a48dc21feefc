//! One connection, from the TLS handshake to the last response.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Version, header, uri::Authority};
use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use smol::{
    channel::{self, Receiver},
    future,
};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::{
    connection_slots::Slot,
    edge::{Outcome, Source},
    error::Rejection,
    gate::Gate,
    limits::{MAX_HEAD_BYTES, Timeouts},
    request_body::RequestBody,
    response_body::{ResponseAborted, ResponseBody},
    stream::{PhaseTracker, Stream, TimedStream},
    tls::{self, Certificate},
};
use crate::stop::Stopping;

pub(super) struct Connection {
    pub stream: Stream,
    pub address: IpAddr,
    /// With one, the stream is plain and TLS begins in it.
    pub certificate: Option<Certificate>,
    pub slot: Arc<Slot>,
    /// Ends when the slot is needed for another connection.
    pub closed: Receiver<()>,
    pub gate: Arc<Gate>,
    pub timeouts: Timeouts,
    pub stopping: Stopping,
}

impl Connection {
    /// Serves requests until the client closes the connection or exceeds a timeout, the slot is needed for
    /// another, or the server stops and the running request has been answered.
    pub(super) async fn serve(self) {
        let closed = self.closed.clone();
        let gave_way = async {
            // Nothing is ever sent.
            let _ = closed.recv().await;
        };
        future::or(self.serve_requests(), gave_way).await;
    }

    async fn serve_requests(self) {
        let Self {
            stream,
            address,
            certificate,
            slot,
            closed: _,
            gate,
            timeouts,
            stopping,
        } = self;
        let stream = match (certificate, stream) {
            (Some(certificate), Stream::Plain(stream)) => {
                let acceptor = certificate.acceptor(timeouts.certificate_check).await;
                match tls::accept(&acceptor, stream, timeouts.handshake).await {
                    Some(stream) => Stream::Tls(Box::new(stream)),
                    None => return,
                }
            }
            (_, stream) => stream,
        };
        let phase = PhaseTracker::default();
        let io = FuturesIo::new(TimedStream::new(stream, phase.clone(), timeouts));
        let of_service = phase.clone();
        // hyper may read the next request before the body of this one is drained.
        let (unread_bodies, to_drain) = channel::unbounded::<(RequestBody, Arc<RequestGuard>)>();
        let service = service_fn(move |request: Request<Incoming>| {
            let phase = of_service.clone();
            let busy = phase.busy();
            let client = slot.addresses().of(address, request.headers());
            let number = slot.begin_request(client);
            let guard = Arc::new(RequestGuard {
                phase,
                busy,
                slot: slot.clone(),
                number,
            });
            let (gate, unread_bodies) = (gate.clone(), unread_bodies.clone());
            let source = Source {
                address: client,
                slot: Some(slot.clone()),
            };
            async move {
                let rejection = match number {
                    None => Some(Rejection::TooManyConnections),
                    Some(_) => check_host(&request).err(),
                };
                let request = request.map(RequestBody::Incoming);
                let outcome = match rejection {
                    None => gate.answer(request, source).await,
                    Some(rejection) => Outcome::rejected(rejection, request),
                };
                let Outcome {
                    response,
                    unread_body,
                } = outcome;
                if let Some(unread) = unread_body {
                    guard.slot.begin_body();
                    let _ = unread_bodies.try_send((unread, guard.clone()));
                }
                Ok::<_, Infallible>(response.map(|body| GuardedBody {
                    body,
                    _guard: guard,
                }))
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .max_buf_size(MAX_HEAD_BYTES)
                .max_header_size(MAX_HEAD_BYTES)
                // It counts from the end of one request to the head of the next.
                .timer(SmolTimer::new())
                .header_read_timeout(timeouts.idle)
                .serve_connection(io, service)
        );
        let serving = async {
            // An error is of no use here: the client has closed the connection or exceeded a timeout.
            let ended = async {
                let _ = connection.as_mut().await;
                true
            };
            let stopped = async {
                stopping.wait().await;
                false
            };
            if future::or(ended, stopped).await || phase.is_idle() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        };
        // The response is sent meanwhile.
        let draining = async {
            while let Ok((unread, _guard)) = to_drain.recv().await {
                unread.drain(&timeouts).await;
            }
            future::pending().await
        };
        future::or(serving, draining).await;
    }
}

/// Ends the request when it is dropped: the response has been sent and the body read or drained.
struct RequestGuard {
    phase: PhaseTracker,
    busy: usize,
    slot: Arc<Slot>,
    /// None if the slot did not admit it.
    number: Option<u64>,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.phase.idle(self.busy);
        if let Some(number) = self.number {
            self.slot.end_request(number);
        }
    }
}

/// [RFC 9112, 3.2]: a request has one `Host`, which is a host with or without a port; before HTTP/1.1 it may
/// have none.
///
/// [RFC 9112, 3.2]: https://www.rfc-editor.org/rfc/rfc9112#section-3.2
fn check_host<B>(request: &Request<B>) -> Result<(), Rejection> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), request.version()) {
        (Some(host), None, _) if is_host(host) => Ok(()),
        (None, None, Version::HTTP_09 | Version::HTTP_10) => Ok(()),
        _ => Err(Rejection::InvalidHost),
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else {
        return false;
    };
    let host = authority.host();
    let rest = authority.as_str().strip_prefix(host);
    let port = rest.map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    !host.is_empty() && port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A response that is being sent. hyper drops it when all of it is written or buffered.
struct GuardedBody {
    body: ResponseBody,
    _guard: Arc<RequestGuard>,
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = ResponseAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseAborted>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
