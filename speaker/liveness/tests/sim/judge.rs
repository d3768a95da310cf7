//! What must hold at every moment: who answers for which address, on each part of the segment, and for how long it may be
//! wrong.
//!
//! | law | bound |
//! | --- | --- |
//! | nodes that hear each other answer with one MAC, where both go by owning the address, or one does, has not read that it is to hand it over, and knows the other | [`Judge::two`] |
//! | the same, where one answers in another's name, and the other does, or is to hand the address over, or does not know of the first | [`HANDOVER`] |
//! | an address is answered, with the MAC of a node that lives, where a standby is ready: it and the owner have known each other, and nothing has happened to it since | [`Judge::none`] |
//! | the same, where somebody could answer | [`NONE`] |
//! | what a process knows of an address does not get less | at once |
//!
//! The second bound is that of a former owner which never hears that the new one answers: the two are deaf to each other, or the new
//! one ended in that moment and a standby answers in its name. It is also that of a standby which was left out of a placement, has not read
//! it, and answers in the name of an owner before. And a standby that the owner does not know of (it goes by an old
//! placement) promises nothing: an owner that loses its link asks those that it knows.
//!
//! It looks after every event. What it saw then held until it looks again, so nothing is too short or too long to be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::{Mac, Placement};

use crate::node::Node;
use crate::world::ms;

/// So long two nodes that hear each other may answer with different MACs: a claim may be lost a few times.
pub(crate) const TWO: Duration = ms(500);
/// So long a former owner answers for a new one that it does not hear.
const HANDOVER: Duration = ms(10_500);
/// So long an address may be without an answer where a standby is ready: questions and answers may be lost a few times.
pub(crate) const SOON: Duration = ms(1_000);
/// The same where none is: an owner that was never heard is given 10 s, and then every rank has its turn.
const NONE: Duration = ms(13_500);
/// A standby that has heard its owner for so long knows it.
const KNOWN: Duration = ms(1_000);

/// An address on a part of the segment.
type Place = (IpAddr, u8);

/// A node and an address.
struct Part {
    /// The MAC that the node answers with, and whether it is in another's name.
    answer: Option<(Mac, bool)>,
    /// As its process knows it.
    belief: Option<Placement>,
    /// It has read a better one, and waits for the owner named there.
    waits: bool,
    /// It could answer.
    capable: bool,
}

/// A node.
struct View {
    name: Arc<str>,
    mac: Mac,
    segment: u8,
    kernel: bool,
    link: bool,
    /// Its process, and whether that runs.
    run: Option<(u64, bool)>,
    parts: BTreeMap<IpAddr, Part>,
}

impl View {
    fn new<'a>(node: &Node, addresses: impl Iterator<Item = &'a IpAddr>) -> View {
        let part = |address: &IpAddr| {
            let part = Part {
                answer: node.answers(*address),
                belief: node.belief(*address).cloned(),
                waits: node.waits(*address),
                capable: node.capable(*address),
            };
            (*address, part)
        };
        View {
            name: Arc::clone(&node.name),
            mac: node.mac,
            segment: node.segment,
            kernel: node.kernel,
            link: node.link,
            run: node
                .process
                .as_ref()
                .map(|process| (process.run, node.running().is_some())),
            parts: addresses.map(part).collect(),
        }
    }

    /// Nothing of it has changed.
    fn is(&self, node: &Node) -> bool {
        let same = |(address, part): (&IpAddr, &Part)| {
            part.answer == node.answers(*address)
                && part.belief.as_ref() == node.belief(*address)
                && part.waits == node.waits(*address)
                && part.capable == node.capable(*address)
        };
        let run = node
            .process
            .as_ref()
            .map(|process| (process.run, node.running().is_some()));
        (self.segment, self.kernel, self.link, self.run) == (node.segment, node.kernel, node.link, run)
            && self.parts.iter().all(same)
    }

    fn runs(&self) -> bool {
        self.run.is_some_and(|(_, runs)| runs)
    }

    fn answer(&self, address: &IpAddr) -> Option<Mac> {
        self.parts[address].answer.map(|(mac, _)| mac)
    }

    /// The owner it goes by, if this node stands by for it.
    fn stands_by(&self, address: &IpAddr) -> Option<&str> {
        let belief = self.parts[address].belief.as_ref()?;
        belief.rank(&self.name).map(|_| &*belief.owner)
    }

    /// Goes by owning the address.
    fn owns(&self, address: &IpAddr) -> bool {
        let belief = self.parts[address].belief.as_ref();
        belief.is_some_and(|belief| belief.owner == self.name)
    }

    /// Goes by owning the address, and by this standby.
    fn knows(&self, address: &IpAddr, standby: &str) -> bool {
        let belief = self.parts[address].belief.as_ref();
        self.owns(address) && belief.is_some_and(|belief| belief.rank(standby).is_some())
    }

    /// Goes by owning the address for good, and by this standby.
    fn settled(&self, address: &IpAddr, standby: &str) -> bool {
        self.knows(address, standby) && !self.parts[address].waits
    }

    /// Owns the address, and answers for it.
    fn serves(&self, address: &IpAddr) -> bool {
        self.owns(address) && self.answer(address) == Some(self.mac)
    }
}

/// A standby of an address.
struct Standby {
    /// The owner it goes by: the number of the node.
    owner: usize,
    /// They have been well, both, since then.
    well: Option<Duration>,
    /// It knows the owner.
    ready: bool,
}

/// See the module.
pub(crate) struct Judge {
    /// For two answers.
    pub(crate) two: Duration,
    /// For none, where a standby is ready.
    pub(crate) none: Duration,
    /// What is so at present, and since when.
    twice: BTreeMap<Place, Duration>,
    former: BTreeMap<Place, Duration>,
    silent: BTreeMap<Place, Duration>,
    idle: BTreeMap<Place, Duration>,
    standbys: BTreeMap<(IpAddr, usize), Standby>,
    /// What was seen last.
    views: Vec<View>,
    mute: BTreeSet<(usize, usize)>,
    /// The longest times seen: of two answers, and of none although a standby is ready.
    pub(crate) longest: [Duration; 2],
    /// Each time without an answer: address, begin, length.
    pub(crate) gaps: Vec<(IpAddr, Duration, Duration)>,
    complaints: BTreeMap<(&'static str, IpAddr, Duration), String>,
}

impl Default for Judge {
    fn default() -> Judge {
        Judge {
            two: TWO,
            none: SOON,
            twice: BTreeMap::new(),
            former: BTreeMap::new(),
            silent: BTreeMap::new(),
            idle: BTreeMap::new(),
            standbys: BTreeMap::new(),
            views: Vec::new(),
            mute: BTreeSet::new(),
            longest: [Duration::ZERO; 2],
            gaps: Vec::new(),
            complaints: BTreeMap::new(),
        }
    }
}

impl Judge {
    /// Looks at the nodes, only `changed` of which can be another than before, if that is one; at the pairs of them that cannot
    /// tell each other anything; and at the addresses.
    pub(crate) fn look<'a>(
        &mut self,
        now: Duration,
        nodes: &[Node],
        changed: Option<usize>,
        mute: BTreeSet<(usize, usize)>,
        addresses: impl Iterator<Item = &'a IpAddr> + Clone,
    ) {
        // All nodes and addresses are there from the beginning.
        let mut pairs = self.views.iter().zip(nodes);
        let same = match changed {
            Some(node) => pairs.nth(node).is_some_and(|(view, node)| view.is(node)),
            None => pairs.all(|(view, node)| view.is(node)),
        };
        if same && !self.views.is_empty() && mute == self.mute {
            return;
        }
        let views: Vec<View> = nodes.iter().map(|node| View::new(node, addresses.clone())).collect();
        self.close(now);
        self.compare(now, &views);
        self.views = views;
        self.mute = mute;
        for address in addresses {
            self.follow(now, *address);
            let segments: BTreeSet<u8> = self.views.iter().map(|view| view.segment).collect();
            for segment in segments {
                self.judge(now, (*address, segment));
            }
        }
    }

    /// What was seen last held until now.
    pub(crate) fn close(&mut self, now: Duration) {
        for standby in self.standbys.values_mut() {
            standby.ready |= standby.well.is_some_and(|since| since + KNOWN <= now);
        }
        let mut said = Vec::new();
        for (place, since) in &self.twice {
            self.longest[0] = self.longest[0].max(now - *since);
            said.push(("is answered twice", *place, *since, self.two));
        }
        for (place, since) in &self.former {
            said.push(("is answered twice by former owners", *place, *since, HANDOVER));
        }
        for (place, since) in &self.idle {
            said.push(("is not answered", *place, *since, NONE));
        }
        let ready = |(place, _): &(&Place, &Duration)| self.ready(place).is_some();
        let silent: Vec<(Place, Duration)> = self
            .silent
            .iter()
            .filter(ready)
            .map(|(place, since)| (*place, *since))
            .collect();
        for (place, since) in silent {
            self.longest[1] = self.longest[1].max(now - since);
            said.push(("is not answered though a standby is ready", place, since, self.none));
        }
        for (law, place, since, bound) in said {
            if now - since > bound {
                let (address, segment) = place;
                let text = format!(
                    "{address} {law} on part {segment} from {since:?} to {now:?}: {}",
                    self.show(&place)
                );
                self.complaints.insert((law, address, since), text);
            }
        }
    }

    /// A standby that has known the owner of the address, and to which nothing has happened since.
    fn ready(&self, (address, segment): &Place) -> Option<usize> {
        let ready = self
            .standbys
            .iter()
            .find(|((of, node), standby)| of == address && standby.ready && self.views[*node].segment == *segment);
        ready.map(|((_, node), _)| *node)
    }

    fn show(&self, place: &Place) -> String {
        let here = self.views.iter().filter(|view| view.segment == place.1);
        let show = |view: &View| {
            let Part { answer, belief, .. } = &view.parts[&place.0];
            format!("{} {:?} answers {answer:?} by {belief:?}", view.name, view.run)
        };
        let ready = self.ready(place).map(|node| &self.views[node].name);
        let all: Vec<String> = here.map(show).collect();
        format!("{}; ready: {ready:?}", all.join(", "))
    }

    /// What a process knows only grows.
    fn compare(&mut self, now: Duration, views: &[View]) {
        for (before, after) in self.views.iter().zip(views) {
            let same = before.run.map(|(run, _)| run) == after.run.map(|(run, _)| run);
            for (address, part) in before.parts.iter().filter(|_| same) {
                let after = after.parts.get(address).and_then(|part| part.belief.as_ref());
                let (Some(known), Some(later)) = (&part.belief, after) else {
                    continue;
                };
                if later.order() < known.order() {
                    let law = "is known less of";
                    let text = format!(
                        "{address} {law} by {}: {later:?} after {known:?} at {now:?}",
                        before.name
                    );
                    self.complaints.insert((law, *address, now), text);
                }
            }
        }
    }

    /// Which standbys are ready.
    fn follow(&mut self, now: Duration, address: IpAddr) {
        for (number, view) in self.views.iter().enumerate() {
            let owner = view.stands_by(&address).filter(|_| view.runs() && view.link);
            let owner = owner.and_then(|owner| self.views.iter().position(|other| *other.name == *owner));
            let owner = owner.filter(|owner| view.parts[&address].capable && !self.mute(number, *owner));
            let key = (address, number);
            let Some(owner) = owner else {
                self.standbys.remove(&key);
                continue;
            };
            let master = &self.views[owner];
            let knows = master.knows(&address, &view.name);
            let well = master.segment == view.segment && master.serves(&address) && knows;
            // One that goes by another owner, or by other standbys, lives, and does nothing: whoever does not know yet has to be told
            // first.
            let misled = master.runs() && !knows;
            let known = self
                .standbys
                .remove(&key)
                .filter(|standby| standby.owner == owner && !misled);
            let standby = Standby {
                owner,
                well: well.then(|| known.as_ref().and_then(|known| known.well).unwrap_or(now)),
                ready: known.is_some_and(|known| known.ready),
            };
            self.standbys.insert(key, standby);
        }
    }

    fn mute(&self, one: usize, two: usize) -> bool {
        self.mute.contains(&(one.min(two), one.max(two)))
    }

    fn judge(&mut self, now: Duration, place: Place) {
        let (address, segment) = place;
        let here = || {
            let all = self.views.iter().enumerate();
            all.filter(|(_, view)| view.segment == segment && view.kernel)
        };
        let answers = here().filter_map(|(number, view)| Some((number, view.answer(&address)?)));
        let answers: Vec<(usize, Mac)> = answers.collect();
        let (mut twice, mut former) = (false, false);
        for (at, (one, mac)) in answers.iter().enumerate() {
            for (two, other) in &answers[at + 1..] {
                // Whoever cannot be told cannot know.
                if mac != other && !self.mute(*one, *two) {
                    let (one, two) = (&self.views[*one], &self.views[*two]);
                    let both = one.owns(&address) && two.owns(&address);
                    let settled = one.settled(&address, &two.name) || two.settled(&address, &one.name);
                    twice |= both || settled;
                    former |= !(both || settled);
                }
            }
        }
        // The MAC of a node that is gone is no answer.
        let lives = |mac: &Mac| here().any(|(_, view)| view.link && view.mac == *mac);
        let silent = !answers.iter().any(|(_, mac)| lives(mac));
        let capable = here().any(|(_, view)| view.parts[&address].capable);
        span(&mut self.twice, place, twice, now);
        span(&mut self.former, place, former, now);
        span(&mut self.idle, place, silent && capable, now);
        if let Some(begin) = span(&mut self.silent, place, silent, now) {
            self.gaps.push((address, begin, now - begin));
        }
    }

    /// The segment is split or whole again: an answer on a part of it says nothing about another part.
    pub(crate) fn forget(&mut self, now: Duration) {
        self.close(now);
        self.twice.clear();
        self.former.clear();
        self.silent.clear();
        self.idle.clear();
    }

    /// What is wrong.
    pub(crate) fn complaints(&self) -> impl Iterator<Item = &String> {
        self.complaints.values()
    }
}

/// Notes since when something has been so. When it is over, says when it began.
fn span(since: &mut BTreeMap<Place, Duration>, place: Place, holds: bool, now: Duration) -> Option<Duration> {
    if holds {
        since.entry(place).or_insert(now);
        return None;
    }
    since.remove(&place)
}
