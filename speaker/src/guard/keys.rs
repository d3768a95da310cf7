//! The keys of the heartbeats on disk, so that a speaker that restarts without the API server still takes part.
//!
//! The file can be read by its owner alone, and holds nothing that the Secret does not. A file that cannot be read is
//! none.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ferrolb_model::{LIVENESS_KEY, LivenessKeys};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::whole;

/// Permission bits of the keys.
const KEYS: u32 = 0o600;

/// Permission bits of the number of the last run.
const BOOT: u32 = 0o644;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    signing: u32,
    keys: BTreeMap<u32, [u8; LIVENESS_KEY]>,
}

/// Where the keys of one node's speaker are.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile(PathBuf);

impl KeyFile {
    /// Beside the snapshot `named` so.
    pub(crate) fn beside(snapshot: &Path) -> Self {
        KeyFile(snapshot.with_extension("keys"))
    }

    /// The keys, if there are any.
    pub(crate) fn read(&self) -> Option<LivenessKeys> {
        let text = fs::read(&self.0).ok()?;
        match serde_json::from_slice(&text) {
            Ok(Content { signing, keys }) => Some(LivenessKeys { signing, keys }),
            Err(error) => {
                warn!(file = %self.0.display(), %error, "the keys of the heartbeats cannot be read");
                None
            }
        }
    }

    /// Names this run of the program: greater than that of every run before it, also when the clock was put back, as long
    /// as the directory is the same.
    pub(crate) fn boot(&self) -> u64 {
        let file = self.0.with_extension("boot");
        let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let boot = last.map_or(clock, |last: u64| clock.max(last.saturating_add(1)));
        if let Err(error) = whole::replace(&file, BOOT, boot.to_string().as_bytes()) {
            warn!(file = %file.display(), %error, "cannot be written: a clock that is put back may silence a restart");
        }
        boot
    }

    fn write(&self, keys: &LivenessKeys) -> io::Result<()> {
        let LivenessKeys { signing, keys } = keys.clone();
        let text = serde_json::to_vec(&Content { signing, keys })?;
        whole::replace(&self.0, KEYS, &text)
    }

    /// Writes the keys whenever they change, until `stop` is cancelled. A disk that takes nothing is told once for each
    /// change: all works without, but for a restart without the API server.
    pub(crate) async fn keep(
        self,
        mut keys: watch::Receiver<Option<LivenessKeys>>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = keys.changed() => if changed.is_err() { return Ok(()) },
            }
            let Some(latest) = keys.borrow_and_update().clone() else {
                continue;
            };
            let file = self.clone();
            let written = tokio::task::spawn_blocking(move || file.write(&latest)).await;
            if let Err(error) = written.unwrap_or_else(|died| Err(io::Error::other(died))) {
                warn!(file = %self.0.display(), %error, "the keys of the heartbeats cannot be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_run_is_greater_than_those_before_it() {
        let dir = std::env::temp_dir().join(format!("ferrolb-boot-{}", std::process::id()));
        let file = KeyFile::beside(&dir.join("made/speaker-node-a.snapshot"));
        let first = file.boot();
        let kept = fs::File::open(file.0.with_extension("boot")).unwrap();
        let second = file.boot();
        assert!(second > first);
        // Half of a number is a number as well: a power cut must not leave that.
        assert_eq!(
            io::read_to_string(kept).unwrap(),
            first.to_string(),
            "not written in place"
        );
        // As if the clock had been ahead by then.
        fs::write(file.0.with_extension("boot"), (u64::MAX / 2).to_string()).unwrap();
        assert_eq!(file.boot(), u64::MAX / 2 + 1);
        fs::write(file.0.with_extension("boot"), "nonsense").unwrap();
        assert!(file.boot() > second);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_the_owner_reads_them() {
        let dir = std::env::temp_dir().join(format!("ferrolb-keys-{}", std::process::id()));
        let file = KeyFile::beside(&dir.join("made/speaker-node-a.snapshot"));
        assert_eq!(file.read(), None);
        let keys = LivenessKeys {
            signing: 2,
            keys: BTreeMap::from([(1, [7; LIVENESS_KEY]), (2, [9; LIVENESS_KEY])]),
        };
        for _ in 0..2 {
            file.write(&keys).unwrap();
            assert_eq!(file.read(), Some(keys.clone()));
        }
        assert_eq!(fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file.0, "{\"signing\": 1}").unwrap();
        assert_eq!(file.read(), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
