//! The bytes of a connection, and how long they may take.

use std::{
    future::Future,
    io,
    net::TcpStream,
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

use super::limits::Times;

/// A connection, encrypted or not.
pub(super) enum Stream {
    Plain(Async<TcpStream>),
    Tls(Box<TlsStream<Async<TcpStream>>>),
}

/// What a connection is doing: nothing, receiving the head of a request, or serving it.
///
/// A step is counted each time that this changes, so that a deadline of an earlier phase is told
/// from one of this.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Arc<AtomicUsize>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Busy,
}

impl Pace {
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
    fn enter(&self, phase: Phase, mut step: usize) -> usize {
        while Self::phase(step) != phase {
            step = step.wrapping_add(1);
        }
        self.0.store(step, Ordering::Relaxed);
        step
    }

    /// A request is being served: which.
    pub(super) fn busy(&self) -> usize {
        self.enter(Phase::Busy, self.step().wrapping_add(1))
    }

    /// The request that is `step` has ended. The next may have begun already.
    pub(super) fn idle(&self, step: usize) {
        if self.step() == step {
            self.enter(Phase::Idle, step);
        }
    }

    /// Whether nothing of a request has come.
    pub(super) fn is_idle(&self) -> bool {
        Self::phase(self.step()) == Phase::Idle
    }
}

/// A stream that fails when its client takes too long to send the head of a request or to take the
/// answer. (Between requests hyper keeps the time, for bodies [`body`](super::body) does.)
pub(super) struct Paced {
    stream: Stream,
    pace: Pace,
    times: Times,
    reading: Option<(usize, Timer)>,
    writing: Option<Timer>,
}

impl Paced {
    pub(super) fn new(stream: Stream, pace: Pace, times: Times) -> Self {
        Self {
            stream,
            pace,
            times,
            reading: None,
            writing: None,
        }
    }

    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let step = self.pace.step();
        if Pace::phase(step) != Phase::Head {
            self.reading = None;
            return Poll::Pending;
        }
        if self.reading.as_ref().is_none_or(|(of, _)| *of != step) {
            self.reading = Some((step, Timer::after(self.times.head)));
        }
        let (_, timer) = self.reading.as_mut().expect("it was just set");
        ready!(Pin::new(timer).poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Lets a write go on, unless it has waited too long for the client to take something.
    fn pace_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.writing = None;
            return poll;
        }
        let time = self.times.write;
        let timer = self.writing.get_or_insert_with(|| Timer::after(time));
        ready!(Pin::new(timer).poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match poll {
            Poll::Pending => self.poll_read_deadline(cx).map(Err),
            Poll::Ready(result) => {
                if self.pace.is_idle() && matches!(result, Ok(1..)) {
                    self.pace.enter(Phase::Head, self.pace.step());
                }
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.pace_write(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.pace_write(cx, poll)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_close(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_close(cx),
        };
        self.pace_write(cx, poll)
    }
}
