//! The switch between the running server and 503.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Request;

use super::{
    edge::{Edge, Outcome, Source},
    error::Rejection,
    request_body::RequestBody,
};

/// What the connections talk to: the edge while the server is open, 503 before and after.
#[derive(Debug, Default)]
pub struct Gate(Mutex<Option<Edge>>);

impl Gate {
    pub fn open(&self, edge: Edge) {
        *self.edge() = Some(edge);
    }

    pub fn shut(&self) {
        *self.edge() = None;
    }

    fn edge(&self) -> MutexGuard<'_, Option<Edge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn answer(&self, request: Request<RequestBody>, source: Source) -> Outcome {
        let edge = self.edge().clone();
        match edge {
            Some(edge) => edge.answer(request, source).await,
            None => Outcome::rejected(Rejection::ServiceUnavailable, request),
        }
    }
}
