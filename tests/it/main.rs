//! The whole server in this process, asked without a socket.

mod accounts;
mod home;
mod own_data;
