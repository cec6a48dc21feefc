//! How far a run is.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Receiver, Sender};

use super::finding::{Finding, Report};
use crate::clock::Clock;

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

    /// What ends the run if its task ends without a report.
    pub(super) fn guard(self: &Arc<Self>, clock: &Clock) -> Guard {
        Guard {
            progress: self.clone(),
            clock: clock.clone(),
        }
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

/// A run always ends: whoever waits for it gets a report, also if its task has panicked.
pub(super) struct Guard {
    progress: Arc<Progress>,
    clock: Clock,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.progress.report().is_some() {
            return;
        }
        let failed = Finding::error(
            "doctor",
            "The check itself has failed before it was done.",
            "This is a fault of hearth: please report it, with what the log says at this time.",
        );
        let now = self.clock.now_ms();
        self.progress.finish(Report::new(vec![failed], now));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smol::{block_on, future::poll_once};

    use super::{super::finding::Report, Progress};
    use crate::clock::Clock;

    #[test]
    fn a_run_whose_task_panics_has_an_end() {
        let progress = Arc::new(Progress::default());
        let guard = progress.guard(&Clock::manual(1000));
        assert!(block_on(poll_once(progress.finished())).is_none());
        drop(guard);
        block_on(progress.finished());
        assert!(!progress.report().unwrap().green);
    }

    #[test]
    fn a_run_that_is_done_keeps_its_report() {
        let progress = Arc::new(Progress::default());
        let guard = progress.guard(&Clock::manual(1000));
        progress.finish(Report::new(Vec::new(), 1000));
        drop(guard);
        assert!(progress.report().unwrap().green);
    }
}
