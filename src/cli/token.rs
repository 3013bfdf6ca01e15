//! `tidegate token`: signs a token as a tenant's issuer would.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::auth::{self, SigningKey};
use crate::config::{Config, DEMO_TENANT, Env, JwtConfig, JwtKey, KeyMaterial};
use crate::domain::TenantId;
use crate::tenants::{Tenant, Tenants};

use super::args::{NodeArgs, TokenArgs};
use super::{CliError, load};

/// Prints a token as the last line of standard output.
pub fn run(args: &TokenArgs) -> Result<(), CliError> {
    let token = sign(args)?;
    writeln!(std::io::stdout().lock(), "{token}").context("writing to standard output")?;
    Ok(())
}

/// Makes a token that is good from now on.
pub(super) fn sign(args: &TokenArgs) -> Result<String, CliError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    make(args, &super::environment, now.as_secs())
}

/// Makes the token, and makes sure that a node with this configuration would accept it.
pub(super) fn make(args: &TokenArgs, env: Env<'_>, now_s: u64) -> Result<String, CliError> {
    let tenant = tenant(args, env)?;
    let jwt = tenant.jwt.as_ref().ok_or_else(|| {
        CliError::Usage(format!(
            "tenant {} has no [tenants.{}.jwt]: it takes no tokens",
            tenant.id, tenant.id
        ))
    })?;
    let (key, signer) = signer(args, jwt)?;
    let claims = claims(args, jwt, now_s)?;
    let token = auth::sign(&signer, key.kid.as_deref(), &claims);
    auth::authenticate(&tenant, Some(&token), now_s * 1_000)
        .map_err(|error| CliError::Usage(format!("no node would accept such a token: {error}")))?;
    Ok(token)
}

fn tenant(args: &TokenArgs, env: Env<'_>) -> Result<std::sync::Arc<Tenant>, CliError> {
    let config = if args.demo {
        load::load_with(&NodeArgs { demo: true, ..NodeArgs::default() }, &|_| None)?
    } else {
        let file = args.config.as_deref();
        load::read(file)?.parse(file, env)?
    };
    let id = args.tenant.as_ref().map_or(DEMO_TENANT, TenantId::as_str);
    Tenants::from_config(&config).get(id).ok_or_else(|| CliError::Usage(unknown_tenant(id, &config)))
}

fn unknown_tenant(id: &str, config: &Config) -> String {
    let known: Vec<_> = config.tenants.keys().map(TenantId::as_str).collect();
    match known.as_slice() {
        [] => format!("--tenant: there is no tenant {id}; the configuration has none"),
        known => format!("--tenant: there is no tenant {id}; there are: {}", known.join(", ")),
    }
}

/// The key to sign with, and the means to do it.
fn signer<'a>(args: &TokenArgs, jwt: &'a JwtConfig) -> Result<(&'a JwtKey, SigningKey), CliError> {
    let usage = |text: &str| CliError::Usage(text.to_owned());
    let wanted = |key: &&JwtKey| args.kid.is_none() || args.kid == key.kid;
    let mut candidates = jwt.keys.iter().filter(wanted).peekable();
    if candidates.peek().is_none() {
        return Err(usage("--kid: the tenant has no such key"));
    }
    if let Some(path) = &args.private_key {
        let key = candidates
            .find(|key| matches!(key.material, KeyMaterial::EdDsa(_)))
            .ok_or_else(|| usage("--private-key: is for EdDSA keys, and the tenant has none here"))?;
        let place = format!("--private-key {}", path.display());
        let pem = std::fs::read_to_string(path).map_err(|error| usage(&format!("{place}: {error}")))?;
        let signer =
            SigningKey::from_ed25519_pem(&pem).map_err(|error| usage(&format!("{place}: {error}")))?;
        return Ok((key, signer));
    }
    candidates
        .find_map(|key| match &key.material {
            KeyMaterial::Hs256(secret) => Some((key, SigningKey::Hs256(secret.clone()))),
            KeyMaterial::EdDsa(_) => None,
        })
        .ok_or_else(|| {
            usage("the configuration has only the public half of an EdDSA key: --private-key FILE")
        })
}

fn claims(args: &TokenArgs, jwt: &JwtConfig, now_s: u64) -> Result<Map<String, Value>, CliError> {
    let mut claims = Map::new();
    claims.insert(jwt.user_claim.clone(), args.user.as_str().into());
    claims.insert("iat".into(), now_s.into());
    claims.insert("exp".into(), (now_s + args.ttl.duration().as_secs()).into());
    for (claim, value) in [("iss", &jwt.issuer), ("aud", &jwt.audience)] {
        if let Some(value) = value {
            claims.insert(claim.into(), value.as_str().into());
        }
    }
    for (name, value) in &args.claims {
        if claims.insert(name.clone(), value.clone()).is_some() {
            return Err(CliError::Usage(format!(
                "--claim {name}: is there already: --user, --ttl and the configuration set it, or it is given twice"
            )));
        }
    }
    Ok(claims)
}
