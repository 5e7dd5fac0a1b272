//! A server of many streams. [`model`] is how the library is used, [`batcher`] what makes it a server, [`state`] what
//! outlives it; [`protocol`] is what goes over the wire. The sockets and threads are in `main.rs`.

pub mod batcher;
pub mod model;
pub mod protocol;
pub mod state;
