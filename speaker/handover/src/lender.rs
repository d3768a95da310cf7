//! The predecessor's side.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::frame::{Word, receive, send};
use crate::{Error, PATIENCE, Share, VERSION, admit};

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
pub struct Lender {
    stream: UnixStream,
    /// When what is under way comes to nothing.
    until: Instant,
}

impl Lender {
    /// Hears who asks for the work of the speaker of `node`. One that cannot have the work is told why.
    pub fn greet(stream: UnixStream, node: &str) -> Result<Lender, Error> {
        admit(&stream)?;
        let lender = Lender {
            stream,
            until: Instant::now() + PATIENCE,
        };
        let reason = match receive(&lender.stream)?.0 {
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
        send(&self.stream, &Word::Refused { reason }, &[])
    }

    /// Sends a part of the work.
    pub fn give(&self, share: &Share<'_>) -> Result<(), Error> {
        let text = share.text.clone();
        self.hurry()?;
        send(&self.stream, &Word::Part { text }, &share.files)
    }

    /// Says that this was all that takes time, and waits until the successor has understood it.
    pub fn complete(&mut self) -> Result<(), Error> {
        self.hurry()?;
        send(&self.stream, &Word::Complete, &[])?;
        match receive(&self.stream)?.0 {
            Word::Ready => {
                self.until = Instant::now() + PATIENCE;
                Ok(())
            }
            word => Err(Error::OutOfTurn(word.name())),
        }
    }

    /// Gives the work away. After an error it is still here.
    pub fn go(self) -> Result<Heir, Error> {
        self.hurry()?;
        send(&self.stream, &Word::Go, &[])?;
        Ok(Heir(self.stream))
    }

    /// The next word has the time that is left: a successor that takes its time for each does not keep the work at rest.
    fn hurry(&self) -> Result<(), Error> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Silent);
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))?;
        Ok(())
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
