//! What Tidegate promises: one module a promise, with real nodes, real sockets and a real `redis-server`.

mod acks;
mod auth;
mod backbone;
mod delivery;
mod events;
mod faults;
mod fences;
mod harness;
mod ingress;
mod limits;
mod protocol_doc;
mod publishing;
mod resp;
mod sessions;
