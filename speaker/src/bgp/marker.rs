//! Whether BGP ran on this node since the machine was last booted: a file with the boot's name.
//!
//! Only then may routers be told that this node restarted and kept forwarding (the bits R and F of RFC 4724): after a
//! boot nothing was kept, and they have to drop what they held for it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::snapshot;
use crate::store::BOOT_ID;

/// The file of one node.
#[derive(Clone, Debug)]
pub(crate) struct Marker(PathBuf);

impl Marker {
    /// That of `node` in the directory `dir`, which other nodes may share.
    pub(crate) fn new(dir: &Path, node: &str) -> Self {
        let sum = snapshot::sum(node.as_bytes());
        Marker(dir.join(format!("bgp-{}.boot", &sum[..20])))
    }

    /// Whether BGP ran here since the last boot.
    pub(crate) fn is_set(&self) -> bool {
        boot().is_some_and(|boot| read(&self.0).is_ok_and(|known| known == boot))
    }

    /// Whether BGP ran here since the last boot. It does from now on.
    pub(crate) fn set(&self) -> bool {
        let Some(boot) = boot() else {
            return false;
        };
        match read(&self.0) {
            Ok(known) if known == boot => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                warn!(file = %self.0.display(), %error, "cannot tell whether this is a restart: taken for none")
            }
        }
        if let Err(error) = std::fs::write(&self.0, boot) {
            warn!(file = %self.0.display(), %error, "the next start will not be known as a restart");
        }
        false
    }
}

fn boot() -> Option<String> {
    read(Path::new(BOOT_ID)).ok().filter(|boot| !boot.is_empty())
}

fn read(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_is_a_restart_until_the_machine_boots() {
        let dir = std::env::temp_dir().join(format!("ferrolb-marker-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let marker = Marker::new(&dir, "node-a");
        assert!(!marker.is_set());
        assert!(!marker.set(), "the first");
        assert!(marker.is_set());
        assert!(marker.set(), "the second");
        assert!(!Marker::new(&dir, "node-b").set(), "another node");
        std::fs::write(&marker.0, "another boot").unwrap();
        assert!(!marker.is_set());
        assert!(!marker.set(), "after a boot");
        assert!(marker.set());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
