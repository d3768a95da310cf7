//! Who answers for which address, on each part of the segment, and for how long it may be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_liveness::Mac;

use crate::node::Node;
use crate::world::ms;

/// So long two nodes that hear each other may answer with different MACs: a claim may be lost a few times.
pub(crate) const TWO: Duration = ms(500);
/// So long former owners answer for a new one that does not show itself.
pub(crate) const HANDOVER: Duration = ms(10_500);
/// So long an address may be without an answer while a node that could answer hears the segment: an owner that was never
/// heard is given 10 s, and then every rank has its turn.
pub(crate) const NONE: Duration = ms(13_500);

/// A node: its part of the segment, whether its process runs, its answer for each address.
type View = (u8, bool, Vec<Option<(Mac, bool)>>);

#[derive(Default)]
pub(crate) struct Judge {
    /// Two MACs, or none, since then, by address and part of the segment.
    two: BTreeMap<(IpAddr, u8), Duration>,
    former: BTreeMap<(IpAddr, u8), Duration>,
    none: BTreeMap<(IpAddr, u8), Duration>,
    /// What is answered, to see changes.
    picture: Vec<View>,
    /// Longest times seen.
    pub(crate) longest_two: Duration,
    pub(crate) longest_none: Duration,
    /// Each time without an answer: address, begin, length.
    pub(crate) gaps: Vec<(IpAddr, Duration, Duration)>,
    pub(crate) complaints: Vec<String>,
}

impl Judge {
    pub(crate) fn look<'a>(
        &mut self,
        now: Duration,
        nodes: &[Node],
        mute: [&BTreeSet<(usize, usize)>; 2],
        addresses: impl Iterator<Item = &'a IpAddr> + Clone,
    ) {
        let sees = |node: &Node| {
            let answers = addresses.clone().map(|address| node.answers(*address));
            (node.segment, node.running().is_some(), answers.collect())
        };
        let picture: Vec<_> = nodes.iter().map(sees).collect();
        if picture == self.picture {
            return;
        }
        self.picture = picture;
        let segments: BTreeSet<u8> = nodes.iter().map(|node| node.segment).collect();
        for address in addresses {
            let known: Vec<u8> = self
                .none
                .keys()
                .chain(self.two.keys())
                .map(|(_, segment)| *segment)
                .collect();
            for segment in segments.iter().copied().chain(known).collect::<BTreeSet<_>>() {
                self.judge(now, nodes, mute, *address, segment);
            }
        }
    }

    fn judge(
        &mut self,
        now: Duration,
        nodes: &[Node],
        mute: [&BTreeSet<(usize, usize)>; 2],
        address: IpAddr,
        segment: u8,
    ) {
        let here = || {
            nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.segment == segment && node.kernel)
        };
        let answers = here().filter_map(|(number, node)| Some((number, node.answers(address)?)));
        let answers: Vec<(usize, (Mac, bool))> = answers.collect();
        let macs: BTreeSet<Mac> = answers.iter().map(|(_, (mac, _))| *mac).collect();
        // Whoever cannot be told cannot know.
        let mute = answers.iter().any(|(one, _)| {
            answers
                .iter()
                .any(|(two, _)| mute.iter().any(|m| m.contains(&(*one, *two))))
        });
        let key = (address, segment);
        let differ = macs.len() > 1 && !mute;
        // Two former owners, of the two sides of a split, may both wait for a third that does not show itself.
        let owned = answers
            .iter()
            .any(|(number, _)| nodes[*number].believes_to_own(address));
        let two = span(&mut self.two, key, differ && owned, now);
        let former = span(&mut self.former, key, differ && !owned, now);
        self.longest_two = self.longest_two.max(two);
        if two > TWO || former > HANDOVER {
            self.complaints.push(format!(
                "{address} was answered twice on {segment} for {two:?}, by former owners for {former:?}, until {now:?}: {answers:?}"
            ));
        }
        let capable = here().any(|(_, node)| node.capable(address));
        let begin = self.none.get(&key).copied();
        let none = span(&mut self.none, key, macs.is_empty() && capable, now);
        if macs.is_empty() {
            self.longest_none = self.longest_none.max(none);
            if none > NONE {
                self.complaints.push(format!(
                    "{address} was not answered on {segment} for {none:?} until {now:?}"
                ));
            }
        } else if let Some(begin) = begin {
            self.longest_none = self.longest_none.max(now - begin);
            self.gaps.push((address, begin, now - begin));
        }
    }

    /// The segment has been split or healed: what was before says nothing.
    pub(crate) fn forget(&mut self) {
        self.two.clear();
        self.former.clear();
        self.none.clear();
        self.picture.clear();
    }
}

/// How long something has been so, and forgets it when it no longer is.
fn span(since: &mut BTreeMap<(IpAddr, u8), Duration>, key: (IpAddr, u8), holds: bool, now: Duration) -> Duration {
    let begin = since.get(&key).copied();
    if holds {
        since.entry(key).or_insert(now);
    } else {
        since.remove(&key);
    }
    begin.map_or(Duration::ZERO, |begin| now - begin)
}
