//! What the system says about this process. `None` where it does not say, as outside Linux.

use std::fs;

/// Ticks a second in `/proc/<pid>/stat`: `USER_HZ`, which is 100 on every architecture we run on,
/// whatever the kernel's own tick is (proc(5), time(7)).
const USER_HZ: f64 = 100.0;

/// Resident memory in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Open file descriptors. Since Linux 6.2 the folder's size is their number; a listing of a million
/// sockets at each scrape would stall the node, so it is the fallback only.
pub(super) fn open_fds() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    // The listing opens one itself.
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    Some((listed as u64).saturating_sub(1))
}

/// User and system time of all threads, in seconds.
pub(super) fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command may hold spaces and parentheses; the third field follows its last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some((user + system) as f64 / USER_HZ)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_plausible() {
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(open_fds().unwrap() >= 3);
        assert!((0.0..1e6).contains(&cpu_seconds().unwrap()));
    }
}
