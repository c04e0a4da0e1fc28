//! What is in use, as the kernel counts it, in KiB.

fn field(path: &str, name: &str) -> i64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// By this process.
pub(crate) fn resident_kib() -> i64 {
    field("/proc/self/status", "VmRSS:")
}

/// Left to the whole machine.
pub(crate) fn available_kib() -> i64 {
    field("/proc/meminfo", "MemAvailable:")
}
