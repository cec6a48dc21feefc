//! The end of the server, as a part that waits hears of it.

use std::convert::Infallible;

use smol::channel::{self, Receiver, Sender};

/// Says that the server stops. Dropping it says so too.
#[derive(Debug)]
pub struct Stop(Sender<Infallible>);

/// Hears that the server stops. Clones hear the same.
#[derive(Clone, Debug)]
pub struct Stopping(Receiver<Infallible>);

/// A pair of which one end tells the other.
pub fn channel() -> (Stop, Stopping) {
    let (sender, receiver) = channel::bounded(1);
    (Stop(sender), Stopping(receiver))
}

impl Stop {
    /// Tells everybody who waits, and everybody who will.
    pub fn now(&self) {
        self.0.close();
    }
}

impl Stopping {
    /// Returns when the server stops: race what may take long, such as a long poll, against it.
    pub async fn wait(&self) {
        // Nothing is ever sent, so this returns when the channel closes.
        let _ = self.0.recv().await;
    }
}
