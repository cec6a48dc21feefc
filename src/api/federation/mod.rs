//! The server-server API. One file per family of endpoints, named as ruma names them.

pub mod device;
pub mod directory;
pub mod discovery;
pub mod event;
pub mod keys;
pub mod media;
pub mod membership;
pub mod openid;

pub mod query;
pub mod space;
pub mod thirdparty;
pub mod timestamp;
pub mod transaction;
pub mod version;
