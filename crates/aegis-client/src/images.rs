//! Images.

use aegis_api::image::{Image, ImagesRemoved, PullProgress, PullRequest, TagRequest};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

use crate::client::Client;
use crate::error::ClientError;
use crate::lines::Lines;
use crate::transport::{self, Body, Connection, Upload};
use crate::url_path::escape;

impl Client {
    /// All images on the daemon's host.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn images(&mut self) -> Result<Vec<Image>, ClientError> {
        self.get("/v1/images").await
    }

    /// One image.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn image(&mut self, name: &str) -> Result<Image, ClientError> {
        self.get(&format!("/v1/images/info?name={}", escape(name))).await
    }

    /// Gives an image a name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tag_image(&mut self, image: &str, name: &str) -> Result<Image, ClientError> {
        let request = TagRequest { image: image.to_owned(), name: name.to_owned() };
        self.send(Method::POST, "/v1/images/tag", Some(&request)).await
    }

    /// Takes a name of an image away, and with the last one the image.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_image(&mut self, name: &str) -> Result<ImagesRemoved, ClientError> {
        self.send(Method::DELETE, &format!("/v1/images?name={}", escape(name)), None::<&()>).await
    }

    /// Removes images without names that no instance needs; with `all` also those with names.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune_images(&mut self, all: bool) -> Result<ImagesRemoved, ClientError> {
        self.send(Method::POST, &format!("/v1/images/prune?all={all}"), None::<&()>).await
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// [`ClientError`], if it did not begin.
    pub async fn pull(&self, reference: &str) -> Result<Pull, ClientError> {
        let mut connection = Connection::open(&self.socket).await?;
        let body = Body::json(Some(&PullRequest { reference: reference.to_owned() }))?;
        let reply = connection.request(Method::POST, "/v1/images/pull", body).await?;
        Ok(Pull { lines: Lines::new(transport::checked(reply).await?, connection) })
    }

    /// Hands over an archive, which is then sent to the [`Upload`]; the outcome comes when that has ended.
    ///
    /// # Errors
    /// [`ClientError`], when the future is awaited.
    pub fn load(&self) -> (Upload, impl Future<Output = Result<Loaded, ClientError>> + use<>) {
        let (upload, body) = Body::upload();
        let socket = self.socket.clone();
        (upload, async move {
            let mut connection = Connection::open(&socket).await?;
            let reply = connection.request(Method::POST, "/v1/images/load", body).await?;
            let left = reply.headers().get("aegis-left-out").map(|told| told.as_bytes().to_vec());
            let images = serde_json::from_slice(&transport::whole(reply).await?)?;
            let left = left.map(|told| serde_json::from_slice(&told)).transpose()?.unwrap_or_default();
            Ok(Loaded { images, left })
        })
    }

    /// Images as an archive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn save(&self, names: &[String]) -> Result<Download, ClientError> {
        let mut connection = Connection::open(&self.socket).await?;
        let path = format!("/v1/images/save?names={}", escape(&names.join(",")));
        let reply = connection.request(Method::GET, &path, Body::empty()).await?;
        Ok(Download { body: transport::checked(reply).await?.into_body(), _connection: connection })
    }
}

/// What was taken out of an archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The images.
    pub images: Vec<Image>,
    /// What else there was, and why it was left.
    pub left: Vec<String>,
}

/// A pull's progress as it comes.
#[derive(Debug)]
pub struct Pull {
    lines: Lines,
}

impl Pull {
    /// How far it is now; the last one has the image or the error. `None` if the daemon has gone.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<PullProgress>, ClientError> {
        let line = self.lines.next().await?;
        Ok(line.map(|line| serde_json::from_slice(&line)).transpose()?)
    }
}

/// Bytes as they come.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    /// The connection ends when this does.
    _connection: Connection,
}

impl Download {
    /// The next ones; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`], also if the daemon could not go on.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
