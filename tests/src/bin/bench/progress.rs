//! Progress lines with the time that has passed.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Starts the clock.
pub(crate) fn start() {
    LazyLock::force(&START);
}

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => { $crate::progress::line(format_args!($($arg)*)) };
}
pub(crate) use say;

pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    println!("[{:6.1} s] {text}", elapsed());
}

/// Seconds since the start.
pub(crate) fn elapsed() -> f64 {
    START.elapsed().as_secs_f64()
}
