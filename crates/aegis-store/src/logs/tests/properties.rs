//! What holds for all payloads and all files.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Any stream of any source, as the generator sees it.
fn entry() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    (0..3u8, 1..3u8, prop::collection::vec(any::<u8>(), 0..300))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_survive_rotation_reopening_and_splits(
        entries in prop::collection::vec((entry(), any::<bool>()), 1..60),
        segment_bytes in 1..3000u64,
        segments in 1..40usize,
        large in prop::option::of(0..60usize),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { segment_bytes, segments };
        let mut writer = LogWriter::open(dir.path(), limits).unwrap();
        let mut follower = LogReader::open(dir.path()).unwrap();
        let mut followed = Vec::new();
        let mut model: Vec<(u8, u8, u64, Vec<u8>)> = Vec::new();
        let mut ends: BTreeMap<(u8, u8), u64> = BTreeMap::new();
        for (index, ((source, stream, mut payload), reopen)) in entries.into_iter().enumerate() {
            if large == Some(index) {
                payload = payload.into_iter().chain([1, 2, 3]).cycle().take(MAX_PAYLOAD + 1000).collect();
            }
            let end = ends.entry((source, stream)).or_default();
            let sources = [LogSource::Primary, LogSource::Exec, LogSource::System];
            let new = NewRecord {
                source: sources[usize::from(source)],
                exec: (source == 1).then_some("exec-1"),
                ..primary([LogStream::Stdout, LogStream::Stderr][usize::from(stream) - 1], *end, &payload)
            };
            let seq = writer.append(new).unwrap();
            for part in payload.chunks(MAX_PAYLOAD).chain(payload.is_empty().then_some(&payload[..])) {
                model.push((source, stream, *end, part.to_vec()));
                *end += part.len() as u64;
            }
            prop_assert_eq!(seq, model.len() as u64);
            followed.extend(drain(&mut follower));
            if reopen {
                drop(writer);
                writer = LogWriter::open(dir.path(), limits).unwrap();
                prop_assert_eq!(writer.last_seq(), model.len() as u64);
            }
        }
        for (stream, name) in [(1, LogStream::Stdout), (2, LogStream::Stderr)] {
            let expected = ends.get(&(0, stream)).copied().unwrap_or(0);
            prop_assert_eq!(writer.resume_offset(1, name), expected);
        }
        let check = |records: &[LogRecord]| {
            for record in records {
                let (source, stream, offset, payload) = &model[usize::try_from(record.seq).unwrap() - 1];
                assert_eq!((record.source as u8, record.stream as u8), (*source, *stream));
                assert_eq!((record.offset, &record.payload[..]), (*offset, &payload[..]));
            }
        };
        let kept = read_all(dir.path());
        let total = model.len() as u64;
        prop_assert_eq!(seqs(&kept), (total - kept.len() as u64 + 1..=total).collect::<Vec<_>>());
        check(&kept);
        check(&followed);
        prop_assert!(followed.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        if large.is_none() {
            prop_assert_eq!(seqs(&followed), (1..=total).collect::<Vec<_>>());
        }
        prop_assert!(segment::list(dir.path()).unwrap().len() <= segments);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        junk in prop::collection::vec(any::<u8>(), 0..400),
        good in 0..5u64,
        flip in prop::option::of((any::<prop::sample::Index>(), 1..=255u8)),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
        fill(&mut writer, good);
        drop(writer);
        let path = path_of(dir.path(), 1);
        let mut bytes = fs::read(&path).unwrap();
        let sound = flip.is_none();
        if let Some((at, bits)) = flip {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        bytes.extend_from_slice(&junk);
        fs::write(&path, &bytes).unwrap();

        let before = read_all(dir.path());
        prop_assert!(before.len() as u64 <= good && (!sound || before.len() as u64 == good));
        let mut reader = LogReader::open(dir.path()).unwrap();
        reader.tail_lines(2).unwrap();
        drain(&mut reader);
        let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
        writer.append(stdout(0, b"after")).unwrap();
        let after = read_all(dir.path());
        prop_assert_eq!(&after[..after.len() - 1], &before[..]);
        prop_assert_eq!(&after[after.len() - 1].payload[..], b"after");
    }

    #[test]
    fn a_file_of_junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..600)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path_of(dir.path(), 1), &junk).unwrap();
        prop_assert!(read_all(dir.path()).is_empty());
        // Also behind a valid header, where junk is taken for records.
        let header = segment::Header { first_seq: 1, positions: segment::Positions::default() }.encode();
        fs::write(path_of(dir.path(), 1), [&header[..], &junk].concat()).unwrap();
        prop_assert!(read_all(dir.path()).is_empty());
    }
}
