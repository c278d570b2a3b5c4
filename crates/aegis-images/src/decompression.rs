//! Decompresses, hashes and reads an archive side by side: each alone would take one processor for as long.

use std::fs::File;
use std::io::{self, BufReader, Read};

use bytes::Bytes;
use tokio::sync::mpsc::{Sender, channel};

use crate::chunk_reader::ChunkReader;
use crate::compression::Compression;
use crate::digest::{Digest, Hasher};
use crate::error::ImageError;

const READ_BUFFER: usize = 256 << 10;
/// Size of the pieces that pass from one thread to the next, bytes.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a thread.
const PIECES: usize = 4;
/// Largest window of zstd, as a power of two: what a decoder may take of memory, 128 MiB.
const MOST_ZSTD_WINDOW: u32 = 27;

/// What something unpacks to.
pub(crate) fn decoder<'r>(packed: impl Read + 'r, packing: Compression) -> io::Result<Box<dyn Read + 'r>> {
    let packed = BufReader::with_capacity(READ_BUFFER, packed);
    Ok(match packing {
        Compression::Plain => Box::new(packed),
        Compression::Other(name) => {
            return Err(io::Error::other(format!("it is packed with {name}, which is not unpacked here")));
        }
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(MOST_ZSTD_WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// Hands what a blob unpacks to to `read`, and returns its digest too, which is right if `read` has read all of it. More
/// than `most` bytes are an error for the reader. Blocks.
pub(crate) fn inflated<T>(
    blob: File,
    packing: Compression,
    most: u64,
    read: impl FnOnce(&mut dyn Read) -> Result<T, ImageError>,
) -> Result<(T, Digest), ImageError> {
    std::thread::scope(|threads| {
        let (to_hash, mut hashed) = channel::<Bytes>(PIECES);
        let (to_read, received) = channel::<io::Result<Bytes>>(PIECES);
        threads.spawn(move || {
            if let Err(error) = inflate(blob, packing, most, &to_hash, &to_read) {
                // A reader that has gone has its reason.
                let _gone = to_read.blocking_send(Err(error));
            }
        });
        let hashing = threads.spawn(move || {
            let mut hasher = Hasher::default();
            while let Some(piece) = hashed.blocking_recv() {
                hasher.update(&piece);
            }
            hasher.finish()
        });
        // Dropped before the others are waited for: then they end, too.
        let value = read(&mut ChunkReader::new(received))?;
        Ok((value, hashing.join().map_err(|_| ImageError::BrokenOff)?))
    })
}

fn inflate(
    blob: File,
    packing: Compression,
    most: u64,
    to_hash: &Sender<Bytes>,
    to_read: &Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut decoder = decoder(blob, packing)?;
    let mut total = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut decoder).take(PIECE as u64).read_to_end(&mut piece)?;
        total += piece.len() as u64;
        if total > most {
            return Err(io::Error::other(format!("it unpacks to more than {most} bytes")));
        }
        let piece = Bytes::from(piece);
        let ended = piece.is_empty();
        if ended || to_hash.blocking_send(piece.clone()).is_err() || to_read.blocking_send(Ok(piece)).is_err()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn blob(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn all(archive: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).map_err(|error| ImageError::invalid(error.to_string()))?;
        Ok(bytes)
    }

    #[test]
    fn what_is_read_is_what_is_hashed() {
        let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        let (read, digest) = inflated(blob(&bytes), Compression::Plain, u64::MAX, all).unwrap();
        assert_eq!((read.len(), digest), (bytes.len(), Digest::of(&bytes)));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&bytes).unwrap();
        let (read, digest) =
            inflated(blob(&packed.finish().unwrap()), Compression::Gzip, u64::MAX, all).unwrap();
        assert_eq!((read, digest), (bytes.clone(), Digest::of(&bytes)));
    }

    #[test]
    fn a_bomb_is_an_error_and_a_reader_that_gives_up_ends_the_work() {
        let zeros = vec![0; 10 << 20];
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&zeros).unwrap();
        let packed = packed.finish().unwrap();
        let error = inflated(blob(&packed), Compression::Gzip, 1 << 20, all).unwrap_err().to_string();
        assert!(error.contains("more than 1048576"), "{error}");
        let gave_up =
            inflated(blob(&packed), Compression::Gzip, u64::MAX, |_| Err::<(), _>(ImageError::BrokenOff));
        assert!(matches!(gave_up, Err(ImageError::BrokenOff)));
        assert!(inflated(blob(b"no gzip"), Compression::Gzip, u64::MAX, all).is_err());
    }
}
