//! Short numbers for identifiers, each of its own type.
//!
//! A full identifier is stored once, beside its number; all other rows refer to the number. A number is
//! assigned in the transaction that first stores the thing.

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
            pub const MIN: Self = Self(<$int>::MIN);
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
    /// A position in the server's stream of changes. 0 is before all changes.
    Position(u64)
}
number! {
    /// A place in a room's timeline. Not a [`Position`]: backfilled events count down from the event
    /// behind the gap.
    Place(u64)
}

impl Place {
    /// The place of a room's first event. Later events count up.
    pub const FIRST: Self = Self(1 << 63);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl NodeNum {
    /// The state in which nothing is set.
    pub const EMPTY: Self = Self(0);
}
