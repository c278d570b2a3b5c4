//! Reading from connections, byte by byte.

use std::io::Read;

/// Reads exactly `count` bytes.
///
/// # Panics
/// If there are fewer.
pub fn read_exactly(from: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).expect("enough bytes");
    bytes
}

/// Reads until `word` has come, and returns everything up to there.
///
/// # Panics
/// If it does not come.
pub fn read_until(from: &mut impl Read, word: &str) -> String {
    let mut text = String::new();
    while !text.contains(word) {
        text.push_str(&String::from_utf8_lossy(&read_exactly(from, 1)));
    }
    text
}
