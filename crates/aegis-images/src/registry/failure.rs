//! Failures of requests to a registry, and retries.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::ImageError;

/// How often something is tried without any progress.
const ATTEMPTS: u32 = 5;

/// Before the second attempt; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Longest wait that a registry may ask for.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// Why a request failed, and whether another attempt makes sense.
#[derive(Debug)]
pub(crate) enum RequestFailure {
    Transient { error: ImageError, wait: Option<Duration> },
    Permanent(ImageError),
}

impl RequestFailure {
    pub(super) fn transient(error: ImageError) -> RequestFailure {
        RequestFailure::Transient { error, wait: None }
    }

    pub(super) fn error(self) -> ImageError {
        match self {
            RequestFailure::Transient { error, .. } | RequestFailure::Permanent(error) => error,
        }
    }
}

/// Decides how often, and after what time, something is tried again.
#[derive(Debug, Default)]
pub(crate) struct RetryPolicy {
    failures: u32,
}

impl RetryPolicy {
    /// There was progress: failures before it do not count any more.
    pub(crate) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// If there is no point in another one.
    pub(crate) async fn after(&mut self, failure: RequestFailure) -> Result<(), ImageError> {
        let RequestFailure::Transient { error, wait } = failure else { return Err(failure.error()) };
        self.failures += 1;
        if self.failures >= ATTEMPTS {
            return Err(error);
        }
        let pause = wait.unwrap_or(FIRST_WAIT * 2u32.saturating_pow(self.failures - 1)).min(MOST_WAIT);
        tracing::debug!(%error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

pub(super) fn unreachable(registry: &str, error: &reqwest::Error) -> ImageError {
    let mut detail = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        // Outer errors repeat the inner ones, and the first has the whole address in it.
        if !text.contains("error sending request") && !detail.contains(&text) {
            detail = if detail.is_empty() { text } else { format!("{detail}: {text}") };
        }
        cause = error.source();
    }
    let detail = if detail.is_empty() { error.to_string() } else { detail };
    ImageError::Unreachable { registry: registry.to_owned(), detail }
}

/// How long a registry asks to be left alone.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
