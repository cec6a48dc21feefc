//! One connection, from the TLS handshake to the last response.

use std::{
    convert::Infallible,
    net::{IpAddr, TcpStream},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use smol::{Async, channel, future};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::{
    edge::Outcome,
    gate::Gate,
    limits::{MAX_HEAD_BYTES, Timeouts},
    request_body::RequestBody,
    response_body::{ResponseAborted, ResponseBody},
    stream::{PhaseTracker, Stream, TimedStream},
    tls::{self, Certificate},
};
use crate::stop::Stopping;

pub(super) struct Connection {
    pub stream: Async<TcpStream>,
    pub address: IpAddr,
    pub certificate: Option<Certificate>,
    pub gate: Arc<Gate>,
    pub timeouts: Timeouts,
    pub stopping: Stopping,
}

impl Connection {
    /// Serves requests until the client closes the connection or exceeds a timeout, or the server
    /// stops and the running request has been answered.
    pub(super) async fn serve(self) {
        let Self {
            stream,
            address,
            certificate,
            gate,
            timeouts,
            stopping,
        } = self;
        let stream = match certificate {
            None => Stream::Plain(stream),
            Some(certificate) => {
                let acceptor = certificate.acceptor(timeouts.certificate_check).await;
                match tls::accept(&acceptor, stream, timeouts.handshake).await {
                    Some(stream) => Stream::Tls(Box::new(stream)),
                    None => return,
                }
            }
        };
        let phase = PhaseTracker::default();
        let io = FuturesIo::new(TimedStream::new(stream, phase.clone(), timeouts));
        let of_service = phase.clone();
        // hyper may read the next request before the body of this one is drained.
        let (unread_bodies, to_drain) = channel::unbounded::<(RequestBody, Arc<RequestGuard>)>();
        let service = service_fn(move |request: Request<Incoming>| {
            let guard = Arc::new(RequestGuard(of_service.clone(), of_service.busy()));
            let (gate, unread_bodies) = (gate.clone(), unread_bodies.clone());
            async move {
                let outcome = gate.answer(request.map(RequestBody::Incoming), address);
                let Outcome {
                    response,
                    unread_body,
                } = outcome.await;
                if let Some(unread) = unread_body {
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
struct RequestGuard(PhaseTracker, usize);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.idle(self.1);
    }
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
