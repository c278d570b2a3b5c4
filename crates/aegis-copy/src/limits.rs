//! Limits on what a stream may ask for.

/// What a stream may at most ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Contents of all files together without holes, bytes.
    pub bytes: u64,
    /// One file with its holes, bytes.
    pub size: u64,
    /// Whether it may be a symbolic link and nothing else: one that the user would take for his own later.
    pub link: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 10_000_000, bytes: 1 << 40, size: 1 << 44, link: false }
    }
}
