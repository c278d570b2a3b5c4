//! Failures of requests to a registry, and retries.

use std::error::Error;
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

/// A request without an answer. Whoever answers without TLS does so the next time, too.
pub(super) fn unanswered(registry: &str, error: &reqwest::Error) -> RequestFailure {
    if answers_without_tls(error) {
        return RequestFailure::Permanent(ImageError::WithoutTls { registry: registry.to_owned() });
    }
    if error.is_redirect() || error.is_builder() {
        return RequestFailure::Permanent(unreachable(registry, error));
    }
    RequestFailure::transient(unreachable(registry, error))
}

/// Whether what comes instead of TLS is something else, such as an error of a server that speaks plain HTTP.
fn answers_without_tls(error: &(dyn Error + 'static)) -> bool {
    let other = |error: &(dyn Error + 'static)| {
        matches!(
            error.downcast_ref(),
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
        )
    };
    std::iter::successors(Some(error), |error| (*error).source()).any(|error| {
        // What an I/O error is made of is not among its causes.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        other(error) || inner.is_some_and(|inner| answers_without_tls(inner))
    })
}

pub(super) fn unreachable(registry: &str, error: &reqwest::Error) -> ImageError {
    let mut detail = String::new();
    let mut cause: Option<&dyn Error> = Some(error);
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_is_not_tls_is_told_from_other_failures() {
        let within = |error: rustls::Error| io::Error::other(io::Error::other(error));
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(answers_without_tls(&within(plain)));
        assert!(!answers_without_tls(&within(rustls::Error::DecryptError)));
        assert!(!answers_without_tls(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }

    #[tokio::test]
    async fn a_registry_that_speaks_plain_http_is_asked_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            let mut count = 0;
            while let Ok(Ok((mut stream, _))) =
                tokio::time::timeout(Duration::from_secs(1), listener.accept()).await
            {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                count += 1;
                let _hello = stream.read(&mut [0; 1024]).await;
                let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            }
            count
        });
        let reference: crate::ImageReference = format!("{name}/box:1").parse().unwrap();
        let settings = crate::Settings::for_architecture("amd64");
        let repository = super::super::Repository::open(&reference, &settings).await.unwrap();
        let refused = repository.manifest("1").await.unwrap_err();
        assert!(matches!(&refused, ImageError::WithoutTls { registry } if *registry == name), "{refused}");
        assert_eq!(served.await.unwrap(), 1);
    }
}
