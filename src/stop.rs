//! The signal that the server stops.

use std::convert::Infallible;

use smol::channel::{self, Receiver, Sender};

/// Signals that the server stops, also when it is dropped.
#[derive(Debug)]
pub struct Stop(Sender<Infallible>);

/// Receives the signal. Clones receive the same.
#[derive(Clone, Debug)]
pub struct Stopping(Receiver<Infallible>);

pub fn channel() -> (Stop, Stopping) {
    let (sender, receiver) = channel::bounded(1);
    (Stop(sender), Stopping(receiver))
}

impl Stop {
    pub fn now(&self) {
        self.0.close();
    }
}

impl Stopping {
    /// Completes when the server stops. Race long waits against it, such as a long poll.
    pub async fn wait(&self) {
        // Nothing is ever sent: this completes when the channel closes.
        let _ = self.0.recv().await;
    }
}
