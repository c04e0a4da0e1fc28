//! Kernels on which a filter would silence the proc connector.

/// Whether this kernel takes an event that reached nobody as a sign that nobody
/// listens, and then tells nobody anything any more.
///
/// "connector: Fix `proc_event_num_listeners` count not cleared" (c46bfba1337d) set
/// the count of listeners to 0 whenever a broadcast returned `-ESRCH`, which it does
/// also where each listener's filter held the event back. A socket that listens
/// already cannot be counted again after that. It was in 6.8-rc1 to rc4 and in the
/// stable kernels of early 2024, until 8929f95b2b58 took it back (6.8-rc5, 6.7.6,
/// 6.6.18). On those we attach no filter.
///
/// On others it is harmless: `a_filter_that_lets_nothing_pass_silences_nobody` in
/// `tests/filter.rs` tries it.
pub(crate) fn forgets_its_listeners(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0u32));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (6, 6, patch) => patch < 18,
        (6, 7, patch) => patch < 6,
        (6, 8, 0) => release.contains("-rc"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::forgets_its_listeners;

    #[test]
    fn only_the_kernels_in_question_are_meant() {
        for release in [
            "6.6.13",
            "6.6.17-200.fc39.x86_64",
            "6.7.5-arch1-1",
            "6.8.0-rc4+",
        ] {
            assert!(forgets_its_listeners(release), "{release}");
        }
        for release in [
            "6.6.18",
            "6.6.100-lts",
            "6.7.6",
            "6.8.0",
            "6.8.1",
            "6.18.4",
            "6.5.13",
            "5.15.148",
            "7.6.1",
            "",
            "rc",
        ] {
            assert!(!forgets_its_listeners(release), "{release}");
        }
    }
}
