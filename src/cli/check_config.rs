//! `tidegate check-config FILE`.

use std::io::Write;

use anyhow::Context as _;

use crate::config::{BackboneConfig, Config, Env, TenantConfig};

use super::args::CheckConfigArgs;
use super::{CliError, load};

/// Checks the file and says on standard output what a node would run with.
pub fn run(args: &CheckConfigArgs) -> Result<(), CliError> {
    check(args, &super::environment, &mut std::io::stdout().lock())
}

pub(super) fn check(args: &CheckConfigArgs, env: Env<'_>, out: &mut impl Write) -> Result<(), CliError> {
    let mut raw = load::read(Some(&args.file))?;
    raw.set_from_env(env);
    let config = raw.parse(Some(&args.file), env)?;
    writeln!(out, "{} is valid", args.file.display())
        .and_then(|()| out.write_all(summary(&config).as_bytes()))
        .context("writing to standard output")?;
    Ok(())
}

fn summary(config: &Config) -> String {
    let mut text = match &config.backbone {
        BackboneConfig::Embedded { resp_listen, .. } => {
            format!("backbone: embedded, RESP on {resp_listen}; its data ends with the process\n")
        }
        BackboneConfig::Redis { .. } => "backbone: Redis\n".to_owned(),
    };
    text += &format!("clients: {}; operators: {}\n", config.node.listen, config.node.admin_listen);
    if config.tenants.is_empty() {
        text += "no tenants: nobody can connect or publish\n";
    }
    for (id, tenant) in &config.tenants {
        let namespaces: Vec<_> = tenant.namespaces.iter().map(|rules| rules.name.as_str()).collect();
        text += &format!("tenant {id}: {}; namespaces {}\n", entrance(tenant), namespaces.join(", "));
    }
    text
}

/// Who gets in, which is what one looks for first when somebody does not.
fn entrance(tenant: &TenantConfig) -> String {
    let keys = tenant.jwt.as_ref().map_or(0, |jwt| jwt.keys.len());
    let clients = match (keys, tenant.anonymous) {
        (0, false) => "no client can connect (neither jwt nor anonymous)".to_owned(),
        (0, true) => "anonymous clients".to_owned(),
        (keys, false) => format!("clients with a token ({})", counted(keys, "key")),
        (keys, true) => format!("clients with a token ({}) or anonymous", counted(keys, "key")),
    };
    format!("{clients}, {} for publishing", counted(tenant.api_keys.len(), "API key"))
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
