//! From arguments, environment and file to a configuration: flags before variables before the file.

use std::path::Path;

use crate::config::{Config, ConfigErrors, DEMO_TENANT, Env, RawConfig};

use super::args::NodeArgs;

/// The configuration that `dev` or `serve` runs with.
pub fn load(args: &NodeArgs) -> Result<Config, ConfigErrors> {
    load_with(args, &super::environment)
}

pub(super) fn load_with(args: &NodeArgs, env: Env<'_>) -> Result<Config, ConfigErrors> {
    let file = args.config.as_deref();
    let mut raw = read(file)?;
    raw.set_from_env(env);
    apply(args, &mut raw);
    let mut config = raw.parse(file, env)?;
    if args.demo {
        if config.tenants.keys().any(|id| id.as_str() == DEMO_TENANT) {
            let what =
                "--demo (which dev implies) adds this tenant: name yours otherwise, or use serve without it";
            return Err(ConfigErrors::one(file, &format!("tenants.{DEMO_TENANT}"), what));
        }
        config.add_demo();
    }
    Ok(config)
}

/// Reads a file into an unparsed configuration; without one it is empty.
pub(super) fn read(file: Option<&Path>) -> Result<RawConfig, ConfigErrors> {
    let Some(path) = file else { return Ok(RawConfig::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigErrors::one(file, "the file", format!("cannot be read: {error}")))?;
    RawConfig::from_toml(&text, file)
}

/// A file that a flag names, wherever the configuration file lies.
fn absolute(file: &Path) -> String {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).to_string_lossy().into_owned()
}

/// Lays the flags over the document.
fn apply(args: &NodeArgs, raw: &mut RawConfig) {
    if let Some(url) = &args.redis {
        raw.remove("backbone", "embedded");
        raw.set("backbone.redis.url", url.expose(), "--redis");
    }
    if let Some(address) = args.resp_listen {
        raw.remove("backbone", "redis");
        raw.set("backbone.embedded.resp_listen", address.to_string(), "--resp-listen");
    }
    for (path, value, flag) in [
        ("node.listen", args.listen.map(|address| address.to_string()), "--listen"),
        ("node.admin_listen", args.admin_listen.map(|address| address.to_string()), "--admin-listen"),
        ("tls.certificate", args.tls_certificate.as_deref().map(absolute), "--tls-certificate"),
        ("tls.key", args.tls_key.as_deref().map(absolute), "--tls-key"),
        ("node.quic_listen", args.quic_listen.map(|address| address.to_string()), "--quic-listen"),
        ("node.public_url", args.public_url.clone(), "--public-url"),
        ("node.id", args.node_id.clone(), "--node-id"),
        ("telemetry.log_level", args.log_level.clone(), "--log-level"),
        ("telemetry.log_format", args.log_format.clone(), "--log-format"),
    ] {
        if let Some(value) = value {
            raw.set(path, value, flag);
        }
    }
    if let Some(shards) = args.shards {
        raw.set("node.shards", i64::from(shards), "--shards");
    }
}
