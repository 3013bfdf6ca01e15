//! What Tidegate promises, a module a promise, against real programs.

mod resp;
//! The promises of DESIGN section 3, kept against real servers: one module a promise.

mod backbone;
