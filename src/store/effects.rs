//! What a job wants done on the server's thread once it is committed.

use super::ids::{DeviceNum, Position, RoomNum, UserNum};

/// One consequence of a commit. Effects reach the thread in commit order, after the snapshot that
/// shows what they tell of, and whether or not the one who asked for the job still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something that those in the room can see changed.
    RoomChanged(RoomNum, Position),
    /// Something that only this user can see changed.
    UserChanged(UserNum, Position),
    /// The device is gone, and so is its session.
    DeviceGone(UserNum, DeviceNum),
}
