//! Short numbers for what has long names, each its own type.
//!
//! A full identifier is stored once, beside its number; every other row refers to it by number. A
//! number is given when the thing is first stored, inside the transaction that stores it.

use serde::{Deserialize, Serialize};

use super::field::{Field, FixedWidth};

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($int:ty)) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $int);

        impl $name {
            /// The smallest number, for the start of a range.
            pub const MIN: Self = Self(<$int>::MIN);
            /// The largest number, for the end of a range.
            pub const MAX: Self = Self(<$int>::MAX);
        }

        impl Field for $name {
            type View<'a> = $name;

            fn write(view: &$name, last: bool, bytes: &mut Vec<u8>) {
                <$int>::write(&view.0, last, bytes);
            }

            fn read(bytes: &mut &[u8], last: bool) -> $name {
                $name(<$int>::read(bytes, last))
            }
        }

        impl FixedWidth for $name {}
    };
}

number! {
    /// A room.
    RoomNum(u32)
}
number! {
    /// An event. Larger than the numbers of its auth events, so the numbers are a topological
    /// order of the auth graph.
    EventNum(u64)
}
number! {
    /// A user, of this server or another.
    UserNum(u32)
}
number! {
    /// A device of a local user. Not used again after the device is deleted.
    DeviceNum(u32)
}
number! {
    /// Another server.
    ServerNum(u32)
}
number! {
    /// A (type, state key) pair within one room; dense from 0.
    StateKeyNum(u32)
}
number! {
    /// A node of a room's state tree; a state is the number of its root, 0 the empty state.
    NodeNum(u64)
}
number! {
    /// A place in the server's one stream of stored changes that a client can see. 0 is before
    /// everything.
    Position(u64)
}
number! {
    /// A place in a room's timeline. Not a [`Position`]: backfill counts down from the events
    /// that follow a gap.
    Place(u64)
}

impl Place {
    /// The place of a room's first event; later ones count up from here.
    pub const FIRST: Self = Self(1 << 63);

    /// The place after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl NodeNum {
    /// The state in which nothing is set.
    pub const EMPTY: Self = Self(0);
}
