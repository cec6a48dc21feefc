//! One connection, from the handshake to the last answer.

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
    body::{Answer, Broken, Unread},
    edge::Outcome,
    limits::{HEAD, Times},
    listen::Front,
    stream::{Pace, Paced, Stream},
    tls::{self, Certificate},
};
use crate::stop::Stopping;

/// Serves the connection until its client has had enough, takes too long, or the server stops and
/// the running request has been answered.
pub(super) async fn serve(
    stream: Async<TcpStream>,
    certificate: Option<Certificate>,
    address: IpAddr,
    front: Arc<Front>,
    times: Times,
    stopping: Stopping,
) {
    let stream = match certificate {
        None => Stream::Plain(stream),
        Some(certificate) => {
            let acceptor = certificate.acceptor(times.certificate).await;
            match tls::accept(&acceptor, stream, times.handshake).await {
                Some(stream) => Stream::Tls(Box::new(stream)),
                None => return,
            }
        }
    };
    let pace = Pace::default();
    let io = FuturesIo::new(Paced::new(stream, pace.clone(), times));
    let of_service = pace.clone();
    let (unwanted, left) = channel::bounded::<(Unread, Arc<Done>)>(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let done = Arc::new(Done(of_service.clone(), of_service.busy()));
        let (front, unwanted) = (front.clone(), unwanted.clone());
        async move {
            let outcome = front.answer(request.map(Unread::Incoming), address);
            let Outcome { answer, unread } = outcome.await;
            if let Some(unread) = unread {
                // There is room: the body before has been read, or the connection ends.
                let _ = unwanted.try_send((unread, done.clone()));
            }
            Ok::<_, Infallible>(answer.map(|body| Sent { body, _done: done }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(HEAD)
            .max_header_size(HEAD)
            // It counts from the end of one request to the head of the next.
            .timer(SmolTimer::new())
            .header_read_timeout(times.idle)
            .serve_connection(io, service)
    );
    let serving = async {
        // How a connection ends, its client knows best.
        let ended = async {
            let _ = connection.as_mut().await;
            true
        };
        let stopped = async {
            stopping.wait().await;
            false
        };
        if future::or(ended, stopped).await || pace.is_idle() {
            return;
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    };
    // While the answer is on its way already.
    let skipping = async {
        while let Ok((unread, _done)) = left.recv().await {
            unread.skip(&times).await;
        }
        future::pending().await
    };
    future::or(serving, skipping).await;
}

/// Says that a request has ended, when it is dropped: the answer is complete, and nothing is left of the
/// body.
struct Done(Pace, usize);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.idle(self.1);
    }
}

/// An answer on its way out. hyper drops it when all of it is written or buffered.
struct Sent {
    body: Answer,
    _done: Arc<Done>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
