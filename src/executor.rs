//! The executor of the server's thread.

use std::{future::Future, pin::Pin, sync::Arc};

use smol::{Task, channel, future::yield_now};

/// Runs its tasks while `run` is polled. Clones are the same executor.
#[derive(Clone, Debug, Default)]
pub struct Executor(Arc<smol::Executor<'static>>);

impl Executor {
    /// Starts a task. Dropping the returned `Task` cancels it.
    ///
    /// The future is boxed, so that smol's code for tasks is compiled once for each type of result, not
    /// for each future.
    pub fn spawn<T>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T>
    where
        T: Send + 'static,
    {
        let future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
        self.0.spawn(future)
    }

    /// Runs `future` as a task and waits for its result. The task goes on to its end if the caller
    /// stops waiting. None if it panicked.
    pub async fn spawn_and_wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, result) = channel::bounded(1);
        let task = self.spawn(async move {
            // Nobody may be waiting any more.
            let _ = sender.try_send(future.await);
        });
        task.detach();
        result.recv().await.ok()
    }

    /// Runs the tasks until `future` is ready.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.run(future).await
    }
}

/// Cuts a long piece of work on the executor's thread into slices: between two of them the other tasks
/// get their turn.
#[derive(Debug)]
pub struct Slices {
    steps_per_slice: usize,
    steps: usize,
}

impl Slices {
    /// So many steps should take no longer than a few milliseconds on a slow board.
    pub fn of(steps_per_slice: usize) -> Self {
        Self {
            steps_per_slice,
            steps: 0,
        }
    }

    /// Called after each step.
    pub async fn step(&mut self) {
        self.steps += 1;
        if self.steps >= self.steps_per_slice {
            self.steps = 0;
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use smol::{block_on, channel, future};

    use super::{Executor, Slices};

    #[test]
    fn other_tasks_run_between_two_slices() {
        let executor = Executor::default();
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        let other = executor.spawn(async move {
            loop {
                counter.fetch_add(1, Ordering::Relaxed);
                future::yield_now().await;
            }
        });
        let work = executor.spawn(async {
            let mut slices = Slices::of(5);
            for _ in 0..100 {
                slices.step().await;
            }
        });
        block_on(executor.run(work));
        drop(other);
        assert!(turns.load(Ordering::Relaxed) >= 19);
    }

    #[test]
    fn a_spawned_task_goes_on_when_its_caller_stops_waiting() {
        let executor = Executor::default();
        let waited = executor.spawn_and_wait(async { 1 });
        assert_eq!(block_on(executor.run(waited)), Some(1));
        let (report, reported) = channel::bounded(1);
        let waiting = executor.spawn_and_wait(async move {
            future::yield_now().await;
            report.send(2).await
        });
        block_on(future::poll_once(Box::pin(waiting)));
        assert_eq!(block_on(executor.run(reported.recv())), Ok(2));
    }
}
