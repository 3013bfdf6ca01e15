//! Configurations for nodes under test, as the TOML an operator would write.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::token::{claims, hs256};

/// The API key of every test tenant.
pub const API_KEY: &str = "demo-key";
/// The key id of a test tenant's HS256 key.
pub const KID: &str = "test";
/// A test tenant's HS256 secret.
pub const SECRET: &str = "a secret of test tenants, long enough for HS256";

/// The operators' token, where a node has one.
pub const ADMIN_TOKEN: &str = "the operators' token of nodes under test";

/// A token of a test tenant for `user`, good for an hour.
pub fn token(user: &str) -> String {
    token_with(&claims(user))
}

/// The same for a user of a class.
pub fn classy_token(user: &str, class: &str) -> String {
    let mut claims = claims(user);
    claims["class"] = class.into();
    token_with(&claims)
}

/// A token of a test tenant with these claims.
pub fn token_with(claims: &Value) -> String {
    hs256(KID, SECRET.as_bytes(), claims)
}

/// Builds a node's configuration file.
#[derive(Debug, Clone, Default)]
pub struct NodeConfig {
    limits: BTreeMap<String, u64>,
    node: BTreeMap<String, String>,
    redis: Option<(String, Vec<String>)>,
    memory: BTreeMap<String, u64>,
    has_admin: bool,
    tls: Option<String>,
    cluster: BTreeMap<String, u64>,
    retention: BTreeMap<String, u64>,
    plugins: BTreeMap<String, u64>,
    tenants: BTreeMap<String, TenantConfig>,
}

/// Builds a tenant.
#[derive(Debug, Clone)]
pub struct TenantConfig {
    settings: Vec<String>,
    limits: BTreeMap<String, u64>,
    streams: Vec<String>,
    plugins: Vec<String>,
    jwt: Vec<String>,
    extra_keys: Vec<String>,
    namespaces: BTreeMap<String, Vec<String>>,
}

impl NodeConfig {
    /// One tenant `demo` as [`TenantConfig::default`] makes it, embedded backbone.
    pub fn demo() -> Self {
        Self::default().tenant("demo", TenantConfig::default())
    }

    /// These lines stand in `[tls]`, in place of a certificate for development.
    pub fn tls(self, lines: &str) -> Self {
        Self { tls: Some(lines.into()), ..self }
    }

    /// Sets a limit for all tenants, as in `[limits]`.
    pub fn limit(mut self, name: &str, value: u64) -> Self {
        self.limits.insert(name.into(), value);
        self
    }

    /// Sets a value of `[node]`, as it stands in TOML.
    pub fn node(mut self, name: &str, toml: &str) -> Self {
        self.node.insert(name.into(), toml.into());
        self
    }

    /// Sets a budget of `[memory]`.
    pub fn memory(mut self, name: &str, bytes: u64) -> Self {
        self.memory.insert(name.into(), bytes);
        self
    }

    /// Gives operators the token [`ADMIN_TOKEN`].
    pub fn admin(self) -> Self {
        Self { has_admin: true, ..self }
    }

    /// Sets a number of `[cluster]`.
    pub fn cluster(mut self, name: &str, value: u64) -> Self {
        self.cluster.insert(name.into(), value);
        self
    }

    /// Sets a value of `[retention]`.
    pub fn retention(mut self, name: &str, value: u64) -> Self {
        self.retention.insert(name.into(), value);
        self
    }

    /// Sets a number of `[plugins]`.
    pub fn plugins(mut self, name: &str, value: u64) -> Self {
        self.plugins.insert(name.into(), value);
        self
    }

    /// Uses this Redis.
    pub fn redis(mut self, url: &str) -> Self {
        self.redis = Some((url.into(), Vec::new()));
        self
    }

    /// Learns of new entries by polling, without keyspace events.
    pub fn polling(mut self) -> Self {
        if let Some((_, settings)) = &mut self.redis {
            settings.push("wake = \"poll\"".into());
        }
        self
    }

    /// Adds or replaces a tenant.
    pub fn tenant(mut self, id: &str, tenant: TenantConfig) -> Self {
        self.tenants.insert(id.into(), tenant);
        self
    }

    /// Whether the backbone is embedded.
    pub fn is_embedded(&self) -> bool {
        self.redis.is_none()
    }

    /// The file.
    pub fn to_toml(&self) -> String {
        let mut toml = String::from("[node]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n");
        for (name, value) in &self.node {
            let _ = writeln!(toml, "{name} = {value}");
        }
        match &self.redis {
            Some((url, settings)) => {
                let _ = writeln!(toml, "[backbone.redis]\nurl = \"{url}\"\n{}", settings.join("\n"));
            }
            None => toml += "[backbone.embedded]\nresp_listen = \"127.0.0.1:0\"\n",
        }
        // WebTransport needs a certificate; tests that are about certificates say their own.
        let tls = self.tls.as_deref().unwrap_or("development = true");
        let _ = writeln!(toml, "[tls]\n{tls}");
        if self.has_admin {
            let _ = writeln!(toml, "[admin]\ntoken = \"{ADMIN_TOKEN}\"");
        }
        section(&mut toml, "limits", self.limits.iter().map(|(name, value)| format!("{name} = {value}")));
        section(&mut toml, "memory", self.memory.iter().map(|(name, value)| format!("{name} = {value}")));
        let numbers =
            [("cluster", &self.cluster), ("retention", &self.retention), ("plugins", &self.plugins)];
        for (name, values) in numbers {
            section(&mut toml, name, values.iter().map(|(name, value)| format!("{name} = {value}")));
        }
        for (id, tenant) in &self.tenants {
            tenant.write(&mut toml, id);
        }
        toml
    }
}

impl Default for TenantConfig {
    /// Anonymous clients, [`API_KEY`], tokens by [`token`], the namespaces of the demo tenant, and `work`:
    /// a log with dead letters.
    fn default() -> Self {
        let hash: String =
            digest(&SHA256, API_KEY.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let namespaces = [
            ("room", vec![]),
            ("live", vec!["kind = \"live\""]),
            ("work", vec!["dead_letters = true"]),
            ("queue", vec!["kind = \"queue\"", "publish = \"anyone\""]),
            ("state", vec!["on_slow = \"conflate\""]),
        ];
        let owned = |settings: Vec<&str>| settings.into_iter().map(str::to_owned).collect();
        Self {
            settings: vec!["anonymous = true".into(), format!("api_key_hashes = [\"{hash}\"]")],
            limits: BTreeMap::new(),
            streams: Vec::new(),
            plugins: Vec::new(),
            // No leeway: a test of expiry waits for it.
            jwt: vec!["leeway_s = 0".into()],
            extra_keys: Vec::new(),
            namespaces: namespaces.into_iter().map(|(name, rules)| (name.into(), owned(rules))).collect(),
        }
    }
}

impl TenantConfig {
    /// Lets nobody in without a token.
    pub fn closed(mut self) -> Self {
        self.settings.retain(|line| !line.starts_with("anonymous"));
        self
    }

    /// A line of `[tenants.<id>]`.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Has the API keys of this line of `[tenants.<id>]`, and not [`API_KEY`].
    pub fn replacing_keys(mut self, line: &str) -> Self {
        self.settings.retain(|line| !line.starts_with("api_key_hashes"));
        self.setting(line)
    }

    /// A limit of this tenant.
    pub fn limit(mut self, name: &str, value: u64) -> Self {
        self.limits.insert(name.into(), value);
        self
    }

    /// A line of `[tenants.<id>.streams]`.
    pub fn streams(mut self, line: &str) -> Self {
        self.streams.push(line.into());
        self
    }

    /// A line of `[tenants.<id>.plugins]`.
    pub fn plugins(mut self, line: &str) -> Self {
        self.plugins.push(line.into());
        self
    }

    /// A line of `[tenants.<id>.jwt]`.
    pub fn jwt(mut self, line: &str) -> Self {
        self.jwt.push(line.into());
        self
    }

    /// A further key: the lines of a `[[tenants.<id>.jwt.keys]]`.
    pub fn key(mut self, lines: &str) -> Self {
        self.extra_keys.push(lines.into());
        self
    }

    /// Adds or replaces a namespace; `rules` are lines of its section.
    pub fn namespace(mut self, name: &str, rules: &[&str]) -> Self {
        self.namespaces.insert(name.into(), rules.iter().map(|line| (*line).to_owned()).collect());
        self
    }

    fn write(&self, toml: &mut String, id: &str) {
        section(toml, &format!("tenants.{id}"), self.settings.iter().cloned());
        section(
            toml,
            &format!("tenants.{id}.limits"),
            self.limits.iter().map(|(name, value)| format!("{name} = {value}")),
        );
        section(toml, &format!("tenants.{id}.streams"), self.streams.iter().cloned());
        section(toml, &format!("tenants.{id}.plugins"), self.plugins.iter().cloned());
        section(toml, &format!("tenants.{id}.jwt"), self.jwt.iter().cloned());
        let own = format!("kid = \"{KID}\"\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"");
        for key in std::iter::once(&own).chain(&self.extra_keys) {
            let _ = writeln!(toml, "[[tenants.{id}.jwt.keys]]\n{key}");
        }
        for (name, rules) in &self.namespaces {
            section(toml, &format!("tenants.{id}.namespaces.{name}"), rules.iter().cloned());
        }
    }
}

fn section(toml: &mut String, name: &str, lines: impl Iterator<Item = String>) {
    let _ = writeln!(toml, "[{name}]");
    for line in lines {
        let _ = writeln!(toml, "{line}");
    }
}
