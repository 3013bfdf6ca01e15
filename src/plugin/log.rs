//! What a tenant's plugins say: some last lines, kept on the node where they were said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::telemetry::{PluginLogLine, TenantMetrics};

/// Bytes of the longest message; what is longer is cut.
const MESSAGE_BYTES: usize = 4 * 1024;
/// Bytes of the longest context.
const CONTEXT_BYTES: usize = 128;
/// What a line costs beside its texts, roughly.
const LINE_OVERHEAD: usize = 96;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever follows every step.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
    /// Nothing works.
    Critical,
}

impl Level {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number: lines are numbered on, those that were lost too.
    pub number: u64,
    /// When it was said, in milliseconds since 1970.
    pub time_ms: u64,
    /// Which plugin said it.
    pub plugin: Arc<str>,
    /// How much it matters.
    pub level: Level,
    /// A word by which lines belong together, or nothing.
    pub context: Box<str>,
    /// What was said.
    pub message: Box<str>,
}

/// One tenant's log on this node. Bounded in bytes and in lines a second: what comes too fast is counted and
/// lost, so that a plugin that floods its log costs others nothing.
#[derive(Debug)]
pub struct TenantLog {
    kept: Mutex<Kept>,
    added: Notify,
    max_bytes: usize,
    lines_per_s: u32,
    metrics: Arc<TenantMetrics>,
}

#[derive(Debug)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    next: u64,
    tokens: f64,
    filled: Instant,
}

impl TenantLog {
    /// An empty log that keeps so many bytes and takes so many lines a second, ten seconds' worth at once.
    pub fn new(max_bytes: usize, lines_per_s: u32, metrics: Arc<TenantMetrics>) -> Self {
        let tokens = f64::from(lines_per_s) * 10.0;
        let kept = Kept { lines: VecDeque::new(), bytes: 0, next: 0, tokens, filled: Instant::now() };
        Self { kept: Mutex::new(kept), added: Notify::new(), max_bytes, lines_per_s, metrics }
    }

    /// Adds a line, or counts it as lost.
    pub fn add(&self, now_ms: u64, plugin: &Arc<str>, level: Level, context: &str, message: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = kept.next;
        kept.next += 1;
        if !kept.admits(self.lines_per_s, Instant::now()) {
            self.metrics.plugin_log_lines.of(PluginLogLine::Dropped).inc();
            return;
        }
        let line = Line {
            number,
            time_ms: now_ms,
            plugin: Arc::clone(plugin),
            level,
            context: cut(context, CONTEXT_BYTES),
            message: cut(message, MESSAGE_BYTES),
        };
        kept.bytes += size(&line);
        kept.lines.push_back(line);
        while kept.bytes > self.max_bytes
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.bytes -= size(&oldest);
        }
        drop(kept);
        self.metrics.plugin_log_lines.of(PluginLogLine::Kept).inc();
        self.added.notify_waiters();
    }

    /// Lines from number `from` on, and the number to go on with. Where lines before the first of them are
    /// missing, they were lost or forgotten.
    pub fn read(&self, from: u64) -> (Vec<Line>, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.lines.partition_point(|line| line.number < from);
        (kept.lines.range(start..).cloned().collect(), kept.next)
    }

    /// Lines from number `from` on, once there are any. Cancelling loses nothing.
    pub async fn follow(&self, from: u64) -> (Vec<Line>, u64) {
        loop {
            let added = self.added.notified();
            let (lines, next) = self.read(from);
            if !lines.is_empty() {
                return (lines, next);
            }
            added.await;
        }
    }
}

impl Kept {
    fn admits(&mut self, per_s: u32, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).min(Duration::from_secs(60));
        self.filled = now;
        let per_s = f64::from(per_s);
        self.tokens = (self.tokens + since.as_secs_f64() * per_s).min(per_s * 10.0);
        let admits = self.tokens >= 1.0;
        if admits {
            self.tokens -= 1.0;
        }
        admits
    }
}

fn size(line: &Line) -> usize {
    line.message.len() + line.context.len() + LINE_OVERHEAD
}

fn cut(text: &str, bytes: usize) -> Box<str> {
    text[..text.floor_char_boundary(bytes)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_bytes: usize, lines_per_s: u32) -> TenantLog {
        TenantLog::new(max_bytes, lines_per_s, Arc::default())
    }

    #[test]
    fn the_oldest_lines_go_first() {
        let log = log(LINE_OVERHEAD * 3, 100);
        for n in 0..10 {
            log.add(n, &"p".into(), Level::Info, "", "");
        }
        let (lines, next) = log.read(0);
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(next, 10);
        assert_eq!(log.read(9).0.len(), 1);
    }

    #[test]
    fn a_flood_is_counted_and_lost() {
        let log = log(1 << 20, 1);
        for _ in 0..1_000 {
            log.add(0, &"p".into(), Level::Warn, "", &"é".repeat(10_000));
        }
        let (lines, next) = log.read(0);
        assert!(lines.len() < 500 && next == 1_000);
        assert!(lines[0].message.len() <= MESSAGE_BYTES);
        assert!(log.metrics.plugin_log_lines.of(PluginLogLine::Dropped).get() > 500);
    }

    #[tokio::test]
    async fn a_follower_gets_what_comes() {
        let log = Arc::new(log(1 << 20, 100));
        let follower = tokio::spawn({
            let log = Arc::clone(&log);
            async move { log.follow(0).await }
        });
        tokio::task::yield_now().await;
        log.add(0, &"p".into(), Level::Info, "a", "b");
        assert_eq!(&*follower.await.unwrap().0[0].context, "a");
    }
}
