//! Finding rooms: aliases, the published directory, summaries and spaces.

pub mod aliases;
pub mod published;
pub mod spaces;
pub mod summary;
pub mod users;

pub use self::published::{
    Audience, DirectoryQuery, MAX_PAGE_SIZE, Page, Since, is_listed, page, set_listed,
};
pub(in crate::rooms) use self::published::{list, unlist};
