//! Reading the memory of a machine that stands still, out of its monitor's process.
//!
//! A machine that was booted shares its memory's file, which can simply be read. One that was started from a
//! [`Memory`] has changed pages of its own, which no file holds; they are read as a debugger would (`/proc/PID/mem`),
//! and the kernel tells which they are (`/proc/PID/pagemap`, see the kernel's `admin-guide/mm/pagemap.rst`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread::ScopedJoinHandle;

use super::arguments::MEMORY_FD;
use crate::memory::{self, Memory, MemoryBuilder, PAGE};

/// Read at once, bytes; stays in the processor's cache.
const PIECE: u64 = 256 << 10;
/// Threads that copy.
const COPIERS: usize = 2;

/// Flags of a page in `pagemap`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// Where a process has its machine's memory.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    private: bool,
}

/// Finds it in `/proc/PID/maps`: `start-end perms offset device inode path`.
fn find(maps: &str, bytes: u64) -> Option<Mapping> {
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let private = words.next()?.ends_with('p');
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = words.nth(2)?.strip_prefix("/memfd:")?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let whole = offset == 0 && end.checked_sub(start) == Some(bytes);
        (whole && name == memory::NAME).then_some(Mapping { start, private })
    })
}

/// What there is of a machine's memory, and where it is read.
struct Source {
    used: Vec<Range<u64>>,
    file: File,
    base: u64,
}

fn look(pid: i32, bytes: u64) -> io::Result<Source> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mapping = find(&maps, bytes).ok_or_else(|| io::Error::other("the machine's memory was not found"))?;
    let file = File::open(format!("/proc/{pid}/fd/{MEMORY_FD}"))?;
    let mut used = memory::extents(&file, bytes)?;
    if !mapping.private {
        return Ok(Source { used, file, base: 0 });
    }
    used = union(used, changed(pid, &mapping, bytes)?);
    Ok(Source { used, file: File::open(format!("/proc/{pid}/mem"))?, base: mapping.start })
}

/// Room for what a monitor's machine of this size has in its memory now; it may go on meanwhile. Blocks.
pub(super) fn reserve(pid: i32, bytes: u64) -> io::Result<MemoryBuilder> {
    let draft = MemoryBuilder::new(bytes)?;
    for range in look(pid, bytes)?.used {
        draft.reserve(range)?;
    }
    Ok(draft)
}

/// Copies what a monitor's machine of the draft's size has in its memory. The machine must stand still. Blocks.
pub(super) fn copy(pid: i32, draft: MemoryBuilder) -> io::Result<Memory> {
    let Source { used, file, base } = look(pid, draft.bytes())?;
    fill(&draft, &file, base, &pieces(&used))?;
    draft.seal()
}

/// Pages that the process has for itself.
fn changed(pid: i32, mapping: &Mapping, bytes: u64) -> io::Result<Vec<Range<u64>>> {
    let pagemap = &File::open(format!("/proc/{pid}/pagemap"))?;
    let page = PAGE as u64;
    let mut entries = vec![0; usize::try_from(bytes / page * 8).map_err(io::Error::other)?];
    let share = entries.len().div_ceil(COPIERS).max(8);
    let offsets = (mapping.start / page * 8..).step_by(share);
    // The kernel walks its tables for each entry: two threads are twice as fast.
    std::thread::scope(|scope| {
        let readers: Vec<_> = entries
            .chunks_mut(share)
            .zip(offsets)
            .map(|(part, at)| scope.spawn(move || pagemap.read_exact_at(part, at)))
            .collect();
        readers.into_iter().try_for_each(joined)
    })?;
    let (entries, _) = entries.as_chunks::<8>();
    Ok(own_pages(entries.iter().map(|entry| u64::from_ne_bytes(*entry))))
}

fn own_pages(entries: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let page = PAGE as u64;
    let own =
        entries.zip(0u64..).filter(|(entry, _)| entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0);
    let mut found: Vec<Range<u64>> = Vec::new();
    for (_, index) in own {
        let start = index * page;
        match found.last_mut() {
            Some(last) if last.end == start => last.end += page,
            _ => found.push(start..start + page),
        }
    }
    found
}

/// What is in one of them or in both, in order.
fn union(mut all: Vec<Range<u64>>, more: Vec<Range<u64>>) -> Vec<Range<u64>> {
    all.extend(more);
    all.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in all {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

fn pieces(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let cut = |range: &Range<u64>| {
        let end = range.end;
        (range.start..end)
            .step_by(usize::try_from(PIECE).unwrap_or(PAGE))
            .map(move |at| at..end.min(at + PIECE))
    };
    ranges.iter().flat_map(cut).collect()
}

fn fill(draft: &MemoryBuilder, source: &File, base: u64, pieces: &[Range<u64>]) -> io::Result<()> {
    let share = pieces.len().div_ceil(COPIERS).max(1);
    std::thread::scope(|scope| {
        let copiers: Vec<_> = pieces
            .chunks(share)
            .map(|pieces| scope.spawn(move || fill_some(draft, source, base, pieces)))
            .collect();
        copiers.into_iter().try_for_each(joined)
    })
}

/// The outcome of a thread.
fn joined(thread: ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a copier panicked")))
}

fn fill_some(draft: &MemoryBuilder, source: &File, base: u64, pieces: &[Range<u64>]) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(PIECE).map_err(io::Error::other)?];
    for piece in pieces {
        let len = usize::try_from(piece.end - piece.start).map_err(io::Error::other)?;
        let part = buffer.get_mut(..len).unwrap_or_default();
        source.read_exact_at(part, base + piece.start)?;
        draft.write(piece.start, part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_machines_memory_is_found_among_mappings() {
        let maps = "55d0-55e0 r--p 00000000 08:01 5 /usr/bin/qemu\n\
                    7f0000000000-7f0010000000 rw-p 00000000 00:01 9 /memfd:aegis-memory (deleted)\n";
        assert_eq!(find(maps, 256 << 20), Some(Mapping { start: 0x7f00_0000_0000, private: true }));
        assert_eq!(find(maps, 128 << 20), None);
        assert_eq!(find(&maps.replace("rw-p", "rw-s"), 256 << 20).map(|found| found.private), Some(false));
    }

    #[test]
    fn own_pages_are_those_that_are_there_and_no_files() {
        let file = PRESENT | OF_A_FILE;
        let found = own_pages([0, PRESENT, PRESENT | 5, file, SWAPPED, 0, file].into_iter());
        assert_eq!(found, [4096..12288, 16384..20480]);
    }

    proptest! {
        #[test]
        fn arbitrary_mappings_never_panic(text in "[0-9a-f-]{0,20} [rwxps-]{0,4} [0-9a-f]{0,9} .{0,60}", bytes: u64) {
            let _found = find(&text, bytes);
        }

        #[test]
        fn a_union_holds_what_either_holds_and_no_more(
            one in proptest::collection::vec((0u64..50, 1u64..5), 0..10),
            other in proptest::collection::vec((0u64..50, 1u64..5), 0..10),
        ) {
            let ranges = |list: &[(u64, u64)]| list.iter().map(|(at, len)| *at..at + len).collect::<Vec<_>>();
            let (one, other) = (ranges(&one), ranges(&other));
            let joined = union(one.clone(), other.clone());
            for at in 0..60 {
                let within = |list: &[Range<u64>]| list.iter().any(|range| range.contains(&at));
                prop_assert_eq!(within(&joined), within(&one) || within(&other));
            }
            prop_assert!(joined.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
