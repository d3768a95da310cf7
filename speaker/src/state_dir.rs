//! `ferrolb-speaker own-state-dir`: gives the state directory to the user that the speaker runs as.
//!
//! The kubelet makes directories of the host for root alone. So a container of the same image runs before the speaker, as
//! root with `CAP_CHOWN`, and gives away the directory, and the files that a speaker which ran as root has left in it.
//!
//! Whoever the directory belongs to may be hostile to root. So nothing is created and nothing but the directory and its
//! files is touched: every file is opened without following a link, looked at by its descriptor, and changed by that.
//! A directory that holds anything else is none of a speaker's, and stays as it is.
//!
//! Root's group gets what the owner may do, and stays the group of all that is made in the directory. With that a speaker that
//! runs as root, without `CAP_DAC_OVERRIDE`, still works in it: the predecessor, until it ends, and one that is
//! gone back to.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use thiserror::Error;

/// User and group of root.
const ROOT: u32 = 0;

/// New files get the group of the directory (inode(7)).
const SET_GROUP: u32 = 0o2000;

/// Permission bits, with those that are special.
const BITS: u32 = 0o7777;

/// Why a state directory is not given away.
#[derive(Debug, Error)]
pub(crate) enum StateDirError {
    /// The system does not let us.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was looked at, or changed.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The path is a link, or something else that is no directory.
    #[error("{path} is no directory", path = .0.display())]
    NoDirectory(PathBuf),
    /// It holds something that no speaker puts there.
    #[error("{path} is no file of a speaker's: the directory may be another program's", path = .0.display())]
    Foreign(PathBuf),
    /// It belongs to neither root nor the user.
    #[error("{path} belongs to user {owner}, neither to root nor to user {user}", path = path.display())]
    Owner {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it shall be.
        user: u32,
    },
}

impl StateDirError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
        let path = path.to_owned();
        move |source| StateDirError::Io { path, source }
    }
}

/// Something that is held open, whatever its name stands for by now.
struct Held {
    /// For messages.
    path: PathBuf,
    file: File,
    owner: u32,
    mode: u32,
}

/// Gives the directory `dir` and a speaker's files in it to `user`. Returns how many of them have changed hands: none, if
/// all were the user's already.
///
/// # Errors
/// See [`StateDirError`]. All is looked at before anything is changed.
pub(crate) fn give(dir: &Path, user: u32) -> Result<usize, StateDirError> {
    let open = directory(dir, user)?;
    let mut all = Vec::new();
    for entry in fs::read_dir(by_descriptor(&open.file)).map_err(StateDirError::io(dir))? {
        let name = entry.map_err(StateDirError::io(dir))?.file_name();
        let path = dir.join(&name);
        if !name.to_str().is_some_and(is_speakers) {
            return Err(StateDirError::Foreign(path));
        }
        all.extend(file(&by_descriptor(&open.file).join(&name), path, user)?);
    }
    // The directory comes last: with it the user gets the right to put other files in the place of these.
    all.push(open);
    let others = all.iter().filter(|held| held.owner != user);
    others.map(|held| held.give(user)).sum()
}

/// Names that speakers give their files: snapshots, keys and run numbers, the socket of the hand-over, the marker of BGP, and
/// what of them is half written.
fn is_speakers(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let stem = |prefix: &str, kinds: &[&str]| {
        let rest = name.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('.'));
        rest.is_some_and(|(node, kind)| !node.is_empty() && kinds.contains(&kind))
    };
    stem("speaker-", &["snapshot", "bgp", "keys", "boot", "sock"]) || stem("bgp-", &["boot"])
}

/// Of a descriptor that is open, however it was opened.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Not by the standard library, which leaves `O_PATH` out with musl: there it is one of the bits of the access mode.
fn open(path: &Path, how: OFlag) -> io::Result<File> {
    let flags = how | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?.into())
}

fn directory(dir: &Path, user: u32) -> Result<Held, StateDirError> {
    let file = match open(dir, OFlag::O_DIRECTORY) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(StateDirError::NoDirectory(dir.to_owned()));
        }
        Err(source) => return Err(StateDirError::io(dir)(source)),
    };
    let found = file.metadata().map_err(StateDirError::io(dir))?;
    Held::new(dir.to_owned(), file, &found, user)
}

/// A file of the directory; `None` if it is gone: a predecessor is at work.
fn file(by: &Path, path: PathBuf, user: u32) -> Result<Option<Held>, StateDirError> {
    let file = match open(by, OFlag::O_PATH) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateDirError::io(&path)(source)),
    };
    let found = file.metadata().map_err(StateDirError::io(&path))?;
    let kind = found.file_type();
    match found.nlink() {
        // Replaced meanwhile.
        0 => return Ok(None),
        1 if kind.is_file() || kind.is_socket() => {}
        // What has another name may be another program's.
        _ => return Err(StateDirError::Foreign(path)),
    }
    Held::new(path, file, &found, user).map(Some)
}

impl Held {
    fn new(path: PathBuf, file: File, found: &fs::Metadata, user: u32) -> Result<Held, StateDirError> {
        let owner = found.uid();
        if owner != user && owner != ROOT {
            return Err(StateDirError::Owner { path, owner, user });
        }
        let mode = found.mode() & BITS;
        let shared = mode | ((mode & 0o700) >> 3);
        let mode = if found.is_dir() { shared | SET_GROUP } else { shared };
        Ok(Held {
            path,
            file,
            owner,
            mode,
        })
    }

    fn give(&self, user: u32) -> Result<usize, StateDirError> {
        let by = by_descriptor(&self.file);
        // In this order: the group must be root's before it may do more, and only the owner changes permissions.
        chown(&by, None, Some(ROOT))
            .and_then(|()| fs::set_permissions(&by, Permissions::from_mode(self.mode)))
            .and_then(|()| chown(&by, Some(user), None))
            .map_err(StateDirError::io(&self.path))?;
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    const NOBODY: u32 = 65534;

    /// A directory in the one for temporary files, gone with the value.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("ferrolb-own-{}-{name}", std::process::id()));
            fs::create_dir_all(dir.join("state")).unwrap();
            fs::set_permissions(dir.join("state"), Permissions::from_mode(0o755)).unwrap();
            Dir(dir)
        }

        fn state(&self) -> PathBuf {
            self.0.join("state")
        }

        fn put(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.state().join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            // What cannot be removed is left to the system's own sweep of the directory for temporary files.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn owned(path: &Path) -> (u32, u32, u32) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & BITS)
    }

    /// Whom the directory can be given to here: only root gives to others.
    fn heir() -> u32 {
        match nix::unistd::geteuid().as_raw() {
            ROOT => NOBODY,
            other => other,
        }
    }

    #[test]
    fn names() {
        for name in [
            "speaker-node-a.snapshot",
            "speaker-node-a.example.com.bgp",
            "speaker-node-a.bgp.tmp",
            "speaker-node-a.keys.tmp",
            "speaker-node-a.boot",
            "speaker-0123456789abcdef0123.sock",
            "bgp-0123456789abcdef0123.boot",
        ] {
            assert!(is_speakers(name), "{name}");
        }
        for name in [
            "",
            "passwd",
            "speaker-",
            "speaker-.bgp",
            "speaker-a.so",
            "bgp-a.keys",
            ".tmp",
            "a-speaker-b.bgp",
        ] {
            assert!(!is_speakers(name), "{name}");
        }
    }

    #[test]
    fn a_directory_changes_hands_once() {
        let dir = Dir::new("hands");
        let user = heir();
        let all = if user == NOBODY { 4 } else { 0 };
        let snapshot = dir.put("speaker-node-a.snapshot", 0o644);
        let keys = dir.put("speaker-node-a.keys", 0o600);
        let socket = dir.state().join("speaker-0123456789abcdef0123.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(give(&dir.state(), user).unwrap(), all);
        if user == NOBODY {
            assert_eq!(owned(&dir.state()), (NOBODY, ROOT, 0o2775));
            assert_eq!(owned(&snapshot), (NOBODY, ROOT, 0o664));
            assert_eq!(owned(&keys), (NOBODY, ROOT, 0o660));
            assert_eq!(owned(&socket), (NOBODY, ROOT, 0o660));
        }
        assert_eq!(give(&dir.state(), user).unwrap(), 0, "again");
        if user == NOBODY {
            // What a speaker makes that is root again, for a time.
            dir.put("speaker-node-a.bgp", 0o600);
            assert_eq!(give(&dir.state(), user).unwrap(), 1);
            assert_eq!(owned(&dir.state()), (NOBODY, ROOT, 0o2775));
        }
    }

    #[test]
    fn what_is_not_a_speakers_stays() {
        let dir = Dir::new("foreign");
        let before = owned(&dir.state());
        let outside = dir.0.join("outside");
        fs::write(&outside, "root's").unwrap();
        let theirs = owned(&outside);
        dir.put("speaker-node-a.snapshot", 0o644);
        let in_the_way = |name: &str, says: &str| {
            let error = give(&dir.state(), heir()).unwrap_err();
            assert!(matches!(error, StateDirError::Foreign(_)), "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!((owned(&dir.state()), owned(&outside)), (before, theirs));
            let path = dir.state().join(name);
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        };
        dir.put("passwd", 0o644);
        in_the_way("passwd", "state/passwd");
        symlink(&outside, dir.state().join("speaker-b.bgp")).unwrap();
        in_the_way("speaker-b.bgp", "speaker-b.bgp is no file of a speaker's");
        fs::hard_link(&outside, dir.state().join("speaker-b.bgp")).unwrap();
        in_the_way("speaker-b.bgp", "speaker-b.bgp is no file of a speaker's");
        fs::create_dir(dir.state().join("speaker-b.bgp")).unwrap();
        in_the_way("speaker-b.bgp", "speaker-b.bgp is no file of a speaker's");
        give(&dir.state(), heir()).unwrap();
    }

    #[test]
    fn only_a_directory_that_is_there() {
        let dir = Dir::new("directory");
        let link = dir.0.join("link");
        symlink(dir.state(), &link).unwrap();
        let before = owned(&dir.state());
        assert!(matches!(give(&link, heir()), Err(StateDirError::NoDirectory(_))));
        assert!(matches!(
            give(&dir.0.join("none"), heir()),
            Err(StateDirError::Io { .. })
        ));
        assert!(!dir.0.join("none").exists());
        assert_eq!(owned(&dir.state()), before);
        if heir() == NOBODY {
            chown(dir.state(), Some(1000), None).unwrap();
            let error = give(&dir.state(), NOBODY).unwrap_err();
            assert!(matches!(error, StateDirError::Owner { owner: 1000, .. }), "{error}");
        }
    }
}
