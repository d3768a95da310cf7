//! The predecessor's side.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::frame::{Word, receive, send};
use crate::{Error, Share, VERSION, admit};

/// Where a successor knocks.
#[derive(Debug)]
pub struct Door(UnixListener);

impl Door {
    /// Opens it, in place of that of a predecessor: for its owner and its group, who is then asked for the user
    /// ([`Lender::greet`]). In a directory of the speaker's the group is root's, so that a speaker that runs as root finds out
    /// whether this one still runs.
    pub fn open(path: &Path) -> io::Result<Door> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok(Door(listener))
    }

    /// Waits for somebody, whom [`Lender::greet`] then hears.
    pub fn accept(&self) -> io::Result<UnixStream> {
        self.0.accept().map(|(stream, _)| stream)
    }
}

/// A predecessor that has been asked for the work.
#[derive(Debug)]
pub struct Lender(UnixStream);

impl Lender {
    /// Hears who asks for the work of the speaker of `node`. One that cannot have the work is told why.
    pub fn greet(stream: UnixStream, node: &str) -> Result<Lender, Error> {
        admit(&stream)?;
        let lender = Lender(stream);
        let reason = match receive(&lender.0)?.0 {
            Word::Hello {
                version: VERSION,
                node: theirs,
            } if theirs == node => return Ok(lender),
            Word::Hello { version, .. } if version != VERSION => {
                format!("it speaks version {VERSION} of the hand-over, and was asked in version {version}")
            }
            Word::Hello { node: theirs, .. } => format!("it is the speaker of {node:?}, and was asked for {theirs:?}"),
            word => return Err(Error::OutOfTurn(word.name())),
        };
        lender.refuse(&reason)?;
        Err(Error::Refused(reason))
    }

    /// Keeps the work.
    pub fn refuse(self, reason: &str) -> Result<(), Error> {
        let reason = reason.to_owned();
        send(&self.0, &Word::Refused { reason }, &[])
    }

    /// Sends a part of the work.
    pub fn give(&self, share: &Share<'_>) -> Result<(), Error> {
        let text = share.text.clone();
        send(&self.0, &Word::Part { text }, &share.files)
    }

    /// Says that this was all that takes time, and waits until the successor has understood it.
    pub fn complete(&self) -> Result<(), Error> {
        send(&self.0, &Word::Complete, &[])?;
        match receive(&self.0)?.0 {
            Word::Ready => Ok(()),
            word => Err(Error::OutOfTurn(word.name())),
        }
    }

    /// Gives the work away. After an error it is still here.
    pub fn go(self) -> Result<Heir, Error> {
        send(&self.0, &Word::Go, &[])?;
        Ok(Heir(self.0))
    }
}

/// The successor, once it has the work.
#[derive(Debug)]
pub struct Heir(UnixStream);

impl Heir {
    /// Waits until it has ended.
    pub fn ended(&self) {
        // It says nothing more: whatever comes, but silence, is the end.
        while matches!(self.0.set_read_timeout(None::<Duration>), Ok(())) && receive(&self.0).is_ok() {}
    }
}
