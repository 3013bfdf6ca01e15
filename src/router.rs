//! Where a client belongs: who lives, which node is home, and the token that leads back.

pub mod membership;
pub mod rendezvous;
pub mod resume;
pub mod secret;

pub use membership::{Member, Members, NodeRecord};
pub use rendezvous::AffinityKey;
pub use resume::{IdentityHash, ResumeClaims, ResumeError, ResumeTokens};
pub use secret::ClusterSecret;
