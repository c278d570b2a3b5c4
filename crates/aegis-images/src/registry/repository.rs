//! One repository of a registry: its manifests and blobs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, NoProxy, Proxy, Response, StatusCode};

use super::failure::{RequestFailure, RetryPolicy, retry_after, unanswered, unreachable};
use super::plain_http::PlainHttpHosts;
use super::response_body::{MOST_ERROR, body, words};
use super::{auth, credentials};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{self, MOST_DOCUMENT};
use crate::reference::ImageReference;
use crate::settings::{RegistrySettings, Settings};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a registry may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most redirections of one request.
const MOST_REDIRECTS: usize = 5;
/// Where the range begins that a server sends: `bytes FIRST-LAST/SIZE`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// One repository of a registry.
#[derive(Clone)]
pub(crate) struct Repository {
    client: Client,
    name: String,
    image: String,
    base: String,
    plain: PlainHttpHosts,
    credentials: credentials::Credentials,
    access: Arc<Mutex<Option<auth::Access>>>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("base", &self.base).finish_non_exhaustive()
    }
}

fn client(
    settings: &RegistrySettings,
    plain: PlainHttpHosts,
    proxy: Option<&str>,
) -> Result<Client, ImageError> {
    // An error only says that it has been done before.
    let _again = rustls::crypto::ring::default_provider().install_default();
    let setting = |error: reqwest::Error| ImageError::Settings(format!("{error}"));
    let safe = Policy::custom(move |attempt| {
        let was_safe = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MOST_REDIRECTS {
            attempt.error("too many redirections")
        } else if was_safe && attempt.url().scheme() != "https" {
            attempt.error("a redirection away from encryption")
        } else if !plain.allow(attempt.url()) {
            attempt.error("a redirection to another host without encryption")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("aegis/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(safe);
    if let Some(path) = &settings.ca {
        let told =
            |error: &dyn std::fmt::Display| ImageError::Settings(format!("{}: {error}", path.display()));
        let pem = std::fs::read(path).map_err(|error| told(&error))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| told(&error))?;
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(proxy) = proxy {
        let proxy = Proxy::all(proxy).map_err(setting)?;
        builder = builder.proxy(proxy.no_proxy(NoProxy::from_env()));
    }
    builder.build().map_err(setting)
}

impl Repository {
    /// The repository of a reference, with the user's credentials for its registry.
    pub(crate) async fn open(
        reference: &ImageReference,
        settings: &Settings,
    ) -> Result<Repository, ImageError> {
        let name = reference.registry().to_owned();
        let own = settings.registries.get(&name).cloned().unwrap_or_default();
        let asked = name.clone();
        let looking = tokio::task::spawn_blocking(move || credentials::find(&asked));
        let credentials = tokio::time::timeout(HELPER_TIMEOUT, looking).await.map_err(|_| {
            let detail = format!("the helper has not answered within {HELPER_TIMEOUT:?}");
            ImageError::Credentials { registry: name.clone(), detail }
        })?;
        let scheme = if own.plain_http { "http" } else { "https" };
        let plain = PlainHttpHosts::of(&name, settings);
        Ok(Repository {
            client: client(&own, plain.clone(), settings.proxy.as_deref())?,
            image: reference.familiar(),
            base: format!("{scheme}://{name}/v2/{}", reference.repository()),
            plain,
            credentials: credentials.map_err(|_| ImageError::BrokenOff)??,
            access: Arc::default(),
            name,
        })
    }

    fn access(&self) -> Option<auth::Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, url: &str, headers: &HeaderMap) -> Result<Response, RequestFailure> {
        let request = self.client.get(url).headers(headers.clone());
        let request = match self.access() {
            Some(access) => access.apply(request),
            None => request,
        };
        request.send().await.map_err(|error| unanswered(&self.name, &error))
    }

    /// Asks, and answers a challenge once. What is no success is a failure.
    async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Response, RequestFailure> {
        let mut response = self.send(url, headers).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let header = response.headers().get(WWW_AUTHENTICATE).and_then(|header| header.to_str().ok());
            if let Some(challenge) = header.and_then(auth::challenge) {
                let (client, name) = (&self.client, &self.name);
                let access = auth::answer(client, name, challenge, &self.credentials, &self.plain).await?;
                *self.access.lock().unwrap_or_else(PoisonError::into_inner) = access.clone();
                if access.is_some() {
                    response = self.send(url, headers).await?;
                }
            }
        }
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    async fn refused(&self, mut response: Response) -> RequestFailure {
        let (status, wait) = (response.status(), retry_after(response.headers()));
        let text = body(&mut response, MOST_ERROR).await.unwrap_or_default();
        let (registry, name, detail) = (self.name.clone(), self.image.clone(), words(&text));
        match status {
            StatusCode::NOT_FOUND => RequestFailure::Permanent(ImageError::NotFound { registry, name }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RequestFailure::Permanent(ImageError::Unauthorized { registry, name, detail })
            }
            _ => {
                let error = ImageError::Registry { registry, status: status.as_u16(), detail };
                if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                    RequestFailure::Transient { error, wait }
                } else {
                    RequestFailure::Permanent(error)
                }
            }
        }
    }

    /// A manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Vec<u8>, ImageError> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(manifest::ACCEPT))]);
        let bytes = self.document(&format!("{}/manifests/{version}", self.base), &headers).await?;
        if let Ok(promised) = version.parse::<Digest>() {
            promised.check(&Digest::of(&bytes))?;
        }
        Ok(bytes)
    }

    /// A small blob, such as a configuration.
    pub(crate) async fn small_blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&self.blob_url(digest), &HeaderMap::new()).await?;
        digest.check(&Digest::of(&bytes))?;
        Ok(bytes)
    }

    async fn document(&self, url: &str, headers: &HeaderMap) -> Result<Vec<u8>, ImageError> {
        let mut retries = RetryPolicy::default();
        loop {
            let failure = match self.get(url, headers).await {
                Ok(mut response) => match body(&mut response, MOST_DOCUMENT).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => error.named(&self.name),
                },
                Err(failure) => failure,
            };
            retries.after(failure).await?;
        }
    }

    fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.base)
    }

    /// The end of a body before all of a blob was there.
    pub(crate) fn breaks_off(&self, at: u64, of: u64) -> RequestFailure {
        let detail = format!("it breaks off after {at} of {of} bytes");
        RequestFailure::transient(ImageError::Unreachable { registry: self.name.clone(), detail })
    }

    /// A blob from some byte on, or from the beginning if the registry cannot do that.
    pub(crate) async fn blob(&self, digest: &Digest, from: u64) -> Result<BlobBody, RequestFailure> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(&self.blob_url(digest), &headers).await?;
        let starts_at = match (response.status(), range_start(response.headers())) {
            (StatusCode::PARTIAL_CONTENT, Some(start)) if start == from => from,
            (StatusCode::PARTIAL_CONTENT, _) => {
                let text = format!("{} sends another part of a blob than asked for", self.name);
                return Err(RequestFailure::Permanent(ImageError::Invalid(text)));
            }
            _ => 0,
        };
        Ok(BlobBody { response, starts_at, registry: self.name.clone() })
    }
}

/// The bytes of a blob as they come.
#[derive(Debug)]
pub(crate) struct BlobBody {
    response: Response,
    /// The place of the first byte in the blob.
    pub(crate) starts_at: u64,
    registry: String,
}

impl BlobBody {
    /// The next bytes; none at the end of what the registry sends.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RequestFailure> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|error| RequestFailure::transient(unreachable(&self.registry, &error)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::RETRY_AFTER;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(text in "[ -~]{0,40}") {
            let value = HeaderValue::from_str(&text).unwrap();
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, value.clone()), (RETRY_AFTER, value)]);
            let _parsed = (range_start(&headers), retry_after(&headers));
        }
    }
}
