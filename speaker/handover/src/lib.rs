//! Hands the work of a speaker over to its successor on the same node: what both say over a Unix socket, and who of the two
//! has the work at any moment. What the work is made of is the business of whoever calls: here it is texts with file
//! descriptors ([`Part`]).
//!
//! | step | predecessor ([`Lender`]) | successor ([`Borrower`]) |
//! | --- | --- | --- |
//! | 1 | | `Hello`: version and node |
//! | 2 | `Refused`, or what takes time to read: `Part`s and `Complete`; it has put that work down | |
//! | 3 | | `Ready`: all of it was understood |
//! | 4 | the rest: `Part`s and `Go` | |
//! | 5 | keeps the connection until its end | takes the work up, and keeps the connection |
//!
//! **The work belongs to the predecessor until it has sent `Go`, and to the successor from the moment it has read it.** Before,
//! the predecessor goes on with the work whatever happens: steps 2 and 3 take [`PATIENCE`] at most from the greeting on, and
//! step 4 as long. Afterwards it never does. A successor that does not read `Go` has nothing. So the work never has two owners; it has none for the time
//! that a message takes, or if the successor dies, as if the one speaker had died.
//!
//! Both check that the other one runs as the same user, or as root ([`Error::Stranger`]), and only equal versions understand
//! each other ([`VERSION`]). The calls block; give them a thread of their own.
#![cfg(target_os = "linux")]

pub mod frame;
mod lender;
mod successor;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

pub use lender::{Door, Heir, Lender};
pub use successor::{Borrower, Predecessor};

/// Of the words and of all that is said with them. Changes whenever an older speaker would misread a newer one, or the
/// other way round.
pub const VERSION: u32 = 1;

/// So long the successor waits for the next word, and the predecessor for all of a step. BGP is at rest meanwhile: less than
/// the shortest hold time, 3 s.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A part of the work. Its text may hold keys: it is not printed.
pub struct Part {
    /// What it is.
    pub text: String,
    /// The descriptors that belong to it.
    pub files: Vec<OwnedFd>,
}

/// A part of the work, to be sent.
pub struct Share<'a> {
    /// What it is.
    pub text: String,
    /// The descriptors that belong to it: at most [`frame::FILES_MAX`].
    pub files: Vec<BorrowedFd<'a>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} octets, {} descriptors)", self.text.len(), self.files.len())
    }
}

/// Why a hand-over has come to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("cannot talk to the other speaker: {0}")]
    Io(#[from] io::Error),
    /// The other one has said nothing for [`PATIENCE`].
    #[error("the other speaker says nothing")]
    Silent,
    /// The other one is gone, or does not want to go on.
    #[error("the other speaker has hung up")]
    Gone,
    /// What it says cannot be read.
    #[error("what the other speaker says cannot be read: {0}")]
    Frame(#[from] frame::Malformed),
    /// It can be read, but not now.
    #[error("the other speaker says {0} out of turn")]
    OutOfTurn(&'static str),
    /// It runs as another user.
    #[error("the other speaker runs as user {theirs}, and this one as user {ours}")]
    Stranger {
        /// The other's id.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The predecessor does not hand over.
    #[error("the speaker that runs here does not hand over: {0}")]
    Refused(String),
}

/// Prepares a connection: nobody waits for ever, and the other end is one of us.
fn admit(stream: &UnixStream) -> Result<(), Error> {
    let theirs = getsockopt(stream, sockopt::PeerCredentials)
        .map_err(io::Error::from)?
        .uid();
    let ours = geteuid().as_raw();
    // Root may do all that this user may.
    if theirs != ours && theirs != 0 {
        return Err(Error::Stranger { theirs, ours });
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}
