//! What a job wants done on the server's thread once it is committed.

use super::ids::{DeviceNum, Position, RoomNum, ServerNum, UserNum};

/// One consequence of a commit. Effects reach the thread in commit order, after the snapshot that
/// shows what they tell of, and whether or not the one who asked for the job still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something that those in the room can see changed.
    RoomChanged(RoomNum, Position),
    /// Something that only this user can see changed.
    UserChanged(UserNum, Position),
    /// The store was opened again after a disk error. A write that was answered with an error may
    /// be stored all the same, without any effect: whatever memory keeps of the store is to be
    /// derived from it anew, and whoever waits for a change is to be woken.
    Reopened,
    /// The device is gone, and so is its session.
    DeviceGone(UserNum, DeviceNum),
    /// The list of devices of this user, local or not, changed.
    DeviceListChanged(UserNum, Position),
    /// This other server is to get a message.
    ServerAddressed(ServerNum),
    /// A background job is pending.
    BackgroundJob,
    /// Files with media are to be removed from the disk.
    MediaGone,
    /// Other servers are to get something.
    Outgoing,
}
