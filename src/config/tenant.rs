//! `[tenants.<id>]`: who may connect, with which tokens, and by which rules.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::domain::{EventFormat, EventRules, Limits, NamespaceRules, Retention, StreamRetention, TenantId};

use super::namespace::{YEAR_MS, namespaces};
use super::plugins::{TenantPlugins, tenant_plugins};
use super::reader::Section;
use super::sections::limits;
use super::values::{ApiKeyHash, Origin, Origins, Secret};

/// A tenant as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantConfig {
    /// Whether clients without a token are let in, as `anon-<random>`.
    pub anonymous: bool,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Whether a token may stand in the query of the URL, where logs of proxies see it.
    pub allow_query_token: bool,
    /// What backends publish with.
    pub api_keys: Vec<ApiKeyHash>,
    /// How tokens are verified; `None`: no token is accepted.
    pub jwt: Option<JwtConfig>,
    /// What its backends are told of its sessions.
    pub events: EventRules,
    /// Its limits.
    pub limits: Limits,
    /// How long and how much its streams beside the channels keep.
    pub streams: StreamRetention,
    /// What its plugins may take, and what happens when they fail.
    pub plugins: TenantPlugins,
    /// Its namespaces, `user` and `session` among them.
    pub namespaces: Vec<NamespaceRules>,
}

/// How a tenant's tokens are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// What `iss` must be, where it matters.
    pub issuer: Option<String>,
    /// What `aud` must be or contain. Without it, tokens that name an audience are refused.
    pub audience: Option<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Whether tokens without `exp` are refused.
    pub require_expiry: bool,
    /// The claim that names the user.
    pub user_claim: String,
    /// The keys, at least one, no two with the same `kid`.
    pub keys: Vec<JwtKey>,
}

/// A key that verifies tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    /// Its name in tokens; `None`: it verifies the tokens that name no key.
    pub kid: Option<String>,
    /// The algorithm, the only one that this key is used with, and the key.
    pub material: KeyMaterial,
}

/// An algorithm and a key for it (RFC 7518, RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// `HS256`: HMAC with SHA-256. Who can verify can also sign.
    Hs256(Secret),
    /// `EdDSA` with Ed25519: a public key.
    EdDsa([u8; 32]),
}

impl KeyMaterial {
    /// The algorithm as tokens name it.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::EdDsa(_) => "EdDSA",
        }
    }
}

/// The least bytes of an HS256 secret (RFC 7518 section 3.2): a shorter one can be guessed from a token.
const HS256_BYTES: usize = 32;

/// All of `[tenants]`; limits that a tenant does not set are as in `base`.
pub(super) fn tenants(root: &mut Section<'_>, base: &Limits) -> BTreeMap<TenantId, TenantConfig> {
    let mut tenants = BTreeMap::new();
    for (name, section) in root.named_sections("tenants") {
        match TenantId::parse(&name) {
            Ok(id) => {
                tenants.insert(id, tenant(section, base));
            }
            Err(error) => {
                section.wrong_here(error.to_string());
                // Its settings are looked at all the same, so that their errors come at once too.
                tenant(section, base);
            }
        }
    }
    tenants
}

fn tenant(mut section: Section<'_>, base: &Limits) -> TenantConfig {
    TenantConfig {
        anonymous: section.flag("anonymous", false),
        origins: origins(&mut section),
        allow_query_token: section.flag("allow_query_token", false),
        api_keys: section.list("api_key_hashes"),
        jwt: jwt(&mut section),
        events: events(section.section("events")),
        limits: limits(section.section("limits"), base),
        streams: streams(section.section("streams")),
        plugins: tenant_plugins(section.section("plugins")),
        namespaces: namespaces(&mut section),
    }
}

fn events(mut section: Section<'_>) -> EventRules {
    let formats = [("plain", EventFormat::Plain), ("cloudevents", EventFormat::CloudEvents)];
    EventRules {
        kinds: section.list("kinds"),
        format: section.choice("format", &formats).unwrap_or_default(),
        address: section.flag("address", false),
    }
}

/// `[tenants.<id>.streams]`.
fn streams(mut section: Section<'_>) -> StreamRetention {
    let mut retention = |name: &str, base: Retention| Retention {
        max_len: section.number(&format!("{name}_max_len"), base.max_len, 1..=100_000_000),
        max_age_ms: section.number(&format!("{name}_max_age_ms"), base.max_age_ms, 1_000..=YEAR_MS),
        max_bytes: section.optional_number(&format!("{name}_max_bytes"), 4_096..=1 << 40),
    };
    let base = StreamRetention::default();
    StreamRetention { up: retention("up", base.up), dead_letters: retention("dlq", base.dead_letters) }
}

/// An item of `origins`.
enum OriginRule {
    Any,
    Exactly(Origin),
}

impl std::str::FromStr for OriginRule {
    type Err = super::values::InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" { Ok(Self::Any) } else { text.parse().map(Self::Exactly) }
    }
}

fn origins(section: &mut Section<'_>) -> Origins {
    let rules: Vec<OriginRule> = section.list("origins");
    let mut listed = Vec::with_capacity(rules.len());
    for rule in rules {
        match rule {
            OriginRule::Any => return Origins::Any,
            OriginRule::Exactly(origin) => listed.push(origin),
        }
    }
    if listed.is_empty() { Origins::SameHost } else { Origins::Listed(listed) }
}

fn jwt(tenant: &mut Section<'_>) -> Option<JwtConfig> {
    let is_set = tenant.has("jwt");
    let mut section = tenant.section("jwt");
    if !is_set {
        return None;
    }
    let keys = keys(&mut section);
    Some(JwtConfig {
        issuer: section.name("issuer"),
        audience: section.name("audience"),
        leeway: Duration::from_secs(section.number("leeway_s", 30, 0..=600)),
        require_expiry: section.flag("require_expiry", true),
        user_claim: section.name("user_claim").unwrap_or_else(|| "sub".into()),
        keys,
    })
}

fn keys(jwt: &mut Section<'_>) -> Vec<JwtKey> {
    let sections = jwt.listed_sections("keys");
    if sections.is_empty() {
        jwt.wrong("keys", "must list at least one key: without it no token can be verified");
    }
    let mut keys: Vec<JwtKey> = Vec::with_capacity(sections.len());
    for mut section in sections {
        let kid = section.name("kid");
        if keys.iter().any(|key| key.kid == kid) {
            section.wrong("kid", "must differ from the other keys' (one key may have none)");
        }
        if let Some(material) = material(&mut section) {
            keys.push(JwtKey { kid, material });
        }
    }
    keys
}

#[derive(Clone, Copy)]
enum Algorithm {
    Hs256,
    EdDsa,
}

fn material(section: &mut Section<'_>) -> Option<KeyMaterial> {
    let has_algorithm = section.has("algorithm");
    let algorithm = section.choice("algorithm", &[("HS256", Algorithm::Hs256), ("EdDSA", Algorithm::EdDsa)]);
    if !has_algorithm {
        section.wrong("algorithm", "is missing: \"HS256\" or \"EdDSA\"");
    }
    let has_secret = section.has("secret") || section.has("secret_env");
    let has_public = section.has("public_key") || section.has("public_key_file");
    let secret = section.long_secret("secret", HS256_BYTES);
    let public = public_key(section);
    match algorithm? {
        Algorithm::Hs256 => {
            if has_public {
                section.wrong("public_key", "is for EdDSA; HS256 takes secret or secret_env");
            } else if !has_secret {
                section.wrong("secret", "is missing: HS256 takes secret or secret_env");
            }
            secret.map(KeyMaterial::Hs256)
        }
        Algorithm::EdDsa => {
            if has_secret {
                section.wrong("secret", "is for HS256; EdDSA takes public_key or public_key_file");
            } else if !has_public {
                section.wrong("public_key", "is missing: EdDSA takes public_key (PEM) or public_key_file");
            }
            public.map(KeyMaterial::EdDsa)
        }
    }
}

fn public_key(section: &mut Section<'_>) -> Option<[u8; 32]> {
    let (inline, file) = (section.name("public_key"), section.path("public_key_file"));
    let (key, pem) = match (inline, file) {
        (Some(_), Some(_)) => {
            section.wrong("public_key", "is set together with public_key_file; keep one of them");
            return None;
        }
        (Some(pem), None) => ("public_key", pem),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(&path);
            let unread = |error: &_| {
                section.wrong("public_key_file", format!("{} cannot be read: {error}", path.display()));
            };
            ("public_key_file", read.inspect_err(unread).ok()?)
        }
        (None, None) => return None,
    };
    ed25519_public_key(&pem).inspect_err(|what| section.wrong(key, *what)).ok()
}

/// The 32 bytes of an Ed25519 public key in PEM (RFC 8410: the key's DER is a fixed header before them).
fn ed25519_public_key(pem: &str) -> Result<[u8; 32], &'static str> {
    const HEADER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "holds no public key in PEM (-----BEGIN PUBLIC KEY-----)")?;
    der.strip_prefix(&HEADER)
        .and_then(|key| key.try_into().ok())
        .ok_or("is a public key, but not of Ed25519, which EdDSA needs here")
}
