//! Damage to files.

use std::path::Path;

/// Cuts a file short of most of what is in it.
///
/// # Panics
/// If it cannot be written.
pub fn cut_short(file: &Path) {
    let file = std::fs::File::options().write(true).open(file).expect("open the file");
    file.set_len(3_000_000).expect("cut it short");
}

/// Changes one bit in the middle of a file.
///
/// # Panics
/// If it cannot be read or written.
pub fn flip_a_bit(file: &Path) {
    let mut bytes = std::fs::read(file).expect("read the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("write it");
}
