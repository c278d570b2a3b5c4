//! The client and its connection.

use std::path::PathBuf;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ClientError;
use crate::lines::Lines;
use crate::process_stream::{self, ProcessReader, ProcessWriter};
use crate::transport::{self, Body, Connection};

/// The daemon. Keeps one connection open for requests that follow each other.
#[derive(Debug)]
pub struct Client {
    pub(crate) socket: PathBuf,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Connects when needed.
    #[must_use]
    pub fn new(socket: PathBuf) -> Client {
        Client { socket, connection: None }
    }

    pub(crate) async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = Body::json(body)?;
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_open() => connection,
            _ => Connection::open(&self.socket).await?,
        };
        let reply = connection.request(method, path, body).await?;
        let bytes = transport::whole(reply).await?;
        self.connection = Some(connection);
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let mut connection = Connection::open(&self.socket).await?;
        let reply = connection.request(Method::GET, path, Body::empty()).await?;
        Ok(Lines::new(transport::checked(reply).await?, connection))
    }

    pub(crate) async fn upgrade(
        &self,
        path: &str,
        body: Body,
    ) -> Result<(ProcessReader, ProcessWriter), ClientError> {
        let connection = Connection::open(&self.socket).await?;
        Ok(process_stream::split(connection.upgrade(path, body).await?))
    }
}
