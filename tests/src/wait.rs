//! Waiting for a condition, which is the only waiting that tests do.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(25);

/// Looks at a condition until it holds, and returns what it returned.
///
/// # Errors
/// After `timeout`, with `what` and the last thing that the check said, so checks should say what they saw:
/// `ensure!(ready == 2, "{ready} endpoints are ready")`.
pub async fn eventually<T>(
    timeout: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut last = "the first look has not ended".to_owned();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => bail!("not within {timeout:?}: {what}; last seen: {last} (the latest look hung)"),
        }
        if start.elapsed() + INTERVAL >= timeout {
            bail!("not within {timeout:?}: {what}; last seen: {last}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks at a condition for the whole of `duration`: it must hold all the time.
///
/// # Errors
/// As soon as it does not hold, with the time that has passed.
pub async fn always(
    duration: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        if let Err(error) = check().await {
            bail!("no longer after {:?}: {what}; seen: {error:#}", start.elapsed());
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test]
    async fn the_failure_says_what_was_seen_last() {
        let mut n = 0;
        let got = eventually(Duration::from_secs(5), "three looks", async || {
            n += 1;
            ensure!(n == 3, "{n} looks");
            Ok(n)
        });
        assert_eq!(got.await.expect("holds"), 3);
        let error = eventually(Duration::from_millis(60), "never", async || -> Result<()> { bail!("seven") });
        let error = error.await.expect_err("never holds").to_string();
        assert_eq!(error, "not within 60ms: never; last seen: seven");
    }
}
