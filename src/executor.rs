//! The executor of the server's thread.

use std::{future::Future, pin::Pin, sync::Arc};

use smol::{Task, channel};

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

#[cfg(test)]
mod tests {
    use smol::{block_on, channel, future};

    use super::Executor;

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
