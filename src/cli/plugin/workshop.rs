//! A host for plugins without a node around it: what `check` and `test` try components in.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::backbone::embedded::Embedded;
use crate::backbone::wake::DirtySet;
use crate::cli::{CliError, load};
use crate::config::{HttpHost, PluginsConfig, TenantPlugins};
use crate::domain::TenantId;
use crate::plugin::answers::AnswerLimits;
use crate::plugin::compile::{CompileCommand, NodeKey};
use crate::plugin::log::TenantLog;
use crate::plugin::{HostConfig, Plugin, PluginHost, Prepared, Services, Settings};
use crate::telemetry::{Metrics, TenantMetrics};

/// Components of which people are told that compiling them takes its time.
const LARGE: usize = 4 << 20;
/// How long what a call has cost may take to be known after its answer.
const SETTLES: Duration = Duration::from_secs(5);

/// Which file, and with what.
#[derive(Debug, Clone, Args)]
pub struct WorkshopArgs {
    /// The component, as `tidegate plugin build` makes it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A setting that the plugin reads by `wasi:config`; @FILE takes the value from a file, @@ is an @. May be
    /// repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub settings: Vec<(String, String)>,
    /// Take limits and deadlines from this configuration file [default: those of a tenant that sets none].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The tenant, for its limits in the file and as the plugin sees it.
    #[arg(long, default_value = crate::config::DEMO_TENANT)]
    pub tenant: TenantId,
    /// How long a hook may take here, where this machine is slower than a node.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub deadline_ms: Option<u64>,
    /// A host that the plugin may ask by wasi:http, beside those of the configuration; may be given several times.
    #[arg(long, value_name = "HOST")]
    pub http_host: Vec<HttpHost>,
    /// Where compiled code is kept, which saves seconds for JavaScript and Python
    /// [default: tidegate/plugins in the user's cache folder].
    #[arg(long, value_name = "FOLDER", env = "TIDEGATE_PLUGIN_CACHE")]
    pub cache: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a workshop is opened with.
pub(super) struct Plan {
    file: PathBuf,
    settings: Settings,
    plugins: PluginsConfig,
}

/// A host, and the component that is in it.
pub(super) struct Workshop {
    pub(super) host: PluginHost,
    pub(super) plugin: Arc<Plugin>,
    pub(super) log: Arc<TenantLog>,
    pub(super) limits: TenantPlugins,
    /// How long it took to make it ready.
    pub(super) took: Duration,
    metrics: Arc<TenantMetrics>,
}

impl Workshop {
    /// Takes a component into a host, as a node takes one that was uploaded.
    ///
    /// # Errors
    /// Where it is not taken, in the words of an upload's answer.
    pub(super) async fn open(plan: Plan) -> Result<Self> {
        let Plan { file, settings, plugins } = plan;
        let bytes = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let metrics = Metrics::default();
        let services =
            Services { backbone: Embedded::new(Arc::new(DirtySet::default())), metrics: metrics.clone() };
        let compiler = CompileCommand::this_program().context("this program does not know where it is")?;
        let config = HostConfig { key: key(plugins.folder.as_deref())?, plugins, compiler };
        let host = PluginHost::start(config, services).map_err(anyhow::Error::from)?;
        let began = Instant::now();
        let prepared = prepare(&host, bytes, &settings).await;
        let prepared = prepared.with_context(|| format!("{} is not taken", file.display()))?;
        let took = began.elapsed();
        let log = host.log(&settings.tenant, &settings.limits);
        let (metrics, limits) = (metrics.tenant(&settings.tenant), settings.limits.clone());
        let plugin = host.bind(prepared, settings);
        let shop = Self { host, plugin, log, limits, took, metrics };
        // The first start, which was part of it, is not to be counted to the first call.
        shop.cost_since(Duration::ZERO).await;
        Ok(shop)
    }

    /// Processor time that calls have taken so far.
    pub(super) fn busy(&self) -> Duration {
        Duration::from_nanos(self.metrics.plugin_busy_nanos.get())
    }

    /// Waits until what a call has cost is counted, which is right after its answer, and says how much it was.
    pub(super) async fn cost_since(&self, before: Duration) -> Duration {
        let until = Instant::now() + SETTLES;
        while self.busy() == before && Instant::now() < until {
            tokio::task::yield_now().await;
        }
        self.busy().saturating_sub(before)
    }
}

async fn prepare(host: &PluginHost, bytes: Vec<u8>, settings: &Settings) -> Result<Arc<Prepared>> {
    let large = bytes.len() >= LARGE;
    let ready = host.prepare(bytes.into(), settings);
    tokio::pin!(ready);
    tokio::select! {
        prepared = &mut ready => return Ok(prepared?),
        () = tokio::time::sleep(Duration::from_secs(1)), if large => {}
    }
    eprintln!("compiling: for JavaScript and Python this takes some 20 seconds, once for each version");
    Ok(ready.await?)
}

impl Plan {
    /// # Errors
    /// Where the configuration file is wrong, or has no such tenant.
    pub(super) fn new(args: &WorkshopArgs) -> Result<Self, CliError> {
        let file = args.config.as_deref();
        let config = load::read(file)?.parse(file, &crate::cli::environment)?;
        let tenant = config.tenants.get(&args.tenant);
        if file.is_some() && tenant.is_none() {
            let what = format!("there is no tenant {} in the file: name one with --tenant", args.tenant);
            return Err(CliError::Usage(what));
        }
        let limits = tenant.map_or(&config.limits, |tenant| &tenant.limits);
        let answers = AnswerLimits { payload_bytes: limits.payload_bytes, targets: limits.publish_targets };
        let mut limits = tenant.map(|tenant| tenant.plugins.clone()).unwrap_or_default();
        if let Some(ms) = args.deadline_ms {
            let deadline = Duration::from_millis(ms);
            (limits.deadline, limits.authenticate_deadline) = (deadline, deadline);
        }
        limits.http_hosts.extend_from_slice(&args.http_host);
        // The machine is the developer's own.
        limits.http_local_addresses = true;
        let plugins = PluginsConfig {
            // One worker, so that one instance answers all there is to answer.
            workers: NonZeroUsize::MIN,
            instances: 8,
            folder: args.cache.clone().or_else(cache),
            ..config.plugins
        };
        let settings = Settings {
            tenant: args.tenant.clone(),
            name: args.file.file_stem().unwrap_or_default().to_string_lossy().into(),
            settings: args.settings.clone(),
            limits,
            answers,
        };
        Ok(Self { file: args.file.clone(), settings, plugins })
    }
}

/// The user's own cache folder. Without one compiled code goes with the process.
fn cache() -> Option<PathBuf> {
    let folder = |variable| std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(caches.join("tidegate/plugins"))
}

/// What proves that kept code was compiled here: 32 random bytes, beside it, for this user's eyes only.
fn key(folder: Option<&Path>) -> Result<NodeKey> {
    let Some(folder) = folder else { return Ok(NodeKey::random()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("{} cannot be made: name another folder with --cache", folder.display()))?;
    let file = folder.join("key");
    let what = || format!("{}: name another folder with --cache", file.display());
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file) {
        Ok(mut new) => new.write_all(&rand::random::<[u8; 32]>()).with_context(what)?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(what),
    }
    let bytes = std::fs::read(&file).with_context(what)?;
    // Another process may be about to write it.
    Ok(if bytes.len() == 32 { NodeKey::new(&bytes) } else { NodeKey::random() })
}

/// A setting as the command line has it: `NAME=VALUE`, or `NAME=@FILE`.
pub(super) fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("must be NAME=VALUE")?;
    let value = match value.strip_prefix('@') {
        None => value.to_owned(),
        Some(rest) if rest.starts_with('@') => rest.to_owned(),
        Some(file) => std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?,
    };
    Ok((name.to_owned(), value))
}

/// Bytes for people.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// A duration for people.
pub(super) fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 0.01 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{:.0} µs", seconds * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_given_or_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file").unwrap();
        let read = format!("rules=@{}", file.path().display());
        for (text, value) in [("a=", ""), ("a=b=c", "b=c"), ("a=@@b", "@b"), (&read, "from a file")] {
            assert_eq!(parse_setting(text).unwrap().1, value);
        }
        for wrong in ["", "a", "=b", "a=@/nowhere/at/all"] {
            assert!(parse_setting(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kept_code_is_believed_by_the_key_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a/b");
        key(Some(&cache)).unwrap();
        let made = std::fs::read(cache.join("key")).unwrap();
        key(Some(&cache)).unwrap();
        assert_eq!(std::fs::read(cache.join("key")).unwrap(), made, "it stays");
        assert_eq!(made.len(), 32);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(cache.join("key")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o077, 0, "for this user's eyes only");
    }
}
