//! Query strings of requests.

/// Which part of a log.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on with what comes.
    pub follow: bool,
    /// About the last so many lines.
    pub tail: Option<usize>,
    /// Only what came at or after this time, RFC 3339.
    pub since: Option<String>,
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Those after this number; 0 for all that are kept, `None` for those that happen from now on.
    pub after: Option<u64>,
    /// Go on with what happens.
    pub follow: bool,
    /// Only those of the instance with this id or handle.
    pub instance: Option<String>,
}
