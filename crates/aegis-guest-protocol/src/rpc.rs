//! JSON-RPC 2.0 messages of the control pipe (<https://www.jsonrpc.org/specification>); no batches.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

/// The peer's JSON could not be parsed.
pub const PARSE_ERROR: i64 = -32700;
/// The method does not exist.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters do not fit the method.
pub const INVALID_PARAMS: i64 = -32602;
/// The guest failed for a reason of its own.
pub const INTERNAL: i64 = -32603;

/// A request that names its method, parameters and result as types.
pub trait Call: Serialize + DeserializeOwned {
    /// The method's name on the wire.
    const METHOD: &'static str;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned;
}

/// The error member of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct RpcError {
    /// A number of the JSON-RPC range, or one of [`crate::messages::code`].
    pub code: i64,
    /// The cause, as a sentence for people.
    pub message: String,
}

impl RpcError {
    /// An error with `code`.
    pub fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into() }
    }
}

/// Any message.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Wants an answer.
    Request {
        /// Echoed in the answer.
        id: u64,
        /// The method's name.
        method: String,
        /// Its parameters.
        params: Value,
    },
    /// An answer.
    Response {
        /// The request it answers.
        id: u64,
        /// Result or error.
        result: Result<Value, RpcError>,
    },
    /// Wants no answer.
    Notification {
        /// The method's name.
        method: String,
        /// Its parameters.
        params: Value,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    jsonrpc: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    params: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

#[derive(Serialize, Deserialize)]
enum Version {
    #[serde(rename = "2.0")]
    Two,
}

/// The bytes are no message.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Not JSON, or not of the shape.
    #[error("not a JSON-RPC message: {0}")]
    Json(#[from] serde_json::Error),
    /// The shape fits neither request, response nor notification.
    #[error("neither request nor response nor notification")]
    Shape,
}

impl Message {
    /// A request of a typed call.
    ///
    /// # Errors
    /// If the parameters cannot be written as JSON.
    pub fn request<C: Call>(id: u64, call: &C) -> Result<Message, MessageError> {
        Ok(Message::Request { id, method: C::METHOD.to_owned(), params: serde_json::to_value(call)? })
    }

    /// Parses one message.
    ///
    /// # Errors
    /// [`MessageError`]; the input may be any bytes.
    pub fn parse(bytes: &[u8]) -> Result<Message, MessageError> {
        let wire: Wire = serde_json::from_slice(bytes)?;
        match wire {
            Wire { id: Some(id), method: Some(method), params, result: None, error: None, .. } => {
                Ok(Message::Request { id, method, params: params.unwrap_or(Value::Null) })
            }
            Wire { id: None, method: Some(method), params, result: None, error: None, .. } => {
                Ok(Message::Notification { method, params: params.unwrap_or(Value::Null) })
            }
            Wire { id: Some(id), method: None, error: Some(error), result: None, .. } => {
                Ok(Message::Response { id, result: Err(error) })
            }
            // A result of `null` reads as absent.
            Wire { id: Some(id), method: None, error: None, result, .. } => {
                Ok(Message::Response { id, result: Ok(result.unwrap_or(Value::Null)) })
            }
            _ => Err(MessageError::Shape),
        }
    }

    /// The message as JSON.
    ///
    /// # Errors
    /// Practically none: values always serialise.
    pub fn to_json(&self) -> Result<Vec<u8>, MessageError> {
        let empty =
            Wire { jsonrpc: Version::Two, id: None, method: None, params: None, result: None, error: None };
        let wire = match self.clone() {
            Message::Request { id, method, params } => {
                Wire { id: Some(id), method: Some(method), params: Some(params), ..empty }
            }
            Message::Response { id, result: Ok(result) } => {
                Wire { id: Some(id), result: Some(result), ..empty }
            }
            Message::Response { id, result: Err(error) } => {
                Wire { id: Some(id), error: Some(error), ..empty }
            }
            Message::Notification { method, params } => {
                Wire { method: Some(method), params: Some(params), ..empty }
            }
        };
        Ok(serde_json::to_vec(&wire)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Message::parse(&bytes));
        }

        #[test]
        fn arbitrary_json_never_panics(id in any::<i64>(), method in ".{0,20}", field in "[a-z]{0,8}") {
            let text = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, field: id }).to_string();
            drop(Message::parse(text.as_bytes()));
        }

        #[test]
        fn messages_survive_the_wire(id in any::<u64>(), method in ".{0,20}", text in ".{0,40}", pick in 0..4) {
            let params = serde_json::json!({ "text": text });
            let message = match pick {
                0 => Message::Request { id, method, params },
                1 => Message::Notification { method, params },
                2 => Message::Response { id, result: Ok(params) },
                _ => Message::Response { id, result: Err(RpcError::new(-5, text)) },
            };
            prop_assert_eq!(Message::parse(&message.to_json().unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{deep}}}");
        assert!(Message::parse(text.as_bytes()).is_err());
    }
}
