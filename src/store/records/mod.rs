//! What the packed rows hold. Changing a field here means raising the record's version and
//! migrating its table.

mod events;
mod media;
mod rooms;
mod servers;
mod users;

pub use self::{events::*, media::*, rooms::*, servers::*, users::*};
use super::packed::Record;

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)+
        }

        impl Record for $name {
            const NAME: &'static str = stringify!($name);
        }
    };
}

use record;
