//! What Tidegate promises: one module a promise, with real nodes, real sockets and a real `redis-server`.

mod acks;
mod auth;
mod backbone;
mod corpora;
mod delivery;
mod drain;
mod events;
mod faults;
mod fences;
mod harness;
mod hooks;
mod ingress;
mod limits;
mod outages;
mod plugins_examples;
mod plugins_lifecycle;
mod protocol_doc;
mod publishing;
mod queues;
mod resp;
mod retention;
mod sessions;
mod slow;
mod storms;
