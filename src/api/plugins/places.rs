//! Places for what goes on for a while: so many on a node, and of these so many for one tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::Refused;
use crate::domain::TenantId;

/// The places of one node for one thing. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What goes on there, in words that follow a number.
    what: &'static str,
    node: usize,
    tenant: usize,
    /// How many each tenant has; none without one.
    taken: Mutex<HashMap<TenantId, usize>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    pub(super) tenant: TenantId,
}

impl Places {
    /// So many on the node, and so many of them for one tenant.
    pub(super) fn new(what: &'static str, node: usize, tenant: usize) -> Self {
        Self(Arc::new(Inner { what, node, tenant, taken: Mutex::default() }))
    }

    /// Takes a place, if the tenant and the node have one left.
    pub(super) fn take(&self, tenant: &TenantId) -> Result<Place, Refused> {
        let Inner { what, node, tenant: most, .. } = *self.0;
        let busy = |whose: &str, most: usize| {
            let why = format!("{whose} has {most} {what} under way, as many as it may: try again later");
            Refused::later(StatusCode::TOO_MANY_REQUESTS, why)
        };
        let mut taken = self.lock();
        if taken.get(tenant).is_some_and(|taken| *taken >= most) {
            return Err(busy("this tenant", most));
        }
        if taken.values().sum::<usize>() >= node {
            return Err(busy("this node", node));
        }
        *taken.entry(tenant.clone()).or_default() += 1;
        drop(taken);
        Ok(Place { places: self.clone(), tenant: tenant.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        // Holders only count.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(count) = taken.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_its_share_of_a_nodes_places() {
        let places = Places::new("uploads", 3, 2);
        let [one, two] = ["one", "two"].map(|tenant| TenantId::parse(tenant).unwrap());
        let refused = |tenant| {
            let refused = places.take(tenant).unwrap_err();
            assert_eq!(refused.0.status(), StatusCode::TOO_MANY_REQUESTS);
            String::from_utf8(refused.0.body().to_vec()).unwrap()
        };
        let first = places.take(&one).ok().unwrap();
        let second = places.take(&one).ok().unwrap();
        assert!(refused(&one).contains("this tenant has 2 uploads under way"));
        let others = places.take(&two).ok().unwrap();
        assert!(refused(&two).contains("this node has 3 uploads under way"));
        drop(first);
        let again = places.take(&two).ok().unwrap();
        drop((second, others, again));
        assert!(places.lock().is_empty(), "nothing is left of who is gone");
    }
}
