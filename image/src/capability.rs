//! Capabilities of a file, as the kernel reads them from the extended attribute `security.capability`.
//!
//! A container that is not root gets an added capability in its bounding set alone; a program whose file carries the
//! capability has it in effect (capabilities(7), "File capabilities"; linux/capability.h, `struct vfs_cap_data`).

/// The record of a tar archive that carries the attribute.
pub const PAX_KEY: &str = "SCHILY.xattr.security.capability";

/// `VFS_CAP_REVISION_2`: 64 bits of each set, no user namespace.
const REVISION_2: u32 = 0x0200_0000;
/// `VFS_CAP_FLAGS_EFFECTIVE`: what is permitted is in effect from the first instruction on.
const EFFECTIVE: u32 = 1;

/// A capability that a file may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Ports below 1024.
    NetBindService = 10,
    /// Raw sockets and packet sockets.
    NetRaw = 13,
}

/// The value of the attribute with which a program starts with exactly these capabilities in effect.
///
/// The kernel refuses to start the program where one of them is not in the bounding set, so a file must carry no more
/// than its container is always given.
pub fn attribute(capabilities: &[Capability]) -> [u8; 20] {
    let permitted = capabilities.iter().fold(0_u64, |set, one| set | 1 << (*one as u8));
    let low = u32::try_from(permitted & u64::from(u32::MAX)).unwrap_or_default();
    let high = u32::try_from(permitted >> 32).unwrap_or_default();
    let words = [REVISION_2 | EFFECTIVE, low, 0, high, 0];
    let mut value = [0; 20];
    for (place, word) in value.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `setcap cap_net_raw+ep` and `setcap cap_net_raw,cap_net_bind_service+ep` leave behind.
    #[test]
    fn as_setcap_writes_it() {
        let value = |first: [u8; 8]| {
            let mut value = [0; 20];
            value[..8].copy_from_slice(&first);
            value
        };
        assert_eq!(attribute(&[Capability::NetRaw]), value([1, 0, 0, 2, 0, 0x20, 0, 0]));
        assert_eq!(
            attribute(&[Capability::NetRaw, Capability::NetBindService]),
            value([1, 0, 0, 2, 0, 0x24, 0, 0])
        );
    }
}
