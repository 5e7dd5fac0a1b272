//! All streams in one file, which is replaced whole or not at all. It is a row of sections, each behind its length, and
//! all numbers are u64, little-endian:
//!
//! - what it is, the fingerprint of the model, then the number of each stream and the tokens that it has seen, in the
//!   order of their numbers, then a checksum of all that;
//! - for each layer, a saved cache, with a checksum of its own: lane i is the i-th stream's.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::batcher::Batcher;
use crate::model::Model;

const MAGIC: u64 = u64::from_le_bytes(*b"LMSERVE1");

/// FNV-1a, in 64 bits.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Saves all streams.
///
/// # Errors
/// Those of the file, and a lack of memory.
pub fn save(batcher: &Batcher, path: &Path) -> io::Result<()> {
    let streams = batcher.table();
    let lanes: Vec<_> = streams.iter().map(|stream| stream.lane).collect();
    let mut table: Vec<u8> = [MAGIC, batcher.model().fingerprint()]
        .into_iter()
        .chain(streams.iter().flat_map(|stream| [stream.id, stream.seen]))
        .flat_map(u64::to_le_bytes)
        .collect();
    table.extend(checksum(&table).to_le_bytes());

    // Cut off before the last line, it leaves the file of before.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    for section in [table].into_iter().chain(batcher.model().save(&lanes).map_err(io::Error::other)?) {
        file.write_all(&(section.len() as u64).to_le_bytes())?;
        file.write_all(&section)?;
    }
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// Goes on from a file, or from nothing where there is none.
///
/// # Errors
/// A file that cannot be read, is damaged, of another model, or of more streams than there may be.
pub fn load(mut model: Model, max_streams: usize, path: &Path) -> Result<Batcher, String> {
    let file = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Batcher::new(model, max_streams, &[]));
        }
        file => file.map_err(|error| format!("cannot read {path:?}: {error}"))?,
    };
    let damaged = || format!("{path:?} holds no streams, is cut short or was altered");
    let (table, caches) = sections(&file).ok_or_else(damaged)?;
    let (content, _) = table.split_last_chunk::<8>().ok_or_else(damaged)?;
    let numbers: Vec<_> = table.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let (fingerprint, streams) = match &numbers[..] {
        [MAGIC, fingerprint, streams @ .., sum] if *sum == checksum(content) => (fingerprint, streams),
        _ => return Err(damaged()),
    };
    if *fingerprint != model.fingerprint() {
        return Err(format!("{path:?} holds the streams of another model"));
    }
    let streams = streams.as_chunks().0;
    if streams.len() > max_streams {
        let open = streams.len();
        return Err(format!("{path:?} holds {open} streams, and {max_streams} are the most"));
    }
    model.restore(&caches, streams.len()).map_err(|error| format!("{path:?}: {error}"))?;
    Ok(Batcher::new(model, max_streams, streams))
}

/// The first section of a file, and the others.
fn sections(mut file: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut sections = Vec::new();
    while let Some((length, behind)) = file.split_first_chunk() {
        let section;
        (section, file) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        sections.push(section);
    }
    (file.is_empty() && !sections.is_empty()).then(|| (sections.remove(0), sections))
}
