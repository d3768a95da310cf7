//! The successor's side.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::frame::{Word, receive, send};
use crate::{Error, Part, VERSION, admit};

/// A successor that asks for the work.
#[derive(Debug)]
pub struct Borrower(UnixStream);

impl Borrower {
    /// Knocks; `None` if nobody is there.
    pub fn connect(path: &Path) -> Result<Option<Borrower>, Error> {
        match UnixStream::connect(path) {
            Ok(stream) => Borrower::over(stream).map(Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Over a connection that is there.
    pub fn over(stream: UnixStream) -> Result<Borrower, Error> {
        admit(&stream)?;
        Ok(Borrower(stream))
    }

    /// Asks for the work of the speaker of `node`; returns what takes time to read.
    pub fn ask(&self, node: &str) -> Result<Vec<Part>, Error> {
        let hello = Word::Hello {
            version: VERSION,
            node: node.to_owned(),
        };
        send(&self.0, &hello, &[])?;
        self.parts(&Word::Complete)
    }

    /// Says that this was understood; returns the rest. The work is here from then on.
    pub fn take(self) -> Result<(Vec<Part>, Predecessor), Error> {
        send(&self.0, &Word::Ready, &[])?;
        let rest = self.parts(&Word::Go)?;
        Ok((rest, Predecessor(self.0)))
    }

    fn parts(&self, last: &Word) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        loop {
            match receive(&self.0)? {
                (Word::Part { text }, files) => parts.push(Part { text, files }),
                (Word::Refused { reason }, _) => return Err(Error::Refused(reason)),
                (word, _) if word == *last => return Ok(parts),
                (word, _) => return Err(Error::OutOfTurn(word.name())),
            }
        }
    }
}

/// The predecessor, once it has given the work away. It takes the end of this for the end of the successor.
#[derive(Debug)]
pub struct Predecessor(#[expect(dead_code, reason = "it is the connection that counts")] UnixStream);
