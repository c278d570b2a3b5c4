//! The disk space that is given up when the disk is full.

use aegis_store::reserve::Reserve;

/// Gives up the reserve; whether there was one.
pub(crate) fn release(reserve: Option<&Reserve>) -> bool {
    let released = reserve.is_some_and(|reserve| reserve.release().unwrap_or(false));
    if released {
        tracing::warn!("the disk is full: the registry goes on with the reserve");
    }
    released
}
