//! The allocator's memory.

/// Gives memory back to the system that the allocator holds free, if that is more than `most` bytes: after a burst it keeps
/// what the burst took. Takes some milliseconds for each 100 MB. Does nothing with allocators that do so by themselves.
pub fn give_back(most: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: neither call takes pointers, and both may be made at any time from any thread.
    unsafe {
        if libc::mallinfo2().fordblks > most {
            libc::malloc_trim(0);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _nothing_to_do = most;
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_a_burst_took_is_given_back() {
        // Memory of this process that is no file's, KiB.
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        // Too small to be mapped one by one, and the last of them keeps the heap from shrinking by itself.
        let mut pieces: Vec<Vec<u8>> = (0..20_000).map(|_| vec![1; 4096]).collect();
        let last = pieces.pop();
        assert!(resident() > before + 70_000);
        drop(pieces);
        give_back(16 << 20);
        let after = resident();
        assert!(after < before + 20_000, "{before} {after}");
        drop(last);
    }
}
