//! Files that are whole whenever somebody reads them: the old content or the new one, never a part of either.
//!
//! A write is a temporary file beside it that is synced and then renamed. So neither a crash nor a power cut leaves half of
//! one, and whoever has the old file open reads that to its end.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts `content` in the place of the file, with the permission bits `mode`. Makes its directory if there is none.
///
/// # Errors
/// When the system refuses any of it; the old file is as it was then.
pub(crate) fn replace(file: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let mut temporary = file.to_owned().into_os_string();
    temporary.push(".tmp");
    // What a crash left behind may have other rights.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut written = options.write(true).create_new(true).mode(mode).open(&temporary)?;
    written.write_all(content)?;
    written.sync_all()?;
    fs::rename(&temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn old_or_new_but_never_a_part() {
        let dir = std::env::temp_dir().join(format!("ferrolb-whole-{}", std::process::id()));
        let file = dir.join("made/on/demand");
        replace(&file, 0o600, b"the old one").unwrap();
        let mut open = File::open(&file).unwrap();
        // As a crash leaves it: half of the content, and rights of its own.
        let torn = dir.join("made/on/demand.tmp");
        fs::write(&torn, "the n").unwrap();
        replace(&file, 0o600, b"the new one").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"the new one");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!torn.exists(), "nothing is left beside it");
        let mut old = String::new();
        open.read_to_string(&mut old).unwrap();
        assert_eq!(old, "the old one", "it was not written in place");
        // Something is in the way that cannot be removed.
        fs::create_dir(&torn).unwrap();
        assert!(replace(&file, 0o600, b"the third one").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"the new one");
        fs::remove_dir_all(&dir).unwrap();
    }
}
