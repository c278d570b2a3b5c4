//! `aegis image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::format::Format;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Fetch an image from its registry, or look there for a newer one
    Pull(ImagePull),
    /// List images
    List(Format),
    /// Describe an image
    Info(ImageInfo),
    /// Give an image on this host a name; another image that has it loses it
    Tag(ImageTag),
    /// Take names of images away, and the images with their last names
    Remove(ImageNames),
    /// Remove images without names that no instance needs
    Prune(ImagePrune),
    /// Take over images from an archive: of `docker save`, or an OCI layout; plain or compressed
    Load(ImageLoad),
    /// Write images as an archive, which `docker load` takes too
    Save(ImageSave),
}

/// Options of `image pull`.
#[derive(Debug, Args)]
pub struct ImagePull {
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    pub reference: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image info`.
#[derive(Debug, Args)]
pub struct ImageInfo {
    /// Reference, or the first digits of the digest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image tag`.
#[derive(Debug, Args)]
pub struct ImageTag {
    /// Reference, or the first digits of the digest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// [REGISTRY[:PORT]/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// One or more images.
#[derive(Debug, Args)]
pub struct ImageNames {
    /// References, or first digits of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Options of `image prune`.
#[derive(Debug, Args)]
pub struct ImagePrune {
    /// Also those with names
    #[arg(long)]
    pub all: bool,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image load`.
#[derive(Debug, Args)]
pub struct ImageLoad {
    /// Archive, or directory with an OCI layout [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// The format.
    #[command(flatten)]
    pub format: Format,
}

/// Options of `image save`.
#[derive(Debug, Args)]
pub struct ImageSave {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// References, or first digits of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}
