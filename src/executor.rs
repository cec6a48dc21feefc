//! What runs the tasks of the one thread.

use std::{future::Future, pin::Pin, sync::Arc};

use smol::Task;

/// Starts tasks, and runs them while `run` is polled. A clone is the same executor.
#[derive(Clone, Debug, Default)]
pub struct Executor(Arc<smol::Executor<'static>>);

impl Executor {
    /// Starts a task, which ends early if what is given back is dropped.
    ///
    /// The future is boxed, so that smol's code for tasks is in the program once for each type of
    /// result and not once for each future.
    pub fn spawn<T>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T>
    where
        T: Send + 'static,
    {
        let future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
        self.0.spawn(future)
    }

    /// Runs the tasks until `future` is ready.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.run(future).await
    }
}
