//! How many client connections the process has descriptors for.
//!
//! Invariant: clients never take all of them. Every request may need one more for its endpoint,
//! and whoever looks what is wrong needs one for the admin server.

use std::fs;

/// Connections that clients may hold: somewhat less than half of the descriptors, because each of
/// them can cost a second one. No bound where the system does not tell.
pub(super) fn share_of_clients() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    soft_limit(&limits).map_or(usize::MAX, |descriptors| {
        descriptors.saturating_mul(45) / 100
    })
}

/// The soft limit on open files; `None` when there is none.
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read_where_there_is_one() {
        let line = "Max processes   10  10  processes\nMax open files            1024                 524288               files\n";
        assert_eq!(soft_limit(line), Some(1024));
        assert_eq!(
            soft_limit("Max open files  unlimited  unlimited  files"),
            None
        );
        assert_eq!(soft_limit(""), None);
    }
}
