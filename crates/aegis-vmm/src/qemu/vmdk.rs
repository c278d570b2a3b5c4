//! VMDK descriptors of concatenated flat extents: several files as one disk, without copying.
//!
//! The format is that of VMware's *Virtual Disk Format 1.1*, in the little of it that QEMU's driver reads.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Unit of extents, bytes.
const SECTOR: u64 = 512;
/// Longest path of an extent, bytes: what QEMU's driver reads of one.
const MOST_PATH: usize = 511;

/// The descriptor for files of these sizes. No line of it is empty: QEMU would take the line after it for two.
fn descriptor(parts: &[(PathBuf, u64)]) -> Result<String, String> {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n",
    );
    for (path, bytes) in parts {
        let name = path.to_str().filter(|name| name.len() <= MOST_PATH && !name.contains(['"', '\n', '\r']));
        let name = name.ok_or_else(|| format!("QEMU cannot be told of the file {}", path.display()))?;
        if bytes % SECTOR != 0 {
            return Err(format!("{name} ends within a sector"));
        }
        // Read-only is said of the whole: the driver knows no other word here.
        let _infallible = writeln!(text, "RW {} FLAT \"{name}\" 0", bytes / SECTOR);
    }
    Ok(text)
}

/// Writes the descriptor of a disk that consists of `parts`.
pub(super) fn write(at: &Path, parts: &[&Path]) -> io::Result<()> {
    let sized = parts.iter().map(|part| Ok((part.to_path_buf(), std::fs::metadata(part)?.len())));
    let sized = sized.collect::<io::Result<Vec<_>>>()?;
    std::fs::write(at, descriptor(&sized).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_follow_each_other_in_sectors() {
        let text = descriptor(&[("/a".into(), 4096), ("/b".into(), 8192)]).unwrap();
        assert!(!text.contains("\n\n"), "an empty line doubles the extent after it");
        assert!(text.ends_with("RW 8 FLAT \"/a\" 0\nRW 16 FLAT \"/b\" 0\n"));
    }

    #[test]
    fn a_path_cannot_say_more_than_its_name() {
        for bad in ["/a\" 0\nRW 1 FLAT \"/etc/shadow", "/a\nb", &"/x".repeat(300)] {
            assert!(descriptor(&[(bad.into(), 512)]).is_err(), "{bad}");
        }
        assert!(descriptor(&[("/a".into(), 100)]).is_err());
    }
}
