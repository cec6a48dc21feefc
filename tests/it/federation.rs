//! Several servers that federate.

mod devices;
mod directory;
mod profiles;
mod spaces;
mod times;
