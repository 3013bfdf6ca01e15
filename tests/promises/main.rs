//! What Tidegate promises, a module a promise, against real programs.

mod resp;
