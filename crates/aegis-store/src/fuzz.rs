//! What the fuzzer drives; see `fuzz/`.

use aegis_fuzz::Target;

use crate::machine_state::{self, Key};

const HEAD: usize = 32;
const SUM: usize = 4;

fn number(bytes: &[u8], at: usize) -> usize {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(usize::MAX, |bytes| usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX))
}

fn put_sum(bytes: &mut [u8], at: usize, of: &[&[u8]]) {
    let sum = crc32fast::hash(&of.concat()).to_le_bytes();
    if let Some(place) = bytes.get_mut(at..at + SUM) {
        place.copy_from_slice(&sum);
    }
}

/// The same file with the checksums that it should have: a fuzzer would look for them in vain.
fn mend(file: &mut [u8]) -> Option<()> {
    let end = HEAD.checked_add(number(file, 16))?.checked_add(number(file, 20))?;
    let head = file.get(..end)?.to_vec();
    put_sum(file, end, &[&head]);
    let mut at = end.checked_add(SUM)?;
    loop {
        // A piece: where it is, its length, its checksum, its bytes; the end has no bytes.
        let piece = file.get(at..at.checked_add(12)?)?.to_vec();
        let ends = piece.starts_with(&[0xff; 8]);
        let len = if ends { 0 } else { number(&piece, 8) };
        let start = at.checked_add(16)?;
        let bytes = file.get(start..start.checked_add(len)?)?.to_vec();
        put_sum(file, at + 12, &[&piece, &bytes]);
        at = start + len;
        if ends {
            return Some(());
        }
    }
}

/// The file of a machine at rest, with its checksums mended.
///
/// # Panics
/// If a piece of memory is beyond the memory, or one is taken that was sealed with another key.
pub fn machine(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    let _whole = mend(&mut file);
    let Ok(saved) = machine_state::parse(file.as_slice()) else { return };
    let memory = saved.head().memory;
    let filled = saved.fill(|at, bytes| {
        assert!(at.checked_add(bytes.len() as u64).is_some_and(|end| end <= memory));
        Ok(())
    });
    drop(filled);
    let Some(key) = Key::from_hex(&"07".repeat(32)) else { return };
    let opened = machine_state::parse(file.as_slice()).and_then(|saved| saved.unseal(key));
    assert!(opened.is_err(), "nobody has sealed that");
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 1] = [("store-machine", machine)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
