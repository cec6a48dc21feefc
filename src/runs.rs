//! Work that takes longer than a request: it runs in the background, one at a time, and whoever started it asks
//! how far it is.

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Receiver, Sender};

/// The last run of one kind of work.
pub struct Runs<R> {
    last: Mutex<(u64, Option<Arc<Progress<R>>>)>,
}

impl<R> Default for Runs<R> {
    fn default() -> Self {
        Self {
            last: Mutex::new((0, None)),
        }
    }
}

impl<R> Runs<R> {
    /// The run that is under way, or one that `begin` starts; and its number.
    pub fn join_or_start(&self, begin: impl FnOnce(Arc<Progress<R>>)) -> (u64, Arc<Progress<R>>) {
        let mut last = self.lock();
        if let (number, Some(progress)) = &*last
            && progress.result().is_none()
        {
            return (*number, progress.clone());
        }
        let progress = Arc::new(Progress::default());
        *last = (last.0 + 1, Some(progress.clone()));
        begin(progress.clone());
        (last.0, progress)
    }

    /// The run with this number, if it is the last one.
    pub fn get(&self, number: u64) -> Option<Arc<Progress<R>>> {
        let last = self.lock();
        last.1.clone().filter(|_| last.0 == number)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Option<Arc<Progress<R>>>)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run: what it waits for, and in the end its result.
pub struct Progress<R> {
    state: Mutex<State<R>>,
    finished: Receiver<Infallible>,
}

struct State<R> {
    steps: Vec<Cow<'static, str>>,
    result: Option<Arc<R>>,
    /// Closed when there is a result.
    running: Option<Sender<Infallible>>,
}

impl<R> Default for Progress<R> {
    fn default() -> Self {
        let (running, finished) = channel::bounded(1);
        Self {
            state: Mutex::new(State {
                steps: Vec::new(),
                result: None,
                running: Some(running),
            }),
            finished,
        }
    }
}

impl<R> Progress<R> {
    /// Does a step, which is under way until then.
    pub async fn step<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        self.state().steps.push(name.into());
        let done = work.await;
        self.state().steps.retain(|step| *step != name);
        done
    }

    /// The only step that is under way now.
    pub fn set_step(&self, name: impl Into<Cow<'static, str>>) {
        self.state().steps = vec![name.into()];
    }

    /// What ends the run with the result of `failed` if its task ends without one.
    pub fn guard(self: &Arc<Self>, failed: impl FnOnce() -> R + Send + 'static) -> Guard<R> {
        Guard {
            progress: self.clone(),
            failed: Some(Box::new(failed)),
        }
    }

    pub fn finish(&self, result: R) {
        let mut state = self.state();
        state.result = Some(Arc::new(result));
        state.running = None;
    }

    /// The steps that are under way.
    pub fn steps(&self) -> Vec<Cow<'static, str>> {
        self.state().steps.clone()
    }

    pub fn result(&self) -> Option<Arc<R>> {
        self.state().result.clone()
    }

    /// Waits for the result.
    pub async fn finished(&self) {
        // Nothing is ever sent: this completes when the channel closes.
        let _ = self.finished.recv().await;
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run always ends: whoever waits for it gets a result, also if its task has panicked.
pub struct Guard<R> {
    progress: Arc<Progress<R>>,
    failed: Option<Box<dyn FnOnce() -> R + Send>>,
}

impl<R> Drop for Guard<R> {
    fn drop(&mut self) {
        if self.progress.result().is_none()
            && let Some(failed) = self.failed.take()
        {
            self.progress.finish(failed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smol::{block_on, future::poll_once};

    use super::{Progress, Runs};

    #[test]
    fn a_run_whose_task_panics_has_an_end() {
        let progress = Arc::new(Progress::default());
        let guard = progress.guard(|| "failed");
        assert!(block_on(poll_once(progress.finished())).is_none());
        drop(guard);
        block_on(progress.finished());
        assert_eq!(progress.result().as_deref(), Some(&"failed"));
    }

    #[test]
    fn a_run_that_is_done_keeps_its_result() {
        let progress = Arc::new(Progress::default());
        let guard = progress.guard(|| "failed");
        progress.finish("done");
        drop(guard);
        assert_eq!(progress.result().as_deref(), Some(&"done"));
    }

    #[test]
    fn one_run_is_under_way_at_a_time_and_the_last_one_can_be_asked_for() {
        let runs = Runs::default();
        let (first, progress) = runs.join_or_start(drop);
        let (joined, _) = runs.join_or_start(|_| panic!("a second run"));
        assert_eq!(joined, first);
        progress.finish(());
        assert!(runs.get(first).unwrap().result().is_some());
        let (second, _) = runs.join_or_start(drop);
        assert_ne!(second, first);
        assert!(runs.get(first).is_none());
        assert!(runs.get(second).unwrap().result().is_none());
    }
}
