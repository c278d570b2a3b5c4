//! Calls of Firecracker's API, over its unix socket; one connection for each.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::VmmError;

/// How long a call may take. To save a machine is to write its memory.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer, bytes. Those to our calls are far shorter.
const LONGEST: usize = 64 << 10;
/// How much of Firecracker's own words is passed on, characters.
const MOST_WORDS: usize = 500;

/// A call with a JSON body, which has no answer but its success.
pub(super) async fn call(
    stream: UnixStream,
    action: &'static str,
    (method, path): (Method, &str),
    body: &impl Serialize,
) -> Result<(), VmmError> {
    let body = serde_json::to_vec(body).map_err(|error| VmmError::io(action)(error.into()))?;
    exchange(stream, action, (method, path), body).await.map(drop)
}

/// A question.
pub(super) async fn get<T: DeserializeOwned>(
    stream: UnixStream,
    action: &'static str,
    path: &str,
) -> Result<T, VmmError> {
    let body = exchange(stream, action, (Method::GET, path), Vec::new()).await?;
    serde_json::from_slice(&body).map_err(|error| VmmError::io(action)(error.into()))
}

async fn exchange(
    stream: UnixStream,
    action: &'static str,
    call: (Method, &str),
    body: Vec<u8>,
) -> Result<Bytes, VmmError> {
    let io =
        |error: Box<dyn std::error::Error + Send + Sync>| VmmError::io(action)(std::io::Error::other(error));
    let answered = tokio::time::timeout(TIMEOUT, send(stream, call, body)).await;
    let answered = answered.map_err(|_| VmmError::io(action)(std::io::ErrorKind::TimedOut.into()))?;
    let (status, body) = answered.map_err(io)?;
    if status.is_success() {
        return Ok(body);
    }
    Err(VmmError::Refused { action, message: fault(&body) })
}

async fn send(
    stream: UnixStream,
    (method, path): (Method, &str),
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    // Nothing more is asked when this is done, so that the connection ends, too; an answer is an answer also if that is first.
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await?.to_bytes();
        Ok((status, body))
    };
    let (answered, ended) = tokio::join!(exchange, connection);
    match (answered, ended) {
        (Err(_), Err(error)) => Err(error.into()),
        (answered, _) => answered,
    }
}

/// What Firecracker says is wrong.
fn fault(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = value.get("fault_message").and_then(Value::as_str).unwrap_or("it gives no reason");
    text.chars().filter(|c| !c.is_control()).take(MOST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn answered(answer: &'static [u8]) -> Result<(), VmmError> {
        let (here, mut there) = UnixStream::pair().unwrap();
        let monitor = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let count = there.read(&mut buffer).await.unwrap();
            there.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        });
        let body = serde_json::json!({ "state": "Paused" });
        let result = call(here, "pause the machine", (Method::PATCH, "/vm"), &body).await;
        let asked = monitor.await.unwrap();
        assert!(
            asked.starts_with("PATCH /vm HTTP/1.1\r\n") && asked.ends_with(r#"{"state":"Paused"}"#),
            "{asked}"
        );
        result
    }

    #[tokio::test]
    async fn a_refusal_is_passed_on_in_firecrackers_words_without_control_characters() {
        answered(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let refusal =
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 32\r\n\r\n{\"fault_message\":\"no\\u001b[0m!\"} ";
        let refused = answered(refusal).await.unwrap_err();
        assert_eq!(refused.to_string(), "pause the machine: the monitor says: no[0m!");
        let nonsense = answered(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await.unwrap_err();
        assert!(nonsense.to_string().ends_with("it gives no reason"), "{nonsense}");
        assert!(answered(b"").await.is_err(), "it hangs up");
    }
}
