//! The built-in demo tenant, for a first look and for development.

use std::time::Duration;

use crate::domain::{EventKind, EventRules, NamespaceRules, OnSlow, PublishRight, StreamRetention, TenantId};

use super::plugins::TenantPlugins;
use super::tenant::{JwtConfig, JwtKey, KeyMaterial, TenantConfig};
use super::values::{ApiKeyHash, Origins, Secret};
use super::{Config, TlsConfig};

/// The demo tenant's name.
pub const DEMO_TENANT: &str = "demo";

/// The demo tenant's API key. Public: whoever reaches the node can publish.
pub const DEMO_API_KEY: &str = "demo-key";

/// The HS256 secret of the demo tenant's tokens. Public: anybody can sign as any user.
pub const DEMO_JWT_SECRET: &str = "tidegate-demo-development-key-not-a-secret";

impl Config {
    /// Adds the tenant `demo` in place of one of that name: anonymous clients, a well-known API key and
    /// a well-known signing key; and, where there is none, a certificate for development. Not for production,
    /// which is why whoever calls this warns.
    pub fn add_demo(&mut self) {
        let id = TenantId::parse(DEMO_TENANT).expect("the demo tenant's name is valid");
        let backend_only = |rules| NamespaceRules { publish: PublishRight::Nobody, ..rules };
        let tenant = TenantConfig {
            anonymous: true,
            origins: Origins::SameHost,
            allow_query_token: false,
            api_keys: vec![ApiKeyHash::of(DEMO_API_KEY)],
            jwt: Some(JwtConfig {
                issuer: None,
                audience: None,
                leeway: Duration::from_secs(30),
                require_expiry: true,
                user_claim: "sub".into(),
                keys: vec![JwtKey { kid: None, material: KeyMaterial::Hs256(Secret::new(DEMO_JWT_SECRET)) }],
            }),
            events: EventRules {
                kinds: vec![EventKind::Connected, EventKind::Disconnected, EventKind::Undelivered],
                ..EventRules::default()
            },
            limits: self.limits.clone(),
            streams: StreamRetention::default(),
            plugins: TenantPlugins::default(),
            namespaces: vec![
                NamespaceRules::log("room"),
                NamespaceRules::personal(),
                backend_only(NamespaceRules::live("live")),
                NamespaceRules::queue("queue"),
                NamespaceRules { on_slow: OnSlow::Conflate, ..NamespaceRules::log("state") },
                NamespaceRules::of_sessions(),
            ],
        };
        self.tenants.insert(id, tenant);
        // Browsers speak WebTransport with nobody who has no certificate.
        if self.tls == TlsConfig::Off {
            self.tls = TlsConfig::Development;
        }
    }
}
