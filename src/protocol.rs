//! The wire protocol. No I/O.
