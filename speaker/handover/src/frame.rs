//! Words on the socket: a header of eight octets, then a word as JSON. Descriptors come with the header (`SCM_RIGHTS`).
//!
//! | octets | field |
//! | --- | --- |
//! | 2 | [`MAGIC`] |
//! | 2 | number of descriptors, at most [`FILES_MAX`] |
//! | 4 | length of the word, at most [`LONGEST`] |
//!
//! Numbers are big-endian. No input panics.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Begins every word.
pub const MAGIC: u16 = 0xfe1b;
/// Descriptors that come with one word: the kernel takes 253.
pub const FILES_MAX: usize = 200;
/// The longest word, in octets.
pub const LONGEST: u32 = 64 << 20;
/// The length of a header, in octets.
pub const HEADER: usize = 8;

/// What the two say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Word {
    /// The successor asks for the work.
    Hello {
        /// See [`crate::VERSION`].
        version: u32,
        /// The node it is to speak for.
        node: String,
    },
    /// The predecessor does not hand over.
    Refused {
        /// Why.
        reason: String,
    },
    /// A part of the work.
    Part {
        /// What it is.
        text: String,
    },
    /// The predecessor has said all that takes time to read.
    Complete,
    /// The successor has understood it.
    Ready,
    /// The work is the successor's.
    Go,
}

impl Word {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Word::Hello { .. } => "Hello",
            Word::Refused { .. } => "Refused",
            Word::Part { .. } => "Part",
            Word::Complete => "Complete",
            Word::Ready => "Ready",
            Word::Go => "Go",
        }
    }
}

/// Why something is no word.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It does not begin as one.
    #[error("it begins with {0:#06x}")]
    Magic(u16),
    /// Longer than [`LONGEST`].
    #[error("a word of {0} octets")]
    TooLong(u32),
    /// More or fewer descriptors than it says.
    #[error("{came} descriptors instead of {said}")]
    Files {
        /// In the header.
        said: usize,
        /// In fact.
        came: usize,
    },
    /// It is no JSON, or of another kind.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// What stands before a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Descriptors that come with it.
    pub files: usize,
    /// Octets that follow.
    pub length: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: [u8; HEADER]) -> Result<Header, Malformed> {
        let [m0, m1, f0, f1, length @ ..] = bytes;
        let magic = u16::from_be_bytes([m0, m1]);
        if magic != MAGIC {
            return Err(Malformed::Magic(magic));
        }
        let length = u32::from_be_bytes(length);
        if length > LONGEST {
            return Err(Malformed::TooLong(length));
        }
        let files = usize::from(u16::from_be_bytes([f0, f1]));
        Ok(Header { files, length })
    }

    /// Writes it.
    pub fn emit(self) -> [u8; HEADER] {
        let ([m0, m1], length) = (MAGIC.to_be_bytes(), self.length.to_be_bytes());
        let [f0, f1] = u16::try_from(self.files).unwrap_or(u16::MAX).to_be_bytes();
        let [l0, l1, l2, l3] = length;
        [m0, m1, f0, f1, l0, l1, l2, l3]
    }
}

/// Reads a word.
pub fn parse(word: &[u8]) -> Result<Word, Malformed> {
    Ok(serde_json::from_slice(word)?)
}

/// Sends a word.
pub(crate) fn send(mut stream: &UnixStream, word: &Word, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
    // Texts and numbers: there is nothing in it that JSON cannot say.
    let body = serde_json::to_vec(word).unwrap_or_default();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if length > LONGEST {
        return Err(Malformed::TooLong(length).into());
    }
    if files.len() > FILES_MAX {
        let (said, came) = (FILES_MAX, files.len());
        return Err(Malformed::Files { said, came }.into());
    }
    let header = Header {
        files: files.len(),
        length,
    };
    let raw: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let header = header.emit();
    let sent = loop {
        let header = [IoSlice::new(&header)];
        match sendmsg::<()>(stream.as_raw_fd(), &header, rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            sent => break sent.map_err(|errno| failed(errno.into()))?,
        }
    };
    stream
        .write_all(header.get(sent..).unwrap_or_default())
        .map_err(failed)?;
    stream.write_all(&body).map_err(failed)
}

/// The next word, with its descriptors.
pub(crate) fn receive(mut stream: &UnixStream) -> Result<(Word, Vec<OwnedFd>), Error> {
    let mut header = [0; HEADER];
    let (came, files) = receive_header(stream, &mut header)?;
    stream
        .read_exact(header.get_mut(came..).unwrap_or_default())
        .map_err(failed)?;
    let header = Header::parse(header)?;
    if header.files != files.len() {
        let (said, came) = (header.files, files.len());
        return Err(Malformed::Files { said, came }.into());
    }
    let mut body = Vec::new();
    let mut limited = stream.take(header.length.into());
    limited.read_to_end(&mut body).map_err(failed)?;
    if body.len() < header.length as usize {
        return Err(Error::Gone);
    }
    Ok((parse(&body)?, files))
}

fn receive_header(stream: &UnixStream, header: &mut [u8; HEADER]) -> Result<(usize, Vec<OwnedFd>), Error> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; FILES_MAX]);
    loop {
        let mut room = [IoSliceMut::new(header)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(stream.as_raw_fd(), &mut room, Some(&mut control), flags) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed(errno.into())),
            Ok(message) => message,
        };
        let mut files = Vec::new();
        for part in message.cmsgs().map_err(|errno| failed(errno.into()))? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                files.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        return match message.bytes {
            0 => Err(Error::Gone),
            bytes => Ok((bytes, files)),
        };
    }
}

fn failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Gone,
        _ => Error::Io(error),
    }
}
