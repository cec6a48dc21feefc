//! How far a run is.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Receiver, Sender};

use super::finding::Report;

/// A run: what it waits for, and in the end its report.
pub struct Progress {
    state: Mutex<State>,
    finished: Receiver<Infallible>,
}

struct State {
    steps: Vec<&'static str>,
    report: Option<Arc<Report>>,
    /// Closed when there is a report.
    running: Option<Sender<Infallible>>,
}

impl Default for Progress {
    fn default() -> Self {
        let (running, finished) = channel::bounded(1);
        Self {
            state: Mutex::new(State {
                steps: Vec::new(),
                report: None,
                running: Some(running),
            }),
            finished,
        }
    }
}

impl Progress {
    /// Does a step, which is under way until then.
    pub(super) async fn step<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        self.state().steps.push(name);
        let done = work.await;
        self.state().steps.retain(|step| *step != name);
        done
    }

    pub(super) fn finish(&self, report: Report) {
        let mut state = self.state();
        state.report = Some(Arc::new(report));
        state.running = None;
    }

    /// The steps that are under way.
    pub fn steps(&self) -> Vec<&'static str> {
        self.state().steps.clone()
    }

    pub fn report(&self) -> Option<Arc<Report>> {
        self.state().report.clone()
    }

    /// Waits for the report.
    pub async fn finished(&self) {
        // Nothing is ever sent: this completes when the channel closes.
        let _ = self.finished.recv().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
