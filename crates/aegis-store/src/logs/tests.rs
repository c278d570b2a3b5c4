use std::process::Command;
use std::time::Instant;

use super::segment::path_of;
use super::*;

mod properties;

const TINY: LogLimits = LogLimits { segment_bytes: 600, segments: 3 };
const ROOMY: LogLimits = LogLimits { segment_bytes: 1 << 30, segments: 3 };

fn primary(stream: LogStream, offset: u64, payload: &[u8]) -> NewRecord<'_> {
    NewRecord { at_ms: 5, boot: 1, source: LogSource::Primary, stream, exec: None, offset, payload }
}

fn stdout(offset: u64, payload: &[u8]) -> NewRecord<'_> {
    primary(LogStream::Stdout, offset, payload)
}

fn drain(reader: &mut LogReader) -> Vec<LogRecord> {
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn read_all(dir: &Path) -> Vec<LogRecord> {
    drain(&mut LogReader::open(dir).unwrap())
}

fn seqs(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

fn text(records: &[LogRecord]) -> String {
    records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
}

/// Writes lines of 100 bytes, several segments of them.
fn fill(writer: &mut LogWriter, lines: u64) {
    for n in 0..lines {
        writer.append(stdout(n * 100, format!("{n:099}\n").as_bytes())).unwrap();
    }
}

#[test]
fn a_log_that_grows_ends_where_it_ended_when_it_was_asked_for() {
    for limits in [TINY, LogLimits::default(), LogLimits { segment_bytes: 1, segments: 100 }] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), limits).unwrap();
        for line in ["a\n", "b\n", "c\n"] {
            writer.append(stdout(0, line.as_bytes())).unwrap();
        }
        let end = writer.last_seq();
        let mut flood = |text: &[u8]| writer.append(stdout(0, text)).unwrap();
        let mut reader = LogReader::open(dir.path()).unwrap();
        reader.set_end(Some(end));
        flood(b"later\n");
        reader.tail_lines(2).unwrap();
        let mut seen = String::new();
        // Each record that is read is followed by another.
        while let Some(record) = reader.next().unwrap() {
            seen.push_str(std::str::from_utf8(&record.payload).unwrap());
            flood(b"flood\n");
        }
        assert_eq!(seen, "b\nc\n");
        assert!(reader.next().unwrap().is_none());
        reader.tail_lines(0).unwrap();
        reader.set_end(None);
        let rest = text(&drain(&mut reader));
        assert!(rest.starts_with("later\nflood\n") && !rest.contains("c\n"), "{rest}");
    }
}

#[test]
fn a_log_that_rotates_past_its_end_is_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), LogLimits { segment_bytes: 1, segments: 2 }).unwrap();
    let end = writer.append(stdout(0, b"a\n")).unwrap();
    let mut reader = LogReader::open(dir.path()).unwrap();
    reader.set_end(Some(end));
    for _ in 0..5 {
        writer.append(stdout(0, b"later\n")).unwrap();
    }
    reader.seek_seq(0).unwrap();
    assert!(reader.next().unwrap().is_none());
    reader.tail_lines(3).unwrap();
    assert!(reader.next().unwrap().is_none());
}

#[test]
fn a_record_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
    let id = "e".repeat(MAX_EXEC_ID);
    let record = NewRecord {
        at_ms: u64::MAX,
        boot: 9,
        source: LogSource::Exec,
        stream: LogStream::Stderr,
        exec: Some(&id),
        offset: 77,
        payload: b"\0\xff\n",
    };
    assert_eq!(writer.append(record).unwrap(), 1);
    let too_long = writer.append(NewRecord { exec: Some(&format!("{id}x")), ..record });
    assert!(matches!(too_long, Err(LogError::ExecIdTooLong { length: 65 })));
    let system = NewRecord { source: LogSource::System, stream: LogStream::None, exec: None, ..record };
    assert_eq!(writer.append(NewRecord { payload: b"", ..system }).unwrap(), 2);
    let expected = LogRecord {
        seq: 1,
        at_ms: u64::MAX,
        boot: 9,
        source: LogSource::Exec,
        stream: LogStream::Stderr,
        exec: Some(id),
        offset: 77,
        payload: Bytes::from_static(b"\0\xff\n"),
    };
    let records = read_all(dir.path());
    assert_eq!(records[0], expected);
    assert_eq!((records[1].payload.len(), &records[1].exec), (0, &None));
    assert_eq!(records.len(), 2);
}

#[test]
fn long_payloads_are_split_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
    let payload: Vec<u8> = (0..=255u8).cycle().take(2 * MAX_PAYLOAD + 10).collect();
    assert_eq!(writer.append(stdout(1000, &payload)).unwrap(), 3);
    let records = read_all(dir.path());
    let step = MAX_PAYLOAD as u64;
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), [1000, 1000 + step, 1000 + 2 * step]);
    let joined: Vec<u8> = records.iter().flat_map(|r| r.payload.iter().copied()).collect();
    assert!(joined == payload);
    assert_eq!(writer.resume_offset(1, LogStream::Stdout), 1000 + payload.len() as u64);
}

#[test]
fn rotation_keeps_the_newest_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    fill(&mut writer, 40);
    let segments = segment::list(dir.path()).unwrap();
    assert_eq!(segments.len(), 3);
    for first in segments {
        assert!(fs::metadata(path_of(dir.path(), first)).unwrap().len() <= TINY.segment_bytes);
    }
    let kept = seqs(&read_all(dir.path()));
    assert_eq!(kept, (*kept.first().unwrap()..=40).collect::<Vec<_>>());
    assert!(kept.len() >= 8, "{kept:?}");
    // Lowered limits take effect when the log is opened.
    drop(writer);
    LogWriter::open(dir.path(), LogLimits { segments: 0, ..TINY }).unwrap();
    assert_eq!(segment::list(dir.path()).unwrap().len(), 1);
}

#[test]
fn positions_survive_rotation_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    writer.append(primary(LogStream::Stderr, 0, b"only line of stderr")).unwrap();
    writer.append(NewRecord { boot: 2, ..stdout(5, b"12345") }).unwrap();
    let other = NewRecord { source: LogSource::Exec, exec: Some("e"), boot: 2, ..stdout(0, &[b'x'; 150]) };
    for _ in 0..40 {
        writer.append(other).unwrap();
    }
    assert!(seqs(&read_all(dir.path()))[0] > 2);
    for round in 0..2 {
        assert_eq!(writer.resume_offset(1, LogStream::Stderr), 19, "{round}");
        assert_eq!(writer.resume_offset(1, LogStream::Stdout), 0);
        assert_eq!(writer.resume_offset(2, LogStream::Stdout), 10);
        assert_eq!(writer.resume_offset(3, LogStream::Stdout), 0);
        drop(writer);
        writer = LogWriter::open(dir.path(), TINY).unwrap();
    }
    // Many boots later the old ones are forgotten and the newest is known.
    for boot in 3..100 {
        writer.append(NewRecord { boot, ..stdout(0, &[b'x'; 150]) }).unwrap();
    }
    drop(writer);
    let writer = LogWriter::open(dir.path(), TINY).unwrap();
    assert_eq!(writer.resume_offset(99, LogStream::Stdout), 150);
    assert_eq!(writer.resume_offset(84, LogStream::Stdout), 150);
    assert_eq!(writer.resume_offset(83, LogStream::Stdout), 0);
    assert_eq!(writer.last_seq(), 42 + 97);
}

#[test]
fn truncation_anywhere_yields_the_whole_records_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
    let path = path_of(dir.path(), 1);
    let mut ends = vec![fs::metadata(&path).unwrap().len()];
    for n in 0..6u64 {
        writer.append(stdout(n * 10, &b"0123456789"[..usize::try_from(n).unwrap() * 2])).unwrap();
        ends.push(fs::metadata(&path).unwrap().len());
    }
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        let torn = tempfile::tempdir().unwrap();
        fs::write(path_of(torn.path(), 1), &whole[..cut]).unwrap();
        let complete = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1) as u64;
        let expected: Vec<u64> = (1..=complete).collect();
        assert_eq!(seqs(&read_all(torn.path())), expected, "cut at {cut}");
        let mut writer = LogWriter::open(torn.path(), ROOMY).unwrap();
        assert_eq!(writer.last_seq(), complete);
        assert_eq!(writer.append(stdout(0, b"next")).unwrap(), complete + 1);
        assert_eq!(seqs(&read_all(torn.path())), (1..=complete + 1).collect::<Vec<_>>(), "cut at {cut}");
    }
}

#[test]
fn a_segment_torn_at_its_birth_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    fill(&mut writer, 6);
    drop(writer);
    fs::write(path_of(dir.path(), 9), b"AEGIS").unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    // Numbers below the lost segment's are not used again either.
    assert_eq!(writer.append(stdout(600, b"x")).unwrap(), 9);
    assert_eq!(seqs(&read_all(dir.path())), [1, 2, 3, 4, 5, 6, 9]);
    assert_eq!(writer.resume_offset(1, LogStream::Stdout), 601);
}

#[test]
fn a_reader_follows_the_writer_through_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = LogReader::open(dir.path().join("log")).unwrap();
    assert_eq!(reader.next().unwrap(), None);
    let mut writer = LogWriter::open(dir.path().join("log"), TINY).unwrap();
    let mut newest = writer.subscribe();
    assert_eq!(*newest.borrow_and_update(), 0);
    for n in 1..=50u64 {
        writer.append(stdout(n * 100, &[b'x'; 100])).unwrap();
        assert!(newest.has_changed().unwrap());
        assert_eq!(*newest.borrow_and_update(), n);
        assert_eq!(seqs(&drain(&mut reader)), [n]);
        assert_eq!(reader.next().unwrap(), None);
    }
    drop(writer);
    assert!(newest.has_changed().is_err());
}

#[test]
fn an_overtaken_reader_goes_on_with_the_oldest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    fill(&mut writer, 2);
    let mut reader = LogReader::open(dir.path()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().seq, 1);
    fill(&mut writer, 60);
    let rest = seqs(&drain(&mut reader));
    // What its open segment still held, then a gap, then all that is kept.
    let kept = seqs(&read_all(dir.path()));
    assert_eq!(rest[0], 2);
    assert!(rest.ends_with(&kept) && rest.len() < 60, "{rest:?}");
}

#[test]
fn concurrent_reading_sees_every_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits { segment_bytes: 20_000, segments: 1000 };
    let mut writer = LogWriter::open(dir.path(), limits).unwrap();
    let newest = writer.subscribe();
    let mut reader = LogReader::open(dir.path()).unwrap();
    let reading = std::thread::spawn(move || {
        let mut seen = Vec::new();
        loop {
            let ended = newest.has_changed().is_err();
            seen.extend(drain(&mut reader));
            if ended {
                return seen;
            }
        }
    });
    for n in 0..5000u64 {
        let payload = vec![b'x'; usize::try_from(n * 7919 % 900).unwrap()];
        writer.append(stdout(n, &payload)).unwrap();
    }
    drop(writer);
    let seen = reading.join().unwrap();
    assert_eq!(seqs(&seen), (1..=5000).collect::<Vec<_>>());
    assert!(seen.iter().zip(0u64..).all(|(r, n)| r.payload.len() as u64 == n * 7919 % 900));
}

#[test]
fn a_torn_end_that_is_replaced_is_read_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
    writer.append(stdout(0, b"one")).unwrap();
    let mut reader = LogReader::open(dir.path()).unwrap();
    let path = path_of(dir.path(), 1);
    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[whole.len() - 47..][..46]);
    fs::write(&path, torn).unwrap();
    assert_eq!(seqs(&drain(&mut reader)), [1]);
    drop(writer);
    let mut writer = LogWriter::open(dir.path(), ROOMY).unwrap();
    writer.append(stdout(3, b"two")).unwrap();
    assert_eq!(text(&drain(&mut reader)), "two");
}

#[test]
fn seeking_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    fill(&mut writer, 30);
    let oldest = seqs(&read_all(dir.path()))[0];
    let mut reader = LogReader::open(dir.path()).unwrap();
    for seq in 0..=30 {
        reader.seek_seq(seq).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().seq, seq.max(oldest));
    }
    reader.seek_seq(32).unwrap();
    assert_eq!(reader.next().unwrap(), None);
    fill(&mut writer, 3);
    assert_eq!(seqs(&drain(&mut reader)), [32, 33]);
}

#[test]
fn the_last_lines() {
    let cases: [(&[&str], usize, &str); 9] = [
        (&["a\nb\nc\n"], 2, "b\nc\n"),
        (&["a\nb\nc"], 2, "b\nc"),
        (&["a\n", "b\n", "c\n"], 1, "c\n"),
        (&["a\nlong ", "line\n", "c"], 2, "long line\nc"),
        (&["a\n", "b\n"], 9, "a\nb\n"),
        (&["a\n", "b"], 0, ""),
        (&["a", "\n"], 1, "a\n"),
        (&["a\n", "", "\n\n"], 2, "\n\n"),
        (&[], 3, ""),
    ];
    for (payloads, lines, expected) in cases {
        for limits in [TINY, LogLimits { segment_bytes: 1, segments: 100 }] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = LogWriter::open(dir.path(), limits).unwrap();
            let mut offset = 0;
            for payload in payloads {
                writer.append(stdout(offset, payload.as_bytes())).unwrap();
                offset += payload.len() as u64;
            }
            let mut reader = LogReader::open(dir.path()).unwrap();
            reader.tail_lines(lines).unwrap();
            let tail = drain(&mut reader);
            assert_eq!(text(&tail), expected, "{payloads:?} {lines}");
            // Offsets are those of what is returned, and what comes later follows.
            assert!(tail.first().is_none_or(|r| r.offset + expected.len() as u64 == offset));
            writer.append(stdout(offset, b"later")).unwrap();
            assert_eq!(text(&drain(&mut reader)), "later");
        }
    }
}

#[test]
fn the_primary_from_given_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), TINY).unwrap();
    writer.append(stdout(0, b"hello ")).unwrap();
    writer.append(primary(LogStream::Stderr, 0, b"oops")).unwrap();
    writer.append(NewRecord { source: LogSource::System, ..stdout(0, b"system") }).unwrap();
    writer.append(NewRecord { boot: 2, ..stdout(0, b"next boot") }).unwrap();
    writer.append(stdout(6, b"world")).unwrap();
    // Sent twice by a guest that lost the acknowledgement.
    writer.append(stdout(3, b"lo world!")).unwrap();
    for (from, expected) in [(0, "hello oopsworld!"), (4, "o oopsworld!"), (6, "oopsworld!"), (12, "oops")] {
        let mut reader = LogReader::open(dir.path()).unwrap().primary_from(1, from, 0);
        let found: Vec<LogRecord> = std::iter::from_fn(|| reader.next().unwrap()).collect();
        assert_eq!(text(&found), expected);
        let first = found.iter().find(|r| r.stream == LogStream::Stdout);
        assert!(first.is_none_or(|r| r.offset == from));
    }
    let mut reader = LogReader::open(dir.path()).unwrap().primary_from(1, 99, 2);
    assert_eq!(reader.next().unwrap().unwrap().payload, &b"ps"[..]);
    assert_eq!(reader.next().unwrap(), None);
}

#[test]
fn removing_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fill(&mut LogWriter::open(&log, TINY).unwrap(), 20);
    fs::write(log.join("console.log"), "x").unwrap();
    remove_all(&log).unwrap();
    remove_all(&log).unwrap();
    assert!(!log.exists() && dir.path().exists());
}

/// Runs the test below in a process whose files may not grow beyond 64 KiB: writes then fail, and some only
/// after a part, as on a full disk.
#[test]
fn a_full_disk_leaves_whole_records_and_a_usable_writer() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact --ignored --nocapture \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg("logs::tests::in_a_process_with_limited_files")
        .env("AEGIS_TEST_LIMITED", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by a_full_disk_leaves_whole_records_and_a_usable_writer"]
fn in_a_process_with_limited_files() {
    let dir = PathBuf::from(std::env::var_os("AEGIS_TEST_LIMITED").unwrap());
    let mut writer = LogWriter::open(&dir, ROOMY).unwrap();
    let payload = [b'x'; 10_000];
    let mut written = 0;
    let error = loop {
        match writer.append(stdout(written * 10_000, &payload)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Append { kept: 0, .. }), "{error:?}");
    assert_eq!(written, 6);
    let length = fs::metadata(path_of(&dir, 1)).unwrap().len();
    assert_eq!(length, 24 + written * 10_044);
    assert_eq!(read_all(&dir).len(), 6);
    assert_eq!(writer.resume_offset(1, LogStream::Stdout), 60_000);
    // What is short still fits, a longer one tells how much of it is kept, and room means success again.
    assert_eq!(writer.append(stdout(60_000, b"short")).unwrap(), 7);
    drop(writer);
    let mut writer = LogWriter::open(&dir, LogLimits { segment_bytes: 50_000, ..ROOMY }).unwrap();
    assert_eq!(writer.append(stdout(60_005, &payload)).unwrap(), 8);
    let long = vec![b'y'; MAX_PAYLOAD + 1];
    assert!(matches!(writer.append(stdout(70_005, &long)), Err(LogError::Append { kept: 0, .. })));
    assert_eq!(writer.append(stdout(70_005, b"end")).unwrap(), 9);
    assert_eq!(seqs(&read_all(&dir)), (1..=9).collect::<Vec<_>>());
}

/// `cargo test --release -p aegis-store -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement"]
fn measure_throughput() {
    for size in [128, 4096, 65_536, MAX_PAYLOAD] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), LogLimits::default()).unwrap();
        let payload = vec![b'x'; size];
        let total = if size < 1000 { 64 << 20 } else { 512 << 20 };
        let begun = Instant::now();
        for n in 0..total / size {
            writer.append(stdout((n * size) as u64, &payload)).unwrap();
        }
        let append = begun.elapsed();
        drop(writer);
        let begun = Instant::now();
        drop(LogWriter::open(dir.path(), LogLimits::default()).unwrap());
        let reopen = begun.elapsed();
        let begun = Instant::now();
        let mut reader = LogReader::open(dir.path()).unwrap();
        let mut bytes = 0;
        while let Some(record) = reader.next().unwrap() {
            bytes += record.payload.len();
        }
        let read = begun.elapsed();
        let begun = Instant::now();
        reader.tail_lines(100).unwrap();
        let rate = |bytes: usize, took: std::time::Duration| bytes as f64 / 1e6 / took.as_secs_f64();
        println!(
            "{size:>6} B: append {:.0} MB/s, read {:.0} MB/s, open for writing {reopen:?}, tail {:?}",
            rate(total, append),
            rate(bytes, read),
            begun.elapsed(),
        );
    }
}
