//! The one layer of an image: a tar archive that is the same for the same files, whenever and wherever it is made.

use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::capability::{Capability, PAX_KEY, attribute};
use crate::{Error, digest};

/// A program of an image.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Its name in the root folder.
    pub name: &'a str,
    /// The executable; a static one, unless there are libraries beside it.
    pub executable: &'a [u8],
    /// User and group that it runs as, unless a pod says otherwise; [`USER`](crate::USER) but for good reason.
    pub user: u32,
    /// What it starts with in effect, although it is not started by root. See [`attribute`].
    pub capabilities: &'a [Capability],
    /// What else is in the image: the loader and the libraries of an executable that is not static, as programs of tests are.
    pub libraries: &'a [Library<'a>],
}

/// A file that a program needs to start.
#[derive(Debug, Clone, Copy)]
pub struct Library<'a> {
    /// Where the program looks for it, without a leading slash.
    pub path: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// A layer, packed.
pub(crate) struct Layer {
    /// The gzip stream.
    pub(crate) packed: Vec<u8>,
    /// Digest of the tar archive inside.
    pub(crate) diff_id: String,
    /// Bytes of the tar archive inside.
    pub(crate) unpacked: u64,
}

impl Layer {
    /// Packs a program with the time of the sources, in seconds since 1970, as the time of its last change.
    pub(crate) fn pack(program: &Program<'_>, epoch: u64) -> Result<Self, Error> {
        let tar = archive(program, epoch).map_err(Error::Tar)?;
        let packed = gzip(&tar).map_err(Error::Tar)?;
        Ok(Self {
            packed,
            diff_id: digest(&tar),
            unpacked: tar.len() as u64,
        })
    }
}

fn archive(program: &Program<'_>, epoch: u64) -> std::io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    if !program.capabilities.is_empty() {
        let value = attribute(program.capabilities);
        tar.append_pax_extensions([(PAX_KEY, &value[..])])?;
    }
    // Root's, and for nobody to write: the program cannot change itself.
    let mut header = file_header(program.executable.len(), 0o755, epoch);
    tar.append_data(&mut header, program.name, program.executable)?;
    for library in program.libraries {
        let mut header = file_header(library.bytes.len(), 0o755, epoch);
        tar.append_data(&mut header, library.path, library.bytes)?;
    }
    tar.into_inner()
}

/// The header of a plain file of root.
pub(crate) fn file_header(size: usize, mode: u32, epoch: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header
}

/// No name and no time in its header, which would differ from build to build.
fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A packed tar archive of files of root, each with a name, its bytes and its mode; the same files give the same bytes.
///
/// # Errors
/// When a name cannot stand in an archive.
pub fn bundle(files: &[(&str, &[u8], u32)], epoch: u64) -> Result<Vec<u8>, Error> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = file_header(bytes.len(), *mode, epoch);
        tar.append_data(&mut header, name, *bytes).map_err(Error::Tar)?;
    }
    tar.into_inner().and_then(|tar| gzip(&tar)).map_err(Error::Tar)
}
