//! What the kernel counts for processes: processor time of threads, and memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

/// Processor time that a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// All threads that live, in nanoseconds.
    pub all: u64,
    /// The threads that run sessions, in nanoseconds.
    pub shards: u64,
    /// The thread that reads UDP packets, in nanoseconds.
    pub quic: u64,
}

impl Cpu {
    /// Of a process.
    pub fn of(pid: u32) -> Result<Self> {
        let mut cpu = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may end meanwhile; the node's and Redis' threads all live on.
            let Ok(used) = on_cpu(&task.join("schedstat").to_string_lossy()) else { continue };
            cpu.all += used;
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            cpu.shards += if name.starts_with("shard-") { used } else { 0 };
            cpu.quic += if name.trim_end() == "quic" { used } else { 0 };
        }
        Ok(cpu)
    }

    /// What was used since an earlier look.
    pub fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            shards: self.shards.saturating_sub(before.shards),
            quic: self.quic.saturating_sub(before.quic),
        }
    }
}

/// Processor time of the calling thread, in nanoseconds. Asked of the clock, because `/proc` tells of a
/// running thread only what was counted at the last tick.
pub fn own_thread() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn on_cpu(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let first = text.split_whitespace().next().and_then(|digits| digits.parse().ok());
    first.with_context(|| format!("{path} says {text:?}, which is no processor time"))
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS of {path}"))?;
    Ok(kib * 1024)
}

/// Packets for a local UDP port that found no room in their socket's buffer, since the sockets are there.
pub fn udp_dropped(port: u16) -> Result<u64> {
    let mut dropped = 0;
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        // A machine without IPv6 has one table.
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let is_there = fields.nth(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
            let count = fields.next_back().filter(|_| is_there).unwrap_or("0");
            dropped += count.parse::<u64>().with_context(|| format!("{table} says {line:?}"))?;
        }
    }
    Ok(dropped)
}

/// Waits. The benchmark's own threads have nobody to hold up.
#[expect(clippy::disallowed_methods, reason = "no session runs on a thread of the benchmark")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
