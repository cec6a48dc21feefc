//! The byte stream of a connection, with timeouts for reading and writing.

use std::{
    future::Future,
    io,
    net::TcpStream,
    os::unix::net::UnixStream,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_rustls::server::TlsStream;
use smol::{
    Async, Timer,
    io::{AsyncRead, AsyncWrite},
};

use super::limits::Timeouts;

/// A connection, encrypted or not.
pub(super) enum Stream {
    Plain(Async<TcpStream>),
    Unix(Async<UnixStream>),
    Tls(Box<TlsStream<Async<TcpStream>>>),
}

/// The phase of a connection: idle, receiving the head of a request, or serving the request.
///
/// The number grows with every change of phase, so that a deadline of an earlier request is
/// distinguished from one of the current request. Modulo 3 it is the [`Phase`].
#[derive(Clone, Debug, Default)]
pub(super) struct PhaseTracker(Arc<AtomicUsize>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Busy,
}

impl PhaseTracker {
    fn step(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn phase(step: usize) -> Phase {
        match step % 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    /// Moves forward from `step` to the next one with this phase.
    fn advance_to(&self, phase: Phase, mut step: usize) -> usize {
        while Self::phase(step) != phase {
            step = step.wrapping_add(1);
        }
        self.0.store(step, Ordering::Relaxed);
        step
    }

    /// A request is being served. Returns its number.
    pub(super) fn busy(&self) -> usize {
        self.advance_to(Phase::Busy, self.step().wrapping_add(1))
    }

    /// The request with the number `step` has ended. The next may have begun already.
    pub(super) fn idle(&self, step: usize) {
        if self.step() == step {
            self.advance_to(Phase::Idle, step);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        Self::phase(self.step()) == Phase::Idle
    }
}

/// A stream that fails when the client takes too long to send the head of a request or to read the
/// response. (hyper has the timeout between requests, [`request_body`](super::request_body) those of
/// bodies.)
pub(super) struct TimedStream {
    stream: Stream,
    phase: PhaseTracker,
    timeouts: Timeouts,
    reading: Option<(usize, Timer)>,
    writing: Option<Timer>,
}

impl TimedStream {
    pub(super) fn new(stream: Stream, phase: PhaseTracker, timeouts: Timeouts) -> Self {
        Self {
            stream,
            phase,
            timeouts,
            reading: None,
            writing: None,
        }
    }

    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let step = self.phase.step();
        if PhaseTracker::phase(step) != Phase::Head {
            self.reading = None;
            return Poll::Pending;
        }
        if self.reading.as_ref().is_none_or(|(of, _)| *of != step) {
            self.reading = Some((step, Timer::after(self.timeouts.head)));
        }
        let (_, timer) = self.reading.as_mut().expect("it was just set");
        ready!(Pin::new(timer).poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Fails a write that has waited too long for the client to read.
    fn poll_write_deadline<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.writing = None;
            return poll;
        }
        let timeout = self.timeouts.write;
        let timer = self.writing.get_or_insert_with(|| Timer::after(timeout));
        ready!(Pin::new(timer).poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match poll {
            Poll::Pending => self.poll_read_deadline(cx).map(Err),
            Poll::Ready(result) => {
                if self.phase.is_idle() && matches!(result, Ok(1..)) {
                    self.phase.advance_to(Phase::Head, self.phase.step());
                }
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.poll_write_deadline(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.poll_write_deadline(cx, poll)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_close(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_close(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_close(cx),
        };
        self.poll_write_deadline(cx, poll)
    }
}
