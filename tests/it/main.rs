//! The whole server in this process, asked without a socket.

mod accounts;
mod census;
mod edge;
mod home;
mod own_data;
mod program;
mod rooms_create;
mod rooms_directory;
mod rooms_members;
mod sync;
