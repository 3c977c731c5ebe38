//! Lines of progress, with the time since the start.

use std::sync::OnceLock;

use tokio::time::Instant;

/// Prints one.
pub(crate) fn line(text: &str) {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed().as_secs();
    println!("{:>3}:{:02} {text}", since / 60, since % 60);
}
