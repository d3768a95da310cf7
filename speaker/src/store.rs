//! Snapshots on disk: read once at start, written whenever there is another.
//!
//! There are two, of layer 2 and of BGP, because they change at different times and have different readers: that of BGP may
//! hold the keys of sessions. It can be read by its owner alone, and holds keys only where the directory is in memory, as
//! /run is, so that none ever comes to a disk. Whoever can read it there can read the memory of this process.
//!
//! A crash leaves the old snapshot or the new one, never half of one (`whole`). The file's name carries the node's, so speakers
//! of several nodes may share a directory. A snapshot that cannot be written is logged and tried again; announcing goes on.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_runtime::backoff::Backoff;
use ferrolb_speaker_core::BgpPlan;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::snapshot::{self, Identity, Memory, SnapshotError};
use crate::whole;

/// Larger files are no snapshots: 100,000 addresses take a tenth of this.
const LARGEST: u64 = 64 << 20;

/// Where Linux shows a text that is another one after every boot (random(4)).
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Names of files end at 255 bytes; longer names of nodes are represented by their sum.
const LONGEST_NODE: usize = 200;

/// Delays between attempts to write.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why there is nothing to announce from at start.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// There is a file, and it cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is a file, and it is not used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Where a snapshot of one node is, and how what stands in it is written and read.
#[derive(Debug)]
pub(crate) struct Store<T> {
    identity: Identity,
    file: PathBuf,
    /// For the log.
    of: &'static str,
    /// Permission bits.
    mode: u32,
    /// Between two writes, so that what changes all the time costs little.
    pause: Duration,
    encode: Encode<T>,
    decode: Decode<T>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Store {
            identity: self.identity.clone(),
            file: self.file.clone(),
            ..*self
        }
    }
}

impl Store<Memory> {
    /// What the node has a part in at layer 2; `dir` is not touched yet.
    pub(crate) fn of_layer2(dir: &Path, node: &str) -> Self {
        let encode = |identity: &Identity, memory: &Memory, _: &Path| snapshot::encode(identity, memory);
        let pause = Duration::ZERO;
        Store::new(
            (dir, node),
            ("layer 2", "snapshot", 0o644),
            pause,
            (encode, snapshot::decode),
        )
    }
}

impl Store<BgpPlan> {
    /// What the node does by BGP; `dir` is not touched yet.
    pub(crate) fn of_bgp(dir: &Path, node: &str) -> Self {
        let encode = |identity: &Identity, plan: &BgpPlan, dir: &Path| {
            let may_hold_keys = is_in_memory(dir);
            snapshot::bgp::encode(identity, plan, may_hold_keys)
        };
        let pause = Duration::from_secs(1);
        Store::new(
            (dir, node),
            ("BGP", "bgp", 0o600),
            pause,
            (encode, snapshot::bgp::decode),
        )
    }
}

/// Whether what is in the directory never comes to a disk, but for swap space.
fn is_in_memory(dir: &Path) -> bool {
    let kind = nix::sys::statfs::statfs(dir).map(|fs| fs.filesystem_type());
    kind.is_ok_and(|kind| kind == nix::sys::statfs::TMPFS_MAGIC)
}

type Encode<T> = fn(&Identity, &T, &Path) -> Vec<u8>;
type Decode<T> = fn(&Identity, &[u8]) -> Result<T, SnapshotError>;

impl<T: Send + Sync + 'static> Store<T> {
    fn new(
        (dir, node): (&Path, &str),
        (of, extension, mode): (&'static str, &str, u32),
        pause: Duration,
        (encode, decode): (Encode<T>, Decode<T>),
    ) -> Self {
        let name = if node.len() <= LONGEST_NODE {
            node.to_owned()
        } else {
            snapshot::sum(node.as_bytes())
        };
        // Without it a snapshot is trusted across reboots, as long as it is there.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let identity = Identity {
            node: node.to_owned(),
            boot: boot.trim().to_owned(),
        };
        Store {
            identity,
            file: dir.join(format!("speaker-{name}.{extension}")),
            of,
            mode,
            pause,
            encode,
            decode,
        }
    }

    /// What the last run of this node's speaker knew; nothing, with one line in the log saying why, when that
    /// cannot be known.
    pub(crate) fn restore(&self) -> Option<T> {
        let (file, of) = (self.file.display(), self.of);
        match self.read() {
            Ok(Some(memory)) => {
                info!(%file, of, "going by the snapshot until the API server is heard");
                Some(memory)
            }
            Ok(None) => {
                info!(%file, of, "no snapshot: announcing nothing until the API server is heard");
                None
            }
            Err(error) => {
                warn!(%file, of, %error, "the snapshot is not used: announcing nothing until the API server is heard");
                None
            }
        }
    }

    /// Whose it is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    fn read(&self) -> Result<Option<T>, StoreError> {
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(Some((self.decode)(&self.identity, &bytes)?))
    }

    fn write(&self, memory: &T) -> io::Result<()> {
        let dir = self.file.parent().unwrap_or(Path::new("."));
        // What may be written depends on where it is going to be.
        fs::create_dir_all(dir)?;
        whole::replace(&self.file, self.mode, &(self.encode)(&self.identity, memory, dir))
    }

    /// Writes what is to be remembered whenever it changes, the latest only when changes come faster than the disk; ends when
    /// `stop` is cancelled, with the last change written.
    pub(crate) async fn keep(
        self,
        mut memory: watch::Receiver<Arc<T>>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut failing = false;
        loop {
            let stopped = tokio::select! {
                biased;
                changed = memory.changed() => changed.is_err(),
                () = stop.cancelled() => true,
            };
            if stopped && !memory.has_changed().unwrap_or(false) {
                return Ok(());
            }
            let latest = memory.borrow_and_update().clone();
            let store = self.clone();
            let written = tokio::task::spawn_blocking(move || store.write(&latest)).await;
            let written = written.unwrap_or_else(|died| Err(io::Error::other(died)));
            match written {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        info!(file = %self.file.display(), "the snapshot is written again");
                    }
                    backoff.reset();
                    if !self.pause.is_zero() && !stopped {
                        tokio::select! {
                            () = tokio::time::sleep(self.pause) => {}
                            () = stop.cancelled() => {}
                        }
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(file = %self.file.display(), of = self.of, %error,
                            "the snapshot cannot be written: a restart without the API server announces nothing");
                    }
                    memory.mark_changed();
                    tokio::select! {
                        () = tokio::time::sleep(backoff.delay()) => {}
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A directory that is gone with the value.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("ferrolb-store-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            // What cannot be removed is left to the system's own sweep of the directory for temporary files.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn one(address: &str) -> Arc<Memory> {
        let peers = BTreeMap::from([("node-b".to_owned(), BTreeSet::from([address.parse().unwrap()]))]);
        Arc::new(Memory {
            peers,
            ..Memory::default()
        })
    }

    #[test]
    fn nodes_share_a_directory() {
        let dir = Dir::new("share");
        let (a, b) = (Store::of_layer2(&dir.0, "node-a"), Store::of_layer2(&dir.0, "node-b"));
        assert!(a.read().unwrap().is_none());
        a.write(&one("192.0.2.1")).unwrap();
        b.write(&one("192.0.2.2")).unwrap();
        a.write(&one("192.0.2.3")).unwrap();
        assert_eq!(a.read().unwrap().as_ref(), Some(&*one("192.0.2.3")));
        assert_eq!(b.read().unwrap().as_ref(), Some(&*one("192.0.2.2")));
        // Nothing but the two files: no temporary one is left.
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2);

        fs::copy(&a.file, &b.file).unwrap();
        assert_eq!(b.restore(), None, "another node's");
        let long = Store::of_layer2(&dir.0, &"n".repeat(253));
        long.write(&one("192.0.2.1")).unwrap();
        assert_eq!(long.restore().as_ref(), Some(&*one("192.0.2.1")));
    }

    #[tokio::test]
    async fn the_last_change_is_written_before_the_end() {
        let dir = Dir::new("last");
        let store = Store::of_layer2(&dir.0.join("made/on/demand"), "node-a");
        let (sender, receiver) = watch::channel(one("192.0.2.1"));
        let stop = CancellationToken::new();
        sender.send(one("192.0.2.9")).unwrap();
        stop.cancel();
        store.clone().keep(receiver, stop).await.unwrap();
        assert_eq!(store.restore().as_ref(), Some(&*one("192.0.2.9")));
    }

    #[test]
    fn keys_of_sessions_stay_in_memory_and_with_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        assert!(!is_in_memory(Path::new("/proc")));
        let dir = Dir::new("bgp");
        let store = Store::of_bgp(&dir.0, "node-a");
        let plan = BgpPlan {
            router_id: [10, 0, 0, 1].into(),
            ..BgpPlan::default()
        };
        for _ in 0..2 {
            store.write(&plan).unwrap();
            assert_eq!(store.restore().as_ref(), Some(&plan));
        }
        assert_eq!(fs::metadata(&store.file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Store::of_layer2(&dir.0, "node-a").read().unwrap(), None, "another file");
    }
}
