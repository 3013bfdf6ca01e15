//! One module a promise: real nodes, real sockets, a real `redis-server`.

mod acks;
mod auth;
mod delivery;
mod faults;
mod harness;
mod limits;
mod protocol_doc;
mod publishing;
mod sessions;
