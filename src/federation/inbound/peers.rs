//! What receiving asks of other servers.

use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use serde_json::value::RawValue;

use crate::protocol::receive::{Incoming, ReceiveError, Received};

/// A server did not give what it was asked for: it is not there, does not have it, or answers
/// nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other server does not give it")]
pub struct Unavailable;

/// The state before an event, as another server has it.
#[derive(Clone, Debug)]
pub struct Told<T> {
    /// The state.
    pub state: Vec<T>,
    /// Everything that authorizes it.
    pub auth_chain: Vec<T>,
}

/// An event as another server hands it over.
pub type RawPdu = Box<RawValue>;

/// Other servers, as receiving needs them. Every answer is bounded in size and time by who gives
/// it; nothing in it is checked.
pub trait EventSource: Send + Sync + 'static {
    /// Events that lead from `earliest` to `latest`.
    fn missing_events(
        &self,
        server: &ServerName,
        room: &RoomId,
        span: (Vec<OwnedEventId>, Vec<OwnedEventId>),
    ) -> impl Future<Output = Result<Vec<RawPdu>, Unavailable>> + Send;

    /// The ids of the state before `event`.
    fn state_ids(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> impl Future<Output = Result<Told<OwnedEventId>, Unavailable>> + Send;

    /// The state before `event`.
    fn state(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> impl Future<Output = Result<Told<RawPdu>, Unavailable>> + Send;

    /// One event.
    fn event(
        &self,
        server: &ServerName,
        event: &EventId,
    ) -> impl Future<Output = Result<RawPdu, Unavailable>> + Send;

    /// Events up to `upto`, going back.
    fn backfill(
        &self,
        server: &ServerName,
        room: &RoomId,
        upto: Vec<OwnedEventId>,
    ) -> impl Future<Output = Result<Vec<RawPdu>, Unavailable>> + Send;

    /// Checks signatures and hashes, fetching the keys for it.
    fn verify(
        &self,
        events: Vec<Incoming>,
    ) -> impl Future<Output = Vec<Result<Received, ReceiveError>>> + Send;
}
