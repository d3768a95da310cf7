//! The snapshot as bytes: this node's part in addresses, so that a restart does not need the API server to go on.
//!
//! One header line, `ferrolb-speaker-snapshot VERSION SHA256`, then JSON with the node, its duties and the addresses of
//! the other nodes in them, which a person can read. The sum covers the JSON. [`decode`] takes any bytes whatsoever and never panics: a snapshot that is
//! damaged, of another version, of another node or from before a reboot is refused, because a wrong address on the wire
//! is worse than a late one.

pub(crate) mod bgp;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{ConflictDetection, Placement};
use ferrolb_speaker_core::{Duties, Duty, Liveness, Manner};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

const FORM: Form = Form {
    magic: "ferrolb-speaker-snapshot",
    version: "3",
};

/// What the header line of a kind of snapshot says.
struct Form {
    /// First word.
    magic: &'static str,
    /// Changes whenever an older program would misread what a newer one wrote.
    version: &'static str,
}

impl Form {
    /// Puts the header before what is to be written.
    fn seal(&self, content: &impl Serialize) -> Vec<u8> {
        // Strings, numbers and maps with texts as keys: there is nothing in it that JSON cannot say.
        let json = serde_json::to_string(content).unwrap_or_default();
        format!("{} {} {}\n{json}\n", self.magic, self.version, sum(json.as_bytes())).into_bytes()
    }

    /// What stands behind the header, if it is whole.
    fn open<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, SnapshotError> {
        let text = str::from_utf8(bytes).map_err(|_| SnapshotError::NoSnapshot)?;
        let (header, body) = text.split_once('\n').ok_or(SnapshotError::NoSnapshot)?;
        let mut words = header.split(' ');
        let (magic, version, stated) = (words.next(), words.next(), words.next());
        if magic != Some(self.magic) {
            return Err(SnapshotError::NoSnapshot);
        }
        if version != Some(self.version) {
            return Err(SnapshotError::OtherVersion {
                found: version.unwrap_or_default().to_owned(),
                read: self.version,
            });
        }
        let json = body.strip_suffix('\n').ok_or(SnapshotError::Damaged)?;
        if stated != Some(sum(json.as_bytes()).as_str()) || words.next().is_some() {
            return Err(SnapshotError::Damaged);
        }
        serde_json::from_str(json).map_err(SnapshotError::Unreadable)
    }
}

/// Why a snapshot is not used.
#[derive(Debug, Error)]
pub(crate) enum SnapshotError {
    /// It does not begin as one.
    #[error("it is no snapshot of a speaker")]
    NoSnapshot,
    /// Written by a program that writes another form.
    #[error("it has version {found:?}, and this program reads version {read:?}")]
    OtherVersion {
        /// What it says.
        found: String,
        /// What this program reads.
        read: &'static str,
    },
    /// The sum does not fit the content.
    #[error("it is damaged: its SHA-256 sum does not match")]
    Damaged,
    /// The sum fits, but the content is not what is written under it.
    #[error("its content cannot be read: {0}")]
    Unreadable(#[source] serde_json::Error),
    /// The machine was down since: meanwhile another node took over.
    #[error("it was written before this machine was last booted")]
    OtherBoot,
    /// Another node's.
    #[error("it belongs to node {found:?}")]
    OtherNode {
        /// Whose it is.
        found: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<'a> {
    node: Cow<'a, str>,
    boot: Cow<'a, str>,
    duties: BTreeMap<IpAddr, Entry<'a>>,
    peers: Cow<'a, BTreeMap<String, BTreeSet<IpAddr>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    uid: Cow<'a, str>,
    owner: Cow<'a, str>,
    standbys: Cow<'a, [String]>,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    interfaces: Option<Cow<'a, BTreeSet<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_owner: Option<Cow<'a, str>>,
    able: bool,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multiplier: Option<u32>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_for_owner: Option<bool>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflicts: Option<Conflicts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet_check: Option<bool>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Conflicts {
    Probe,
    Passive,
    Off,
}

impl From<ConflictDetection> for Conflicts {
    fn from(mode: ConflictDetection) -> Conflicts {
        match mode {
            ConflictDetection::Probe => Conflicts::Probe,
            ConflictDetection::Passive => Conflicts::Passive,
            ConflictDetection::Disabled => Conflicts::Off,
        }
    }
}

impl From<Conflicts> for ConflictDetection {
    fn from(mode: Conflicts) -> ConflictDetection {
        match mode {
            Conflicts::Probe => ConflictDetection::Probe,
            Conflicts::Passive => ConflictDetection::Passive,
            Conflicts::Off => ConflictDetection::Disabled,
        }
    }
}

/// Who writes or reads a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The node's name.
    pub(crate) node: String,
    /// What changes with every boot of the machine; empty where that cannot be known.
    pub(crate) boot: String,
}

impl Identity {
    /// Whether this is the one that wrote it.
    fn check(&self, node: &str, boot: &str) -> Result<(), SnapshotError> {
        if node != self.node {
            return Err(SnapshotError::OtherNode { found: node.to_owned() });
        }
        if boot != self.boot {
            return Err(SnapshotError::OtherBoot);
        }
        Ok(())
    }
}

/// What a speaker that restarts has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The node's part in addresses.
    pub(crate) duties: Duties,
    /// The addresses of the other nodes that have a part in them.
    pub(crate) peers: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// The snapshot of what a node has a part in.
pub(crate) fn encode(identity: &Identity, memory: &Memory) -> Vec<u8> {
    let duties = memory.duties.iter().map(|(ip, duty)| (*ip, entry(duty)));
    let content = Content {
        node: Cow::Borrowed(&identity.node),
        boot: Cow::Borrowed(&identity.boot),
        duties: duties.collect(),
        peers: Cow::Borrowed(&memory.peers),
    };
    FORM.seal(&content)
}

fn entry(duty: &Duty) -> Entry<'_> {
    Entry {
        uid: Cow::Borrowed(&duty.uid),
        owner: Cow::Borrowed(&duty.placement.owner),
        standbys: Cow::Borrowed(&duty.placement.standbys),
        epoch: duty.placement.epoch,
        interfaces: duty.interfaces.as_ref().map(Cow::Borrowed),
        previous_owner: duty.previous_owner.as_deref().map(Cow::Borrowed),
        able: duty.able,
        interval: duty.liveness.interval.map(millis),
        multiplier: duty.liveness.multiplier,
        grace: duty.liveness.grace.map(millis),
        answer_for_owner: duty.liveness.answer_for_owner,
        refresh: duty.manner.refresh.map(millis),
        conflicts: duty.manner.conflicts.map(Conflicts::from),
        subnet_check: duty.manner.subnet_check,
    }
}

/// What the node had a part in when `bytes` were written.
pub(crate) fn decode(identity: &Identity, bytes: &[u8]) -> Result<Memory, SnapshotError> {
    let content: Content<'_> = FORM.open(bytes)?;
    identity.check(&content.node, &content.boot)?;
    let duty = |entry: Entry<'_>| Duty {
        uid: entry.uid.into_owned(),
        interfaces: entry.interfaces.map(Cow::into_owned),
        placement: Placement {
            owner: entry.owner.into_owned(),
            standbys: entry.standbys.into_owned(),
            epoch: entry.epoch,
        },
        previous_owner: entry.previous_owner.map(Cow::into_owned),
        able: entry.able,
        liveness: Liveness {
            interval: entry.interval.map(Duration::from_millis),
            multiplier: entry.multiplier,
            grace: entry.grace.map(Duration::from_millis),
            answer_for_owner: entry.answer_for_owner,
        },
        manner: Manner {
            refresh: entry.refresh.map(Duration::from_millis),
            conflicts: entry.conflicts.map(ConflictDetection::from),
            subnet_check: entry.subnet_check,
        },
    };
    let duties = content.duties.into_iter();
    Ok(Memory {
        duties: Arc::new(duties.map(|(ip, entry)| (ip, Arc::new(duty(entry)))).collect()),
        peers: content.peers.into_owned(),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub(crate) fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(node: &str) -> Identity {
        Identity {
            node: node.to_owned(),
            boot: "b1".to_owned(),
        }
    }

    fn sample() -> Memory {
        let on = |interfaces: Option<&[&str]>, epoch| {
            Arc::new(Duty {
                uid: "u".to_owned(),
                interfaces: interfaces.map(|names| names.iter().map(|n| (*n).to_owned()).collect()),
                placement: Placement {
                    owner: "node-a".to_owned(),
                    standbys: vec!["node-b".to_owned()],
                    epoch,
                },
                previous_owner: None,
                able: true,
                liveness: Liveness::default(),
                manner: Manner::default(),
            })
        };
        Memory {
            duties: BTreeMap::from([
                ("192.0.2.7".parse().unwrap(), on(None, 3)),
                ("2001:db8::7".parse().unwrap(), on(Some(&["eth0", "eth1"]), u64::MAX)),
            ])
            .into(),
            peers: BTreeMap::from([("node-b".to_owned(), BTreeSet::from(["192.0.2.200".parse().unwrap()]))]),
        }
    }

    #[test]
    fn the_form_is_stable() {
        let text = String::from_utf8(encode(&identity("node-a"), &sample())).unwrap();
        let body = concat!(
            r#"{"node":"node-a","boot":"b1","duties":{"#,
            r#""192.0.2.7":{"uid":"u","owner":"node-a","standbys":["node-b"],"epoch":3,"able":true},"#,
            r#""2001:db8::7":{"uid":"u","owner":"node-a","standbys":["node-b"],"epoch":18446744073709551615,"#,
            r#""interfaces":["eth0","eth1"],"able":true}},"peers":{"node-b":["192.0.2.200"]}}"#,
        );
        let expected = format!("ferrolb-speaker-snapshot 3 {}\n{body}\n", sum(body.as_bytes()));
        assert_eq!(text, expected);
        assert_eq!(
            sum(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn what_is_refused_says_why() {
        let good = String::from_utf8(encode(&identity("node-a"), &sample())).unwrap();
        let signed = |json: &str| format!("{} {} {}\n{json}\n", FORM.magic, FORM.version, sum(json.as_bytes()));
        let cases = [
            (String::new(), "no snapshot"),
            ("{}\n".to_owned(), "no snapshot"),
            (good.replacen(" 3 ", " 1 ", 1), "version \"1\""),
            (good.replace("192.0.2.7\"", "192.0.2.8\""), "damaged"),
            (good.trim_end().to_owned(), "damaged"),
            (good.replacen('\n', " more\n", 1), "damaged"),
            (good[..good.len() / 2].to_owned(), "damaged"),
            (signed("{}"), "node"),
            (
                signed(r#"{"node":"node-a","boot":"b1","duties":{},"peers":{"node-b":["192.0.2.300"]}}"#),
                "cannot be read",
            ),
            (good.replace("node-a", "node-b"), "damaged"),
        ];
        for (text, says) in cases {
            let error = decode(&identity("node-a"), text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = decode(&identity("node-b"), good.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("\"node-a\""), "{error}");
        let rebooted = Identity {
            boot: "b2".to_owned(),
            ..identity("node-a")
        };
        let error = decode(&rebooted, good.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("booted"), "{error}");
    }

    fn any_memory() -> impl Strategy<Value = Memory> {
        let interfaces = proptest::option::of(proptest::collection::btree_set(".{0,15}", 0..4));
        let standbys = proptest::collection::vec(".{0,9}", 0..4);
        let time = || proptest::option::of((0..1u64 << 40).prop_map(Duration::from_millis));
        let liveness = (time(), any::<Option<u32>>(), time(), any::<Option<bool>>());
        let liveness = liveness.prop_map(|(interval, multiplier, grace, answer_for_owner)| Liveness {
            interval,
            multiplier,
            grace,
            answer_for_owner,
        });
        let conflicts = prop::sample::select(&[
            ConflictDetection::Probe,
            ConflictDetection::Passive,
            ConflictDetection::Disabled,
        ]);
        let manner = (time(), proptest::option::of(conflicts), any::<Option<bool>>());
        let manner = manner.prop_map(|(refresh, conflicts, subnet_check)| Manner {
            refresh,
            conflicts,
            subnet_check,
        });
        let previous = proptest::option::of(".{0,9}");
        let placement = (".{0,9}", standbys, any::<u64>());
        let placement = placement.prop_map(|(owner, standbys, epoch)| Placement { owner, standbys, epoch });
        let duty = (
            ".{0,9}",
            interfaces,
            placement,
            previous,
            any::<bool>(),
            (liveness, manner),
        );
        let duty = duty.prop_map(
            |(uid, interfaces, placement, previous_owner, able, (liveness, manner))| {
                Arc::new(Duty {
                    uid,
                    interfaces,
                    placement,
                    previous_owner,
                    able,
                    liveness,
                    manner,
                })
            },
        );
        let duties = proptest::collection::btree_map(any::<IpAddr>(), duty, 0..20);
        let addresses = proptest::collection::btree_set(any::<IpAddr>(), 0..3);
        let peers = proptest::collection::btree_map(".{0,9}", addresses, 0..3);
        (duties.prop_map(Arc::new), peers).prop_map(|(duties, peers)| Memory { duties, peers })
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(node in "[a-z0-9.-]{1,20}", memory in any_memory()) {
            let bytes = encode(&identity(&node), &memory);
            prop_assert_eq!(decode(&identity(&node), &bytes).unwrap(), memory);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&identity("node-a"), &bytes).is_err());
        }

        #[test]
        fn any_single_change_is_noticed(memory in any_memory(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = encode(&identity("node-a"), &memory);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&identity("node-a"), &bytes).is_err());
        }
    }
}
