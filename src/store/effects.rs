//! What has to happen on the server's thread after a commit.

use super::ids::{DeviceNum, Position, RoomNum, ServerNum, UserNum};

/// One consequence of a commit. Effects are applied in commit order, after the snapshot of their
/// commit is published, even if the caller of the job does not wait any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something that those in the room can see changed.
    RoomChanged(RoomNum, Position),
    /// Something that only this user can see changed.
    UserChanged(UserNum, Position),
    /// The store was opened again after a disk error. A write that was answered with an error may
    /// be stored all the same, without its effects: derive all cached data again, and wake all that wait
    /// for a change.
    Reopened,
    /// The device is gone, and so is its session.
    DeviceGone(UserNum, DeviceNum),
    /// The account was locked: none of the user's sessions may go on.
    AccountLocked(UserNum),
    /// A pusher of the user was set or removed.
    PushersChanged(UserNum),
    /// The list of devices of this user, local or not, changed.
    DeviceListChanged(UserNum, Position),
    /// This other server is to get a message.
    ServerAddressed(ServerNum),
    /// A background job is pending.
    BackgroundJob,
    /// Files with media are to be removed from the disk.
    MediaGone,
    /// The membership of this local user in this room.
    MembershipChanged(UserNum, RoomNum),
    /// Other servers are to get something.
    Outgoing,
}
