//! Several servers that federate.

mod directory;
mod profiles;
mod spaces;
mod times;
