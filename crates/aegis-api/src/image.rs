//! Images: what they are, pulling, removing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// When an instance's image is asked for at its registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// If it is not on this host.
    #[default]
    Missing,
    /// Each time: a tag may have moved on.
    Always,
    /// Not at all.
    Never,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageLayer {
    /// Digest as the registry has it.
    pub digest: String,
    /// Digest of what it unpacks to; layers with the same one are stored once.
    pub diff_id: String,
    /// Size as the registry has it, bytes.
    pub size: u64,
}

/// How an image's maker meant it to be run. It counts for nothing here: commands, users and ports are said by requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageConfig {
    /// `ENTRYPOINT`: program, with its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// `CMD`: arguments behind those, or the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `USER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `WORKDIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `EXPOSE`: ports, each as `NUMBER/PROTOCOL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
}

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Digest of its manifest: its identity.
    pub digest: String,
    /// Its names.
    pub names: Vec<String>,
    /// Size of its root disk, bytes; what it shares with others counts.
    pub size: u64,
    /// The processor that it is for.
    pub architecture: String,
    /// When it was made, as its maker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it became ready on this host.
    pub prepared_at: String,
    /// Environment that it gives to commands.
    pub env: std::collections::BTreeMap<String, String>,
    /// How its maker meant it to be run; only where one image is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Instances that were created from it: handles or ids.
    pub used_by: Vec<String>,
}

/// Body of `POST /v1/images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// Reference of the image.
    pub reference: String,
}

/// Body of `POST /v1/images/tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagRequest {
    /// The image: a reference, or the first digits of its digest.
    pub image: String,
    /// The name that it gets: `[REGISTRY[:PORT]/]REPOSITORY[:TAG]`. Another image that has it loses it.
    pub name: String,
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerStage {
    /// Others come first.
    Waiting,
    /// It is being fetched.
    Downloading,
    /// It is being unpacked.
    Unpacking,
    /// It is there.
    Ready,
}

/// How far a layer has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerProgress {
    /// Its digest.
    pub digest: String,
    /// Bytes of it that are here.
    pub done: u64,
    /// Its size.
    pub total: u64,
    /// What happens to it.
    pub stage: LayerStage,
}

/// One line of the reply to `POST /v1/images/pull`: how far it is. The last one has the image, or the error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullProgress {
    /// The layers, lowest first; none until they are known.
    #[serde(default)]
    pub layers: Vec<LayerProgress>,
    /// The image, when it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// Reply to `DELETE /v1/images` and `POST /v1/images/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImagesRemoved {
    /// Names that are no more.
    pub names: Vec<String>,
    /// Digests of images that are no more.
    pub images: Vec<String>,
    /// Space that is free again, bytes.
    pub bytes: u64,
}
