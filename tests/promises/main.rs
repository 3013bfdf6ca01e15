//! What Tidegate promises, kept against real servers: one module a promise.

mod backbone;
mod fences;
mod resp;
