//! The switch between the running server and 503.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::Request;

use super::{
    cors,
    edge::{Edge, Outcome},
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

    pub(super) async fn answer(&self, request: Request<RequestBody>, address: IpAddr) -> Outcome {
        let edge = self.edge().clone();
        if let Some(edge) = edge {
            return edge.answer(request, address).await;
        }
        let mut response = Rejection::ServiceUnavailable.response();
        cors::allow(response.headers_mut());
        Outcome {
            response,
            unread_body: Some(request.into_body()),
        }
    }
}
