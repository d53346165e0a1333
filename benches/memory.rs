//! The most memory that a process had resident, where Linux tells it.

use std::fs;

/// Forgets the peak so far. The resident memory, KiB, from which it now grows; nothing where the system can't.
pub fn forget_peak() -> Option<u64> {
    fs::write("/proc/self/clear_refs", "5").ok()?;
    peak()
}

/// The peak since it was last forgotten, KiB.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line?.trim().strip_suffix(" kB")?.parse().ok()
}
