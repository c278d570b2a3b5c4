//! Archives whose checksums are right: a fuzzer would look for them in vain.

const BLOCK: usize = 512;
const MAGIC: &[u8] = b"ustar";
const MAGIC_AT: usize = 257;
const SUM_AT: usize = 148;
const SUM_LENGTH: usize = 8;

/// A tar archive in which each block that looks like a header has the checksum of one.
#[must_use]
pub fn mend_archive(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if block.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC))
            && let Some(sum) = block.get_mut(SUM_AT..SUM_AT + SUM_LENGTH)
        {
            sum.fill(b' ');
            let total: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            if let Some(sum) = block.get_mut(SUM_AT..SUM_AT + SUM_LENGTH) {
                sum.copy_from_slice(format!("{total:06o}\0 ").as_bytes());
            }
        }
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_get_their_sums_and_all_else_stays() {
        let mut header = [0; BLOCK];
        header[MAGIC_AT..MAGIC_AT + 5].copy_from_slice(MAGIC);
        let archive = [&header[..], b"contents"].concat();
        let mended = mend_archive(&archive);
        // The magic is 559, eight spaces 256.
        assert_eq!(&mended[SUM_AT..SUM_AT + SUM_LENGTH], b"001457\0 ");
        assert_eq!(mended[BLOCK..], archive[BLOCK..]);
        assert_eq!(mended[..SUM_AT], archive[..SUM_AT]);
    }
}
