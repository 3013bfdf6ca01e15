//! The tenants that this node serves, looked up once a connection or request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use subtle::{Choice, ConstantTimeEq};

use crate::config::{ApiKeyHash, Config, JwtConfig, Origin, Origins, TenantConfig};
use crate::domain::{EventRules, Limits, NamespaceRules, TenantId};

/// All tenants. A reader holds the lock for the copy of one pointer; a change replaces the whole map,
/// so connections keep the tenant they were accepted with.
#[derive(Debug, Default)]
pub struct Tenants {
    current: RwLock<Arc<Map>>,
}

type Map = HashMap<Box<str>, Arc<Tenant>>;

impl Tenants {
    /// The tenants of a configuration.
    pub fn from_config(config: &Config) -> Self {
        let tenants = Self::default();
        tenants.replace(config.tenants.iter().map(|(id, tenant)| Tenant::new(id.clone(), tenant)));
        tenants
    }

    /// The tenant of that name.
    pub fn get(&self, id: &str) -> Option<Arc<Tenant>> {
        self.snapshot().get(id).cloned()
    }

    /// All tenants there are now.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.snapshot().values().cloned().collect()
    }

    /// Puts these tenants in place of all there were. Connections accepted before keep theirs.
    pub fn replace(&self, tenants: impl IntoIterator<Item = Tenant>) {
        let map: Map =
            tenants.into_iter().map(|tenant| (tenant.id.as_str().into(), Arc::new(tenant))).collect();
        // Writers only store a pointer: one that panicked has left a whole map behind.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }

    fn snapshot(&self) -> Arc<Map> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A tenant, ready for use.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// What its backends are told of its sessions.
    pub events: EventRules,
    /// Its limits.
    pub limits: Limits,
    /// Whether clients without a token are let in.
    pub anonymous: bool,
    /// Whether a token may stand in the query of a URL.
    pub allow_query_token: bool,
    /// How its tokens are verified; `None`: it takes none.
    pub jwt: Option<JwtConfig>,
    origins: Origins,
    api_keys: Vec<ApiKeyHash>,
    namespaces: HashMap<Box<str>, Arc<NamespaceRules>>,
}

impl Tenant {
    /// A tenant as it is configured.
    pub fn new(id: TenantId, config: &TenantConfig) -> Self {
        let by_name = |rules: &NamespaceRules| (rules.name.as_str().into(), Arc::new(rules.clone()));
        Self {
            id,
            events: config.events.clone(),
            limits: config.limits.clone(),
            anonymous: config.anonymous,
            allow_query_token: config.allow_query_token,
            jwt: config.jwt.clone(),
            origins: config.origins.clone(),
            api_keys: config.api_keys.clone(),
            namespaces: config.namespaces.iter().map(by_name).collect(),
        }
    }

    /// The rules of a namespace; `None`: the tenant has no such namespace.
    pub fn rules(&self, namespace: &str) -> Option<Arc<NamespaceRules>> {
        self.namespaces.get(namespace).cloned()
    }

    /// Whether a page of this origin may connect. `origin` and `host` are the request's headers. A
    /// request without `Origin` does not come from a page of a browser, and nothing is to be protected.
    pub fn origin_allowed(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        if self.origins == Origins::Any {
            return true;
        }
        // `null`, the origin of sandboxed frames and files, does not parse: anybody can have it.
        let Ok(origin) = origin.parse::<Origin>() else { return false };
        match &self.origins {
            Origins::Any => true,
            Origins::Listed(listed) => listed.contains(&origin),
            Origins::SameHost => host.is_some_and(|host| origin.is_same_host(host)),
        }
    }

    /// Whether this is one of the tenant's API keys. Takes the same time for every key.
    pub fn verifies_api_key(&self, key: &str) -> bool {
        let given = ApiKeyHash::of(key);
        let found =
            self.api_keys.iter().fold(Choice::from(0), |found, known| found | known.0.ct_eq(&given.0));
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(toml: &str) -> Arc<Tenant> {
        let config = Config::from_toml(&format!("[tenants.acme]\n{toml}"), &|_| None).unwrap();
        Tenants::from_config(&config).get("acme").unwrap()
    }

    #[test]
    fn without_a_list_pages_of_the_same_host_connect() {
        let tenant = tenant("");
        let host = Some("push.example.com");
        assert!(tenant.origin_allowed(Some("https://push.example.com"), host));
        assert!(tenant.origin_allowed(Some("http://PUSH.example.com"), host));
        assert!(!tenant.origin_allowed(Some("https://app.example.com"), host));
        assert!(!tenant.origin_allowed(Some("https://push.example.com:8443"), host));
        assert!(!tenant.origin_allowed(Some("https://push.example.com"), None));
        assert!(!tenant.origin_allowed(Some("null"), host));
    }

    #[test]
    fn a_list_takes_the_place_of_the_host() {
        let tenant = tenant(r#"origins = ["https://app.example.com"]"#);
        let host = Some("push.example.com");
        assert!(tenant.origin_allowed(Some("https://app.example.com"), host));
        assert!(!tenant.origin_allowed(Some("http://app.example.com"), host));
        assert!(!tenant.origin_allowed(Some("https://push.example.com"), host));
        assert!(!tenant.origin_allowed(Some(""), host));
    }

    #[test]
    fn what_is_no_browser_has_no_origin() {
        assert!(tenant(r#"origins = ["https://app.example.com"]"#).origin_allowed(None, None));
        assert!(tenant(r#"origins = ["*"]"#).origin_allowed(Some("null"), None));
    }

    #[test]
    fn api_keys_are_known_by_their_hash() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let other = "0".repeat(64);
        let tenant = tenant(&format!(r#"api_key_hashes = ["{hash}", "{other}"]"#));
        assert!(tenant.verifies_api_key("abc"));
        assert!(!tenant.verifies_api_key("abd"));
        assert!(!tenant.verifies_api_key(""));
        assert!(!tenant.verifies_api_key(hash));
    }

    #[test]
    fn every_tenant_has_personal_channels_and_no_others_unasked() {
        let tenant = tenant("[tenants.acme.namespaces.room]");
        assert_eq!(tenant.rules("user").as_deref(), Some(&NamespaceRules::personal()));
        assert_eq!(tenant.rules("room").as_deref(), Some(&NamespaceRules::log("room")));
        assert_eq!(tenant.rules("live"), None);
    }

    #[test]
    fn a_replaced_tenant_stays_with_whom_it_has() {
        let config = Config::from_toml("[tenants.acme]", &|_| None).unwrap();
        let tenants = Tenants::from_config(&config);
        let held = tenants.get("acme").unwrap();
        tenants.replace([]);
        assert!(tenants.get("acme").is_none());
        assert_eq!(held.id.as_str(), "acme");
    }
}
