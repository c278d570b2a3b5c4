//! Machines in files, each with a note of what it is and what it depends on.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use aegis_store::machine_state::{self, Head, Key, MachineState, MachineStateError};
use aegis_vmm::{MemoryBuilder, Saved};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A state of a file: it is another one when it has been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    length: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl FileVersion {
    /// Of the file as it is now.
    pub fn of(path: &Path) -> io::Result<FileVersion> {
        use std::os::unix::fs::MetadataExt;
        let meta = path.metadata()?;
        Ok(FileVersion { length: meta.len(), modified_s: meta.mtime(), modified_ns: meta.mtime_nsec() })
    }
}

/// Writes a machine with a note; sealed, if there is a key. Returns the file's length, bytes. Blocks.
///
/// # Errors
/// As of [`machine_state::write`].
pub fn write(
    path: &Path,
    note: &impl Serialize,
    machine: &Saved,
    key: Option<&Key>,
) -> Result<u64, MachineStateError> {
    let note = serde_json::to_string(note).map_err(io::Error::from)?;
    let memory = &machine.memory;
    let head = Head { note, devices: machine.devices.clone(), memory: memory.bytes() };
    machine_state::write(path, &head, &memory.extents()?, |at, into| memory.read(at, into), key)
}

/// Reads all of a machine's file into memory of its own. Blocks.
///
/// # Errors
/// As of [`InFile::fill`].
pub fn load(file: MachineState<BufReader<File>>) -> Result<Saved, MachineStateError> {
    let draft = MemoryBuilder::new(file.head().memory)?;
    let head = file.fill(|at, bytes| draft.write(at, bytes))?;
    Ok(Saved { devices: head.devices, memory: draft.seal()? })
}

/// Opens a machine's file, and reads its note. Blocks.
///
/// # Errors
/// As of [`machine_state::open`]; [`MachineStateError::Damaged`] if the note is another version's.
pub fn open<N: DeserializeOwned>(
    path: &Path,
) -> Result<(N, MachineState<BufReader<File>>), MachineStateError> {
    let file = machine_state::open(path)?;
    let note = serde_json::from_str(&file.head().note);
    let note = note.map_err(|_| MachineStateError::Damaged("it was made by another version"))?;
    Ok((note, file))
}
