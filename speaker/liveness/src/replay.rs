//! Each datagram counts once: what a sender says is newer than all it has said before.

/// The newest datagram of one sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest(Option<(u64, u64)>);

impl Newest {
    /// The sender's run, as far as it was heard.
    pub fn boot(&self) -> Option<u64> {
        self.0.map(|(boot, _)| boot)
    }

    /// Takes a datagram in if it is newer: of a later run of the sender, or later in the same run. Whatever overtook
    /// another makes it old; heartbeats are repeated anyway.
    pub fn admit(&mut self, boot: u64, sequence: u64) -> bool {
        let newer = self.0.is_none_or(|newest| newest < (boot, sequence));
        if newer {
            self.0 = Some((boot, sequence));
        }
        newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_ones() {
        let mut newest = Newest::default();
        let steps = [
            (5, 0, true),
            (5, 0, false),
            (5, 2, true),
            (5, 1, false),
            (4, 9, false),
            (6, 0, true),
            (5, 3, false),
            (u64::MAX, u64::MAX, true),
            (u64::MAX, u64::MAX, false),
        ];
        for (boot, sequence, admitted) in steps {
            assert_eq!(newest.admit(boot, sequence), admitted, "{boot} {sequence}");
        }
    }
}
