//! The world: time, network, segment, processes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::{Duties, Effect, Ground, Input, Link, Note, Outcome, Placement, Question, Role, Timing, Wanted};

use crate::judge::Judge;
use crate::node::{Node, Process, Waiting};
use crate::sabotage::Sabotage;

/// What clocks say at first. They may be put back.
const NOON: Duration = Duration::from_secs(12 * 3600);
/// So long a run with a smaller number than one before it may not be heard.
const DISBELIEF: Duration = ms(10_100);

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What happens at a time. A process is named by node and run: what was meant for an older run is lost.
pub(crate) enum Event {
    Tick(usize, u64),
    Datagram {
        to: usize,
        from: IpAddr,
        bytes: Vec<u8>,
    },
    Note(usize, u64, Note),
    Apply(usize, u64, Arc<Wanted>),
    Try {
        node: usize,
        run: u64,
        question: Question,
        left: u32,
    },
    Resume(usize, u64),
    Ground(usize, u64),
    Watch(usize),
    Record,
    End(usize, u64),
    Do(Box<dyn FnOnce(&mut World)>),
}

impl Event {
    /// The node that may be another afterwards; all of them if it is not one.
    fn concerns(&self) -> Option<usize> {
        match self {
            Event::Tick(node, _)
            | Event::Datagram { to: node, .. }
            | Event::Note(node, ..)
            | Event::Apply(node, ..)
            | Event::Try { node, .. }
            | Event::Resume(node, _)
            | Event::Ground(node, _)
            | Event::Watch(node)
            | Event::End(node, _) => Some(*node),
            Event::Record | Event::Do(_) => None,
        }
    }
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) rng: fastrand::Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) api: BTreeMap<IpAddr, (Placement, Option<Placement>)>,
    pub(crate) api_up: bool,
    pub(crate) timing: Timing,
    /// Frames and datagrams lost, of a thousand.
    pub(crate) loss: u32,
    /// Longest delay of a frame; datagrams take up to twice as long.
    pub(crate) delay: Duration,
    /// Pairs whose heartbeats are lost while the segment is whole.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Pairs that hear nothing at all of each other.
    pub(crate) deaf: BTreeSet<(usize, usize)>,
    /// Nodes whose datagrams count as old until then: they run under a smaller number than before.
    pub(crate) disbelieved: BTreeMap<usize, Duration>,
    /// Nodes without a link, which the controller does not know.
    pub(crate) hidden: BTreeSet<usize>,
    /// The node whose speaker does not come back.
    pub(crate) gone: Option<usize>,
    pub(crate) judge: Judge,
    pub(crate) outcomes: Vec<(Duration, usize, Outcome)>,
    /// Faults so far that may have made an address change its owner.
    pub(crate) hits: BTreeMap<IpAddr, usize>,
    /// Falsifies what guards say and are told.
    pub(crate) sabotage: Sabotage,
    pub(crate) trace: bool,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, Event>,
    count: u64,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, timing: Timing) -> World {
        let node = |number: usize| {
            let octet = u8::try_from(number + 1).unwrap();
            Node {
                name: format!("node-{number}").into(),
                ip: Ipv4Addr::new(10, 0, 0, octet).into(),
                mac: [2, 0, 0, 0, 0, octet],
                kernel: true,
                process: None,
                runs: 0,
                snapshot: Arc::default(),
                last_run: None,
                greatest_run: 0,
                clock: NOON,
                segment: 0,
                link: true,
                api: true,
                load: Duration::ZERO,
            }
        };
        World {
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            nodes: (0..nodes).map(node).collect(),
            api: BTreeMap::new(),
            api_up: true,
            timing,
            loss: 0,
            delay: ms(1),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            disbelieved: BTreeMap::new(),
            hidden: BTreeSet::new(),
            gone: None,
            judge: Judge::default(),
            outcomes: Vec::new(),
            hits: BTreeMap::new(),
            sabotage: Sabotage::default(),
            trace: std::env::var("FERROLB_SEED").is_ok(),
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
        }
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at.max(self.now), self.count)));
        self.what.insert(self.count, event);
    }

    /// A fault of this node, or of all: each address that it has to do with may change its owner.
    pub(crate) fn hit(&mut self, node: Option<usize>) {
        for (address, (placement, _)) in &self.api {
            let concerns = |node: usize| {
                let node = &self.nodes[node];
                node.has_part(*address) || placement.owner == node.name
            };
            if node.is_none_or(concerns) {
                *self.hits.entry(*address).or_default() += 1;
            }
        }
    }

    /// Something that is done to the world at a time.
    pub(crate) fn plan(&mut self, at: Duration, what: impl FnOnce(&mut World) + 'static) {
        self.at(at, Event::Do(Box::new(what)));
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.1} {}", self.now.as_secs_f64() * 1e3, text());
        }
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_micros(self.rng.u64(least.as_micros() as u64..=most.as_micros() as u64))
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((at, number))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            let Some(event) = self.what.remove(&number) else {
                continue;
            };
            let node = event.concerns();
            self.happen(event);
            self.judge
                .look(self.now, &self.nodes, node, self.mute(), self.api.keys());
        }
        self.now = end;
        self.judge.close(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(node, run) => self.tick(node, run),
            Event::Datagram { to, from, bytes } => self.give(to, None, Waiting::Datagram(from, bytes, self.now)),
            Event::Note(node, run, note) => self.give(node, Some(run), Waiting::Note(note)),
            Event::Apply(node, run, wanted) => self.give(node, Some(run), Waiting::Apply(wanted)),
            Event::Ground(node, run) => self.give(node, Some(run), Waiting::Ground),
            Event::Try {
                node,
                run,
                question,
                left,
            } => self.ask(node, run, question, left),
            Event::Resume(node, run) => self.resume(node, run),
            Event::Watch(node) => self.watch(node),
            Event::Record => self.record(),
            Event::End(node, run) => {
                if self.process(node, Some(run)).is_some() {
                    self.kill(node);
                }
            }
            Event::Do(what) => what(self),
        }
    }

    pub(crate) fn process(&mut self, node: usize, run: Option<u64>) -> Option<&mut Process> {
        let process = self.nodes[node].process.as_mut()?;
        run.is_none_or(|run| process.run == run).then_some(process)
    }

    /// What arrives at a process, or waits there while it stands still.
    pub(crate) fn give(&mut self, node: usize, run: Option<u64>, what: Waiting) {
        let Some(process) = self.process(node, run) else { return };
        if process.stalled_until.is_some() {
            process.inbox.push(what);
        } else {
            self.take(node, what);
        }
    }

    fn take(&mut self, node: usize, what: Waiting) {
        match what {
            Waiting::Datagram(from, bytes, at) => {
                let bytes = &bytes;
                self.handle(node, Input::Datagram { from, bytes, at });
            }
            Waiting::Note(note) => self.handle(node, Input::Note(note)),
            Waiting::Duties(duties) => self.handle(node, Input::Duties(duties)),
            Waiting::Apply(wanted) => self.apply(node, wanted),
            Waiting::Ground => {
                let Node { ip, mac, link, .. } = self.nodes[node];
                let there = link.then(|| Link {
                    interface: "eth0".to_owned(),
                    mac,
                    addresses: BTreeSet::from([ipnet::IpNet::new(ip, 24).unwrap()]),
                });
                let ground = Ground {
                    answering: true,
                    links: there.into_iter().collect(),
                };
                self.handle(node, Input::Ground(Arc::new(ground)));
            }
        }
    }

    fn handle(&mut self, node: usize, input: Input<'_>) {
        let (now, trace) = (self.now, self.trace);
        let Some(process) = self.process(node, None) else {
            return;
        };
        let (run, before) = (process.run, trace.then(|| process.guard.beliefs()));
        let effects = process.handle(input, now);
        if let Some(before) = before {
            let beliefs = process.guard.beliefs();
            for (address, belief) in beliefs.iter().filter(|(a, belief)| before.get(a) != Some(belief)) {
                self.say(|| format!("node-{node} goes by {belief:?} for {address}"));
            }
        }
        for mut effect in effects {
            if (self.sabotage.effects)(node, now, &mut effect) {
                self.effect(node, run, effect);
            }
        }
        self.sleep(node);
    }

    /// When the process wakes up by itself: a little late, or more under load.
    fn sleep(&mut self, node: usize) {
        let load = self.nodes[node].load.max(Duration::from_micros(500));
        let late = self.between(Duration::ZERO, load);
        let now = self.now;
        let Some(process) = self.process(node, None) else {
            return;
        };
        let Some(deadline) = process.deadline() else {
            return;
        };
        if process.tick_at.is_none_or(|at| deadline < at) {
            let at = deadline.max(now) + late;
            process.tick_at = Some(at);
            let run = process.run;
            self.at(at, Event::Tick(node, run));
        }
    }

    fn tick(&mut self, node: usize, run: u64) {
        let now = self.now;
        let Some(process) = self.process(node, Some(run)) else {
            return;
        };
        if process.stalled_until.is_some() || process.tick_at != Some(now) {
            return;
        }
        process.tick_at = None;
        if process.deadline().is_some_and(|at| at <= now) {
            self.handle(node, Input::Tick);
        } else {
            self.sleep(node);
        }
    }

    fn effect(&mut self, node: usize, run: u64, effect: Effect) {
        match effect {
            Effect::Send { to, bytes } => self.send(node, to, &bytes),
            Effect::Wanted(wanted) => {
                if let Some(process) = self.process(node, None) {
                    process.told = Arc::clone(&wanted);
                }
                // In order, as through a channel.
                let at = self.now + Duration::from_micros(300);
                self.at(at, Event::Apply(node, run, wanted));
            }
            Effect::Ask(question) => {
                let told = self
                    .process(node, None)
                    .map(|process| Arc::clone(&process.told))
                    .unwrap_or_default();
                let known = |address: &IpAddr| told.addresses.contains_key(address) || told.peers.contains(address);
                assert!(
                    question.addresses.iter().all(known),
                    "{question:?} has addresses that are not wanted"
                );
                let (at, left) = (self.now + Duration::from_micros(400), question.tries);
                self.at(
                    at,
                    Event::Try {
                        node,
                        run,
                        question,
                        left,
                    },
                );
            }
            Effect::Announce(addresses) => addresses.iter().for_each(|address| self.announce(node, *address)),
            Effect::Outcome(outcome) => {
                self.say(|| format!("node-{node} {outcome:?}"));
                if let Outcome::TookOver { address, placement, .. } | Outcome::Yielded { address, placement } = &outcome
                {
                    let mut snapshot = Duties::clone(&self.nodes[node].snapshot);
                    if let Some(duty) = snapshot.addresses.get_mut(address) {
                        Arc::make_mut(duty).placement = placement.clone();
                    }
                    self.nodes[node].snapshot = Arc::new(snapshot);
                    let at = self.now + ms(20);
                    self.at(at, Event::Record);
                }
                self.outcomes.push((self.now, node, outcome));
            }
            Effect::Leave => {
                let at = self.now + ms(1);
                self.at(at, Event::End(node, run));
            }
        }
    }

    /// Layer 2 changes what it does.
    fn apply(&mut self, node: usize, wanted: Arc<Wanted>) {
        let Some(process) = self.process(node, None) else {
            return;
        };
        let before = std::mem::replace(&mut process.applied, Arc::clone(&wanted));
        let own = |wanted: &Wanted, address| wanted.addresses.get(address).is_some_and(|want| want.role == Role::Own);
        let begun: Vec<IpAddr> = wanted
            .addresses
            .keys()
            .filter(|a| own(&wanted, a) && !own(&before, a))
            .copied()
            .collect();
        for address in begun {
            self.announce(node, address);
        }
    }

    /// The process stands still for so long.
    pub(crate) fn stall(&mut self, node: usize, time: Duration) {
        let until = self.now + time;
        let Some(process) = self.process(node, None) else {
            return;
        };
        if process.stalled_until.is_none() {
            process.stalled_until = Some(until);
            let run = process.run;
            self.say(|| format!("node-{node} stands still for {time:?}"));
            self.at(until, Event::Resume(node, run));
        }
    }

    fn resume(&mut self, node: usize, run: u64) {
        let Some(process) = self.process(node, Some(run)) else {
            return;
        };
        process.stalled_until = None;
        process.tick_at = None;
        for waiting in std::mem::take(&mut process.inbox) {
            self.take(node, waiting);
        }
        let now = self.now;
        let tick = self.process(node, Some(run)).and_then(|process| process.deadline());
        if tick.is_some_and(|at| at <= now) {
            self.handle(node, Input::Tick);
        } else {
            self.sleep(node);
        }
    }

    /// The process dies, without a word.
    pub(crate) fn kill(&mut self, node: usize) {
        self.say(|| format!("node-{node} speaker ends"));
        self.nodes[node].process = None;
    }

    /// The node loses power.
    pub(crate) fn crash(&mut self, node: usize) {
        self.kill(node);
        self.say(|| format!("node-{node} loses power"));
        self.nodes[node].kernel = false;
    }

    /// The node boots; its speaker starts later.
    pub(crate) fn boot(&mut self, node: usize) {
        self.say(|| format!("node-{node} boots"));
        self.nodes[node].kernel = true;
        self.nodes[node].forget();
    }

    /// The clock of the node is set to another time.
    pub(crate) fn set_clock(&mut self, node: usize, clock: Duration) {
        self.say(|| {
            format!(
                "node-{node} has its clock set from {:?} to {clock:?}",
                self.nodes[node].clock
            )
        });
        self.nodes[node].clock = clock;
    }

    /// The process starts, with what is on disk.
    pub(crate) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        if !self.nodes[node].kernel {
            self.boot(node);
        }
        let (seed, now) = (self.rng.u64(..), self.now);
        let entry = &mut self.nodes[node];
        entry.runs += 1;
        let (run, boot) = (entry.runs, entry.number(now));
        let disbelieved = boot <= entry.greatest_run;
        entry.greatest_run = entry.greatest_run.max(boot);
        entry.process = Some(Process::new(seed, run, boot, now));
        self.say(|| format!("node-{node} starts, believed: {}", !disbelieved));
        if disbelieved {
            // Until those who knew it have not heard it for long enough.
            self.disbelieved.insert(node, now + DISBELIEF);
        }
        if !self.nodes[node].snapshot.node.is_empty() {
            let duties = Duties {
                boot,
                ..Duties::clone(&self.nodes[node].snapshot)
            };
            self.take(node, Waiting::Duties(Arc::new(duties)));
        }
        let at = self.now + self.between(ms(2), ms(30));
        self.at(at, Event::Ground(node, run));
        let at = self.now + self.between(ms(5), ms(200));
        self.at(at, Event::Watch(node));
    }

    /// SIGTERM.
    pub(crate) fn goodbye(&mut self, node: usize) {
        let stalled = self
            .process(node, None)
            .is_none_or(|process| process.stalled_until.is_some() || process.leaving);
        if !stalled {
            self.say(|| format!("node-{node} says goodbye"));
            if let Some(process) = self.process(node, None) {
                process.leaving = true;
            }
            self.handle(node, Input::Goodbye);
        }
    }
}
