//! This node's part in addresses at layer 2: what it owns, what it stands by for, what it has just handed over.
//!
//! [`Ownership`] stands between the news and the [`Speaker`]. Speakers take addresses over without the API server, so
//! what stands there may be behind: of the two placements, the one with the greater epoch counts (then the greater name
//! of the owner, the same order everywhere), and the `Speaker` is shown that one. A takeover of this node is written to
//! the API server until it stands there, or something greater.
//!
//! An address that was placed elsewhere stays a duty until the new owner is heard: make before break. The new owner
//! is not able before its kube-proxy is ready, nor while another machine uses an address that nobody has announced before
//! ([`Ownership::begin`]); what was taken over, was announced here before, or is stood by for is never asked about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{ConflictDetection, NodeRefusal, Placement, ServiceId, VirtualIp};

use crate::announcer::{Writes, names};
use crate::data_path::{Beginning, DataPath, WAIT, WAIT_TO_TAKE};
use crate::effect::{Announcement, Duties, Duty, Effect};
use crate::input::Input;
use crate::probes::{Probes, Segment};
use crate::speaker::Speaker;

/// What the speakers go by where that is ahead of the API server.
#[derive(Debug)]
struct Belief {
    /// Of the VirtualIP: one that was made anew knows nothing of it.
    uid: String,
    placement: Placement,
}

/// See the module.
#[derive(Debug)]
pub struct Ownership {
    node: String,
    speaker: Speaker,
    /// VirtualIPs in which this node has a part, as the API server has them.
    ips: BTreeMap<IpAddr, Arc<VirtualIp>>,
    beliefs: BTreeMap<IpAddr, Belief>,
    /// Owned until a moment ago; the new owner has yet to be heard.
    leaving: BTreeMap<IpAddr, Arc<Duty>>,
    duties: Duties,
    /// Owned and not begun: kube-proxy or the segment is waited for.
    waiting: BTreeMap<IpAddr, Wait>,
    /// Those that the run before this one had not begun, until it is known here what they wait for.
    withheld: BTreeSet<IpAddr>,
    synced: bool,
    writes: Writes,
}

/// How far a beginning is.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    /// Since when, once it was looked at.
    since: Option<Duration>,
    /// It was told.
    told: bool,
    /// Another machine uses the address.
    taken: bool,
}

/// A beginning that takes longer than kube-proxy usually does is worth a line in the log.
const WORTH_A_WORD: Duration = Duration::from_millis(1500);

impl Ownership {
    /// Stands before `speaker`, the speaker of `node`.
    pub fn new(node: impl Into<String>, speaker: Speaker) -> Self {
        Ownership {
            node: node.into(),
            speaker,
            ips: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            leaving: BTreeMap::new(),
            duties: Duties::default(),
            waiting: BTreeMap::new(),
            withheld: BTreeSet::new(),
            synced: false,
            writes: Writes::default(),
        }
    }

    /// What the speaker knows.
    pub fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    /// How many writes failed and wait for [`Input::Retry`].
    pub fn failed_writes(&self) -> usize {
        self.speaker.failed_writes() + self.writes.failed()
    }

    /// Takes one piece of news and says what to do about it.
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Restored(duties) => self.restored(duties, &mut effects),
            Input::VirtualIp(ip) => self.virtual_ip(Arc::new(ip), true, &mut effects),
            Input::VirtualIpGone(address) => {
                self.forget(address);
                effects = self.speaker.handle(Input::VirtualIpGone(address));
                self.settle([address], &mut effects);
            }
            Input::TookOver { address, placement } => self.believe(address, placement, &mut effects),
            Input::HandedOver(address) => {
                self.leaving.remove(&address);
                self.settle([address], &mut effects);
            }
            Input::PlacementWritten { address, ok } => {
                self.writes.ended(address, ok);
                self.record(address, &mut effects);
            }
            Input::Retry => {
                effects = self.speaker.handle(Input::Retry);
                for address in self.writes.retry() {
                    self.record(address, &mut effects);
                }
            }
            Input::Service(view) => {
                let id = view.id.clone();
                effects = self.speaker.handle(Input::Service(view));
                self.settle(self.claimed_by(&id), &mut effects);
            }
            Input::ServiceGone(id) => {
                effects = self.speaker.handle(Input::ServiceGone(id.clone()));
                self.settle(self.claimed_by(&id), &mut effects);
            }
            // Comes again and again.
            Input::Synced if self.synced => {}
            Input::Config(_) | Input::OwnNode(_) | Input::Synced => {
                self.synced |= matches!(input, Input::Synced);
                effects = self.speaker.handle(input);
                let all = self.ips.keys().chain(self.duties.keys()).copied().collect::<Vec<_>>();
                self.settle(all, &mut effects);
            }
            other => effects = self.speaker.handle(other),
        }
        effects.retain(|effect| !matches!(effect, Effect::Announce(_)));
        effects
    }

    /// Whether the address is placed on this node.
    pub fn owns(&self, address: IpAddr) -> bool {
        let duty = self.duties.get(&address);
        duty.is_some_and(|duty| duty.placement.owner == self.node)
    }

    /// What is to be asked for that besides kube-proxy itself.
    pub fn checks(&self, path: &DataPath) -> BTreeSet<SocketAddr> {
        let waiting = self.waiting.iter().filter(|(_, wait)| !wait.taken);
        let waiting = waiting.filter_map(|(address, _)| self.ips.get(address));
        waiting
            .flat_map(|ip| path.checks(ip.address, ip.claims.iter().map(|claim| &claim.service)))
            .collect()
    }

    /// Whether something waits for kube-proxy.
    pub fn is_waiting(&self) -> bool {
        self.waiting.values().any(|wait| !wait.taken)
    }

    /// Begins what has waited for kube-proxy or the segment and need not any more. To be called after each input or answer
    /// of either, before the effects are acted on, and at the time that it returned last.
    pub fn begin(&mut self, path: &DataPath, probes: &mut Probes, now: Duration) -> (Vec<Effect>, Option<Duration>) {
        let mut effects = Vec::new();
        let mut next: Option<Duration> = None;
        let mut begun = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        for (address, wait) in &mut waiting {
            let since = *wait.since.get_or_insert(now);
            if let Some(until) = self.ask_segment(*address, wait, probes, now, &mut effects) {
                next = Some(next.map_or(until, |next| next.min(until)));
                continue;
            }
            let Some(ip) = self.ips.get(address) else { continue };
            let settings = self.speaker.endpoint_settings(ip);
            let bound = settings.wait.unwrap_or(WAIT);
            let announcer = ip.announcer.as_ref().map(|announcer| announcer.node.as_str());
            let bound = if announcer.is_some() {
                bound.min(WAIT_TO_TAKE)
            } else {
                bound
            };
            let beginning = Beginning {
                address: *address,
                terminating: settings.serving.unwrap_or(true),
                asked: since,
            };
            let ready = path.ready(beginning, ip.claims.iter().map(|claim| &claim.service));
            let Err(why) = ready else {
                begun.push(*address);
                continue;
            };
            let (until, word) = (since + bound, since + WORTH_A_WORD);
            if now >= until {
                begun.push(*address);
                let late = Effect::DataPathNotReady {
                    address: *address,
                    waited: bound,
                    why,
                    services: self.speaker.holders_of(ip),
                };
                effects.extend((!bound.is_zero()).then_some(late));
                continue;
            }
            if now >= word && !std::mem::replace(&mut wait.told, true) {
                let why = NodeRefusal::DataPathNotReady;
                effects.push(Effect::Withheld { address: *address, why });
            }
            let look = if wait.told { until } else { until.min(word) };
            next = Some(next.map_or(look, |next| next.min(look)));
        }
        self.waiting = waiting;
        for address in &begun {
            self.waiting.remove(address);
            self.speaker.waits(*address, None);
        }
        self.settle(begun, &mut effects);
        effects.retain(|effect| !matches!(effect, Effect::Announce(_)));
        (effects, next)
    }

    /// Until when an address that nobody has announced yet waits, because the question whether another machine uses it is
    /// open, or because one does.
    fn ask_segment(
        &mut self,
        address: IpAddr,
        wait: &mut Wait,
        probes: &mut Probes,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Option<Duration> {
        let ip = self.ips.get(&address)?;
        let duty = self.duties.get(&address).filter(|_| ip.announcer.is_none());
        let segment = match duty.filter(|duty| asks(duty)) {
            Some(duty) => probes.judge(address, &duty.interfaces, now),
            None => Segment::Free,
        };
        match segment {
            Segment::Open(until) => Some(until),
            Segment::Taken(stranger, until) => {
                let why = NodeRefusal::AddressOccupied;
                if !std::mem::replace(&mut wait.taken, true) {
                    self.speaker.waits(address, Some(why));
                    effects.push(Effect::Withheld { address, why });
                }
                self.speaker
                    .conflict(address, stranger.interface, stranger.mac, effects);
                Some(until)
            }
            Segment::Free => {
                if wait.taken {
                    // What kube-proxy may take is counted from now on.
                    *wait = Wait {
                        since: Some(now),
                        ..Wait::default()
                    };
                    self.speaker.waits(address, Some(NodeRefusal::DataPathNotReady));
                }
                None
            }
        }
    }

    /// What the last run knew counts until the API server is heard in full; what it had taken over counts on.
    fn restored(&mut self, duties: Duties, effects: &mut Vec<Effect>) {
        if self.synced || duties == self.duties {
            return;
        }
        for (address, duty) in duties.iter().filter(|(_, duty)| duty.placement.owner == self.node) {
            let belief = Belief {
                uid: duty.uid.clone(),
                placement: duty.placement.clone(),
            };
            self.beliefs.insert(*address, belief);
        }
        effects.extend(self.speaker.handle(Input::Restored(duties.clone())));
        let withheld = duties
            .iter()
            .filter(|(_, duty)| !duty.able && duty.placement.owner == self.node);
        self.withheld = withheld.map(|(address, _)| *address).collect();
        self.duties = duties;
        effects.push(Effect::Duties(self.duties.clone()));
    }

    /// Takes in a VirtualIP. An address that another node owns now is handed over, if there is somebody `to_wait_for`.
    fn virtual_ip(&mut self, ip: Arc<VirtualIp>, to_wait_for: bool, effects: &mut Vec<Effect>) {
        let address = ip.address;
        let counts = self.counts(&ip);
        let mine = |placement: &Placement| placement.owner == self.node;
        let standby = |placement: &Placement| placement.standbys.contains(&self.node);
        match (&counts, self.duties.get(&address)) {
            (Some(placement), Some(duty)) if mine(&duty.placement) && !mine(placement) => {
                if to_wait_for && duty.uid == ip.uid {
                    let placement = placement.clone();
                    self.leaving.insert(
                        address,
                        Arc::new(Duty {
                            placement,
                            ..Duty::clone(duty)
                        }),
                    );
                }
            }
            (Some(placement), _) if !mine(placement) => {
                if let Some(leaving) = self.leaving.get_mut(&address) {
                    Arc::make_mut(leaving).placement = placement.clone();
                }
                if names(ip.announcer.as_ref(), &placement.owner) {
                    self.leaving.remove(&address);
                }
            }
            _ => {
                self.leaving.remove(&address);
            }
        }
        let concerns = counts.as_ref().is_some_and(|p| mine(p) || standby(p)) || self.leaving.contains_key(&address);
        if concerns {
            self.ips.insert(address, Arc::clone(&ip));
        } else {
            self.forget(address);
        }
        self.speaker.virtual_ip(ip, counts, effects);
        self.settle([address], effects);
    }

    fn forget(&mut self, address: IpAddr) {
        self.ips.remove(&address);
        self.beliefs.remove(&address);
        self.leaving.remove(&address);
        self.writes.forget(address);
    }

    /// The placement that counts. A belief that the API server has caught up with is dropped.
    fn counts(&mut self, ip: &VirtualIp) -> Option<Placement> {
        let belief = self.beliefs.get(&ip.address);
        let ahead = |belief: &&Belief| {
            belief.uid == ip.uid
                && ip
                    .placement
                    .as_ref()
                    .is_some_and(|p| belief.placement.order() > p.order())
        };
        match belief.filter(ahead) {
            Some(belief) => Some(belief.placement.clone()),
            None => {
                self.beliefs.remove(&ip.address);
                ip.placement.clone()
            }
        }
    }

    /// A takeover was heard of, or made.
    fn believe(&mut self, address: IpAddr, placement: Placement, effects: &mut Vec<Effect>) {
        let Some(ip) = self.ips.get(&address).cloned() else {
            return self.believe_unheard(address, placement, effects);
        };
        let known = self.beliefs.get(&address).map(|belief| &belief.placement);
        if known.is_some_and(|known| known.order() >= placement.order()) {
            return;
        }
        let uid = ip.uid.clone();
        self.beliefs.insert(address, Belief { uid, placement });
        // The guard has heard of it first: there is nobody left to wait for.
        self.virtual_ip(ip, false, effects);
    }

    /// The same before the API server was heard: the snapshot knows the address.
    fn believe_unheard(&mut self, address: IpAddr, placement: Placement, effects: &mut Vec<Effect>) {
        let Some(duty) = self.duties.get(&address) else {
            return;
        };
        if duty.placement.order() >= placement.order() {
            return;
        }
        let uid = duty.uid.clone();
        if let Some(duty) = Arc::make_mut(&mut self.duties).get_mut(&address) {
            Arc::make_mut(duty).placement = placement.clone();
        }
        self.beliefs.insert(address, Belief { uid, placement });
        effects.push(Effect::Duties(self.duties.clone()));
    }

    /// Brings duties up to date, and writes down what this node took over.
    fn settle(&mut self, addresses: impl IntoIterator<Item = IpAddr>, effects: &mut Vec<Effect>) {
        let mut changed = false;
        for address in addresses {
            let mut duty = match self.synced {
                true => self.duty(address),
                false => self.restored_duty(address),
            };
            self.hold_back(address, duty.as_mut());
            // What has not changed stays shared with all who were told of it.
            if self.duties.get(&address).map(Arc::as_ref) != duty.as_ref() {
                changed = true;
                match duty {
                    Some(duty) => Arc::make_mut(&mut self.duties).insert(address, Arc::new(duty)),
                    None => Arc::make_mut(&mut self.duties).remove(&address),
                };
            }
            self.record(address, effects);
        }
        if changed {
            effects.insert(0, Effect::Duties(self.duties.clone()));
        }
    }

    fn duty(&self, address: IpAddr) -> Option<Duty> {
        let ip = self.ips.get(&address)?;
        let belief = self.beliefs.get(&address).map(|belief| &belief.placement);
        let placement = belief.or(ip.placement.as_ref())?;
        let before = self.duties.get(&address);
        let announcement = if placement.owner == self.node {
            let Some(wanted) = self.speaker.wanted_as(address) else {
                let owned = before.filter(|duty| duty.placement.owner == self.node && self.speaker.is_claimed(ip))?;
                return Some(Duty {
                    placement: placement.clone(),
                    able: false,
                    ..Duty::clone(owned)
                });
            };
            wanted.clone()
        } else if placement.standbys.contains(&self.node) {
            self.speaker.would_announce(ip)?
        } else {
            return self.leaving.get(&address).map(|duty| Duty::clone(duty));
        };
        let Announcement { interfaces, manner, .. } = announcement;
        let announcer = ip.announcer.as_ref().map(|announcer| announcer.node.clone());
        Some(Duty {
            uid: ip.uid.clone(),
            interfaces,
            placement: placement.clone(),
            previous_owner: announcer.filter(|node| *node != placement.owner),
            able: true,
            liveness: self.speaker.liveness(ip),
            manner,
        })
    }

    /// An owner that does not answer yet is not able until [`Self::begin`] says so.
    fn hold_back(&mut self, address: IpAddr, duty: Option<&mut Duty>) {
        let owned = duty.filter(|duty| duty.able && duty.placement.owner == self.node);
        let Some(owned) = owned.filter(|_| self.synced) else {
            self.waiting.remove(&address);
            return self.speaker.waits(address, None);
        };
        let before = self.duties.get(&address);
        let withheld = self.withheld.remove(&address);
        let waits = withheld || self.waiting.contains_key(&address);
        let begun =
            before.is_some_and(|before| before.placement.owner == self.node && !waits && before.uid == owned.uid);
        let taken = self
            .beliefs
            .get(&address)
            .is_some_and(|b| b.placement.owner == self.node);
        let announced = self
            .ips
            .get(&address)
            .is_some_and(|ip| names(ip.announcer.as_ref(), &self.node));
        if begun || taken || announced {
            self.waiting.remove(&address);
        } else {
            self.waiting.entry(address).or_default();
            owned.able = false;
        }
        let why = |wait: &Wait| match wait.taken {
            true => NodeRefusal::AddressOccupied,
            false => NodeRefusal::DataPathNotReady,
        };
        let why = self.waiting.get(&address).map(why);
        self.speaker.waits(address, why);
    }

    /// Before the API server was heard in full only what a VirtualIP itself takes away goes.
    fn restored_duty(&self, address: IpAddr) -> Option<Duty> {
        let duty = self.duties.get(&address)?;
        let owned = duty.placement.owner == self.node;
        (!owned || self.speaker.wanted_as(address).is_some()).then(|| Duty::clone(duty))
    }

    /// Asks for the write of a takeover by this node that the API server does not know yet.
    fn record(&mut self, address: IpAddr, effects: &mut Vec<Effect>) {
        let Some(ip) = self.ips.get(&address).filter(|_| self.synced) else {
            return;
        };
        let belief = self.beliefs.get(&address).map(|belief| &belief.placement);
        let mine = belief.filter(|placement| placement.owner == self.node);
        if self.writes.begin(address, &ip.resource_version, mine.is_none())
            && let Some(placement) = mine
        {
            effects.push(Effect::SetPlacement {
                address,
                placement: placement.clone(),
                resource_version: ip.resource_version.clone(),
            });
        }
    }

    fn claimed_by(&self, id: &ServiceId) -> Vec<IpAddr> {
        let claims = |ip: &VirtualIp| ip.claims.iter().any(|claim| claim.service == *id);
        self.ips.iter().filter(|(_, ip)| claims(ip)).map(|(a, _)| *a).collect()
    }
}

/// Whether the segment is asked before the address begins to be announced.
fn asks(duty: &Duty) -> bool {
    duty.manner.conflicts.unwrap_or(ConflictDetection::Probe) == ConflictDetection::Probe
}
