//! Access to a registry: its challenge, and what answers it.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use super::credentials::Credentials;
use super::failure::{RequestFailure, unreachable};
use super::plain_http::PlainHttpHosts;
use super::response_body::{MOST_ERROR, body};
use crate::error::ImageError;

/// How long an authorisation service may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a registry demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads the header `WWW-Authenticate`.
pub(crate) fn challenge(header: &str) -> Option<Challenge> {
    let all = http_auth::parse_challenges(header).ok()?;
    let bearer = all.iter().find(|one| one.scheme.eq_ignore_ascii_case("bearer")).and_then(|one| {
        let get = |name: &str| {
            let found = one.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
    });
    let basic = || all.iter().any(|one| one.scheme.eq_ignore_ascii_case("basic")).then_some(Challenge::Basic);
    bearer.or_else(basic)
}

/// What requests carry.
#[derive(Clone)]
pub(super) enum Access {
    Basic { user: String, password: String },
    Bearer(String),
}

impl Access {
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Access::Basic { user, password } => request.basic_auth(user, Some(password)),
            Access::Bearer(token) => request.bearer_auth(token),
        }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Answers a challenge; nothing if there is nothing to answer with.
pub(super) async fn answer(
    client: &Client,
    registry: &str,
    challenge: Challenge,
    credentials: &Credentials,
    plain: &PlainHttpHosts,
) -> Result<Option<Access>, RequestFailure> {
    let (realm, service, scope) = match (challenge, credentials) {
        (Challenge::Basic, Credentials::Password { user, password }) => {
            return Ok(Some(Access::Basic { user: user.clone(), password: password.clone() }));
        }
        (Challenge::Basic, _) => return Ok(None),
        (Challenge::Bearer { realm, service, scope }, _) => (realm, service, scope),
    };
    let mut url = Url::parse(&realm).map_err(|_| {
        RequestFailure::Permanent(ImageError::invalid(format!("{registry} names no valid place for tokens")))
    })?;
    if !plain.allow(&url) {
        let text = format!("{registry} wants a token fetched without encryption, from {url}");
        return Err(RequestFailure::Permanent(ImageError::Invalid(text)));
    }
    let fields =
        || service.iter().map(|text| ("service", text)).chain(scope.iter().map(|text| ("scope", text)));
    let request = match credentials {
        Credentials::IdentityToken(token) => {
            let form =
                form(fields().chain([("grant_type", &"refresh_token".to_owned()), ("refresh_token", token)]));
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            client.post(url).header(reqwest::header::CONTENT_TYPE, kind).body(form)
        }
        Credentials::Anonymous | Credentials::Password { .. } => {
            url.query_pairs_mut().extend_pairs(fields());
            let request = client.get(url);
            match credentials {
                Credentials::Password { user, password } => request.basic_auth(user, Some(password)),
                _ => request,
            }
        }
    };
    let sent = request.timeout(PATIENCE).send().await;
    let mut response = sent.map_err(|error| RequestFailure::transient(unreachable(registry, &error)))?;
    if response.status().is_client_error() {
        return Ok(None);
    }
    let status = response.status().as_u16();
    let text = body(&mut response, MOST_ERROR).await.map_err(|error| error.named(registry))?;
    let token: Option<Token> = serde_json::from_slice(&text).ok();
    match token.and_then(|token| token.token.or(token.access_token)).filter(|token| !token.is_empty()) {
        Some(token) => Ok(Some(Access::Bearer(token))),
        None => {
            let detail = " to a request for a token, without one".to_owned();
            Err(RequestFailure::transient(ImageError::Registry {
                registry: registry.to_owned(),
                status,
                detail,
            }))
        }
    }
}

fn form<'f>(fields: impl Iterator<Item = (&'static str, &'f String)>) -> String {
    // The encoding of forms is that of queries.
    let Ok(mut url) = Url::parse("http://x/") else { return String::new() };
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_of_well_known_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull".into()),
        };
        assert_eq!(challenge(hub), Some(bearer));
        assert_eq!(challenge(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(challenge("Negotiate"), None);
    }

    #[test]
    fn a_form_is_encoded() {
        let (a, b) = ("x y&z".to_owned(), "ä".to_owned());
        assert_eq!(form([("a", &a), ("b", &b)].into_iter()), "a=x+y%26z&b=%C3%A4");
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(text in "(Bearer |Basic )?.{0,60}") {
            drop(challenge(&text));
        }
    }
}
