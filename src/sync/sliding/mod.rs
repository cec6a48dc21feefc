//! Simplified sliding sync ([MSC4186]): a client asks for windows of its list of rooms and for single rooms,
//! and gets what it has not received of them yet.
//!
//! - A [`SlidingSyncRequest`] is a request in either of its two dialects, as [`Dialect`] names them.
//! - [`RoomLists`] has the rooms of each user, the last active first, in memory. It can be lost.
//! - `connection` stores what a client has received on a connection; [`ReadStates`] has it in memory too. A
//!   room that has not changed since it was sent up to the position of the token needs no change there, so
//!   most responses write nothing. `next_state` is what a response changes.
//! - `plan` says what a response has: which rooms are in the windows, and which of them are sent since when.
//!   `room_update` builds one of them, `required_state` its state; `response` writes the JSON in pieces.
//! - A response covers the positions up to where the notifier was when the look began, as that of `/sync`
//!   does. Its token is the position and the number of the state that is stored for the connection. The
//!   state that the request was for stays until the client comes with the token of the response: a response
//!   that is lost can be asked for again.
//!
//! [MSC4186]: https://github.com/matrix-org/matrix-spec-proposals/pull/4186

mod connection;
mod entry;
mod filter;
mod handler;
mod next_state;
mod plan;
mod request;
mod required_state;
mod response;
mod room_list;
mod room_update;
mod token;
mod views;

pub use self::{
    connection::ReadStates,
    handler::{Outcome, SlidingSyncHandler},
    request::{
        Dialect, Extensions, Filters, List, RoomConfig, Scope, SlidingSyncRequest, ToDevice,
    },
    room_list::RoomLists,
    token::Pos,
};
