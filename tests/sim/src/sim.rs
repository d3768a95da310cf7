//! The world in motion: one queue of events in virtual time, one generator of random numbers, no threads.

mod chaos;
mod deeds;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fastrand::Rng;
use ferrolb_controller_core::{Effect, Input, Write, WriteError};
use ferrolb_model::Placement;

use crate::history::{History, Scenario};
use crate::ledger::Ledger;
use crate::replica::Replica;
use crate::store::{KINDS, Key, Store};
use crate::words;

/// What a run is given besides its history.
pub(crate) struct Settings<'a> {
    /// Seed of delays, faults and crashes.
    pub(crate) order: u64,
    /// Where every input, effect and write is told.
    pub(crate) log: Option<&'a dyn Fn(&str)>,
    /// Falsifies what a core asks for; a check of the checks.
    pub(crate) sabotage: Option<Sabotage>,
}

/// Changes the effects of a core before they are done.
pub type Sabotage = Box<dyn FnMut(&mut Vec<Effect>)>;

/// What happens at a moment.
#[derive(Clone, Debug)]
enum Event {
    Act(usize),
    Watch { replica: usize, life: u64, kind: usize },
    Tick { replica: usize, life: u64 },
    Arrive(u64),
    Answer(u64),
    Announce(IpAddr),
    TookOver(IpAddr, Placement),
    Probe { address: IpAddr, uid: String, node: String },
    Lead { replica: usize, term: u64 },
    Start { replica: usize },
    Deposed { replica: usize, life: u64 },
    Chaos,
}

/// A write under way.
#[derive(Debug)]
struct Flight {
    replica: usize,
    life: u64,
    write: Write,
    result: Result<(), WriteError>,
}

/// The world.
pub(crate) struct Sim<'a> {
    pub(crate) now: Duration,
    pub(crate) store: Store,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) scenario: Scenario,
    pub(crate) writes: usize,
    /// Those of them that say something about an address anew, and change nothing.
    pub(crate) remarks: usize,
    /// In a calm history: an address came free at nearly the same time as another one, or as something happened, so that
    /// either may have been first.
    pub(crate) tied: bool,
    freed: Option<Duration>,
    happened: Option<Duration>,
    pub(crate) inputs: usize,
    pub(crate) last_write: Duration,
    /// The newest writes, for who asks why it is not quiet.
    pub(crate) recent: Vec<String>,
    history: &'a History,
    settings: Settings<'a>,
    queue: BTreeMap<(Duration, u64), Event>,
    flights: BTreeMap<u64, Flight>,
    ledger: Ledger,
    /// Addresses that machines use which are no nodes.
    strangers: BTreeSet<IpAddr>,
    /// VirtualIPs (by uid) whose prober has been told.
    asked: BTreeSet<String>,
    rng: Rng,
    next: u64,
    term: u64,
    lives: u64,
    /// Nothing fails, stalls or crashes any more.
    peace: bool,
    acted: usize,
}

impl<'a> Sim<'a> {
    /// A world with what stands there before the first controller starts.
    pub(crate) fn new(history: &'a History, settings: Settings<'a>) -> Self {
        let rng = Rng::with_seed(settings.order);
        let scenario = history.scenario.clone();
        let mut sim = Sim {
            now: Duration::ZERO,
            store: Store::default(),
            replicas: (0..scenario.replicas).map(|_| None).collect(),
            scenario,
            writes: 0,
            remarks: 0,
            tied: false,
            freed: None,
            happened: None,
            inputs: 0,
            last_write: Duration::ZERO,
            recent: Vec::new(),
            history,
            settings,
            queue: BTreeMap::new(),
            flights: BTreeMap::new(),
            ledger: Ledger::default(),
            strangers: BTreeSet::new(),
            asked: BTreeSet::new(),
            rng,
            next: 0,
            term: 0,
            lives: 0,
            peace: false,
            acted: 0,
        };
        for action in &history.before {
            sim.act(action);
        }
        for replica in 0..sim.replicas.len() {
            sim.start(replica);
        }
        sim.elect(Some(0), Duration::ZERO);
        for (n, (at, _)) in history.actions.iter().enumerate() {
            sim.at(*at, Event::Act(n));
        }
        sim.at(Duration::from_secs(1), Event::Chaos);
        sim
    }

    pub(crate) fn log(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = self.settings.log {
            log(&format!("{:>9.3} {}", self.now.as_secs_f64(), text()));
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.queue.insert((at, self.next), event);
    }

    fn delay(&mut self) -> Duration {
        let slow = self.scenario.slow.as_micros().max(1) as u64;
        // Most are fast, some are not.
        let most = if self.rng.u8(..8) == 0 { slow } else { slow / 20 + 1 };
        Duration::from_micros(self.rng.u64(..most))
    }

    /// Whether that was a moment ago.
    fn is_close(&self, at: Option<Duration>) -> bool {
        at.is_some_and(|at| self.now < at + Duration::from_secs(1))
    }

    /// When the last action has happened.
    pub(crate) fn is_over(&self) -> bool {
        self.acted == self.history.actions.len()
    }

    /// Lets one event happen, if one is due until `end`; time goes on to it.
    pub(crate) fn step(&mut self, end: Duration) -> Result<bool, String> {
        let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= end) else {
            self.now = end;
            return Ok(false);
        };
        let ((at, _), event) = entry.remove_entry();
        self.now = self.now.max(at);
        self.happen(event)?;
        Ok(true)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Act(n) => {
                let history = self.history;
                self.acted += 1;
                self.tied |= self.is_close(self.freed);
                self.happened = Some(self.now);
                self.act(&history.actions[n].1);
            }
            Event::Watch { replica, life, kind } => return self.watch(replica, life, kind),
            Event::Tick { replica, life } => return self.tick(replica, life),
            Event::Arrive(flight) => return self.arrive(flight),
            Event::Answer(flight) => return self.answer(flight),
            Event::Announce(address) => {
                let object = self.store.virtual_ips.get(&address);
                let owner = object.and_then(|o| o.placement.as_ref()).map(|p| &p.owner);
                if owner.is_some_and(|owner| self.history.mute.contains(owner)) {
                    return Ok(());
                }
                if self.store.announce(address) {
                    self.log(|| format!("speaker     announces {address}"));
                    self.spread();
                }
            }
            Event::TookOver(address, placement) => {
                let owner = placement.owner.clone();
                if !self.history.mute.contains(&owner) && self.store.record_takeover(address, placement) {
                    self.log(|| format!("speaker     {owner} took {address} over"));
                    self.spread();
                }
            }
            Event::Probe { address, uid, node } => self.probe(address, &uid, &node),
            Event::Lead { replica, term } => {
                let Some(process) = self.replicas[replica].as_mut() else {
                    return Ok(());
                };
                if term == self.term {
                    process.leads = true;
                    self.log(|| format!("controller{replica} leads"));
                    self.divide();
                    return self.sync(replica);
                }
            }
            Event::Start { replica } => {
                if self.replicas[replica].is_none() {
                    self.start(replica);
                }
            }
            Event::Deposed { replica, life } => {
                if self.process(replica, life).is_some() {
                    self.log(|| format!("controller{replica} sees that it does not lead any more"));
                    self.crash(replica);
                }
            }
            Event::Chaos => self.chaos(),
        }
        Ok(())
    }

    fn process(&mut self, replica: usize, life: u64) -> Option<&mut Replica> {
        self.replicas[replica].as_mut().filter(|p| p.life == life)
    }

    fn start(&mut self, replica: usize) {
        self.log(|| format!("controller{replica} starts"));
        self.lives += 1;
        let life = self.lives;
        let mut process = Replica::start(self.now, life);
        let lists = process.list_first(&self.store, &mut self.rng);
        self.replicas[replica] = Some(process);
        for (kind, entries) in lists.into_iter().enumerate() {
            self.schedule_list(replica, life, kind, entries);
        }
    }

    fn schedule_list(&mut self, replica: usize, life: u64, kind: usize, entries: usize) {
        let at = self.now + self.delay();
        for _ in 0..entries {
            self.at(at, Event::Watch { replica, life, kind });
        }
    }

    /// Another replica, or the one named, is going to lead.
    fn elect(&mut self, replica: Option<usize>, after: Duration) {
        self.term += 1;
        let living = (0..self.replicas.len()).filter(|r| self.replicas[*r].as_ref().is_some_and(|p| !p.leads));
        let living = living.collect::<Vec<_>>();
        if let Some(replica) = replica.or_else(|| self.rng.choice(living)) {
            let (at, term) = (self.now + after, self.term);
            self.at(at, Event::Lead { replica, term });
        }
    }

    fn leaders(&self) -> usize {
        self.replicas.iter().flatten().filter(|p| p.leads).count()
    }

    fn divide(&mut self) {
        if self.leaders() > 1 {
            self.ledger.divided(self.now);
        }
    }

    fn crash(&mut self, replica: usize) {
        let Some(process) = self.replicas[replica].take() else {
            return;
        };
        self.log(|| format!("controller{replica} is gone"));
        // What it sent may still arrive; what it had not sent yet is lost.
        let sent = self
            .flights
            .iter()
            .filter(|(_, f)| f.life == process.life)
            .map(|(n, _)| *n);
        for flight in sent.collect::<Vec<_>>() {
            if self.rng.bool() {
                self.flights.remove(&flight);
            }
        }
        let back = self.now + Duration::from_millis(self.rng.u64(10..3_000));
        self.at(back, Event::Start { replica });
        if process.leads && self.leaders() == 0 {
            if self.replicas.len() == 1 {
                self.elect(Some(replica), back - self.now + Duration::from_millis(1));
            } else {
                let after = Duration::from_millis(self.rng.u64(10..8_000));
                self.elect(None, after);
            }
        }
    }

    fn sync(&mut self, replica: usize) -> Result<(), String> {
        match self.replicas[replica].as_mut() {
            Some(process) if process.leads && !process.synced && !process.is_listing() => {
                process.synced = true;
                self.feed(replica, Input::Synced)
            }
            _ => Ok(()),
        }
    }

    fn watch(&mut self, replica: usize, life: u64, kind: usize) -> Result<(), String> {
        let (now, mut rng) = (self.now, self.rng.fork());
        let Some(process) = self.process(replica, life) else {
            return Ok(());
        };
        let ready = process.paused.max(process.stalled[kind]);
        if ready > now {
            self.at(ready, Event::Watch { replica, life, kind });
            return Ok(());
        }
        if let Some(input) = process.next(kind, &mut rng, now) {
            self.feed(replica, input)?;
            self.sync(replica)?;
        }
        Ok(())
    }

    fn tick(&mut self, replica: usize, life: u64) -> Result<(), String> {
        let now = self.now;
        let Some(process) = self.process(replica, life) else {
            return Ok(());
        };
        if process.paused > now {
            let at = process.paused;
            self.at(at, Event::Tick { replica, life });
            return Ok(());
        }
        process.tick_at = None;
        let due = |p: &Replica| p.core.next_deadline().filter(|at| p.started + *at <= now);
        if due(process).is_some() {
            self.feed(replica, Input::Tick)?;
            if let Some(at) = self.process(replica, life).and_then(|p| due(p)) {
                return Err(format!("the deadline {at:?} stays although its time has come"));
            }
        }
        self.schedule_tick(replica);
        Ok(())
    }

    fn schedule_tick(&mut self, replica: usize) {
        let Some(process) = self.replicas[replica].as_mut() else {
            return;
        };
        let due = process.core.next_deadline().map(|at| process.started + at);
        let Some(due) = due.filter(|at| process.tick_at.is_none_or(|set| *at < set)) else {
            return;
        };
        process.tick_at = Some(due);
        let life = process.life;
        let at = due.max(self.now);
        self.at(at, Event::Tick { replica, life });
    }

    /// Tells a core, judges what it asks for, and sends it off.
    fn feed(&mut self, replica: usize, input: Input) -> Result<(), String> {
        self.inputs += 1;
        self.log(|| format!("controller{replica} <- {}", words::input(&input)));
        let bound = 20 * (self.store.services.len() + self.store.virtual_ips.len() + 4);
        let Some(process) = self.replicas[replica].as_mut() else {
            return Ok(());
        };
        let mut effects = process.core.handle(input, self.now - process.started);
        if let Some(sabotage) = self.settings.sabotage.as_mut() {
            sabotage(&mut effects);
        }
        if !process.synced && !effects.is_empty() {
            return Err(format!("it acts before it is synced: {effects:?}"));
        }
        if effects.len() > bound {
            return Err(format!("{} effects at once", effects.len()));
        }
        for effect in effects {
            self.log(|| format!("controller{replica} -> {}", words::effect(&effect)));
            match effect {
                Effect::Write(write) => self.send(replica, write)?,
                Effect::Rebalanced { request, .. } => {
                    self.store.answer_rebalance(&request);
                    self.spread();
                }
                Effect::Event(_) => {}
            }
        }
        self.schedule_tick(replica);
        Ok(())
    }

    /// The core that leads.
    pub(crate) fn leader(&self) -> Option<&Replica> {
        self.replicas.iter().flatten().find(|p| p.leads && p.synced)
    }

    /// Everything as a controller that starts now is told it, in some order.
    pub(crate) fn lists(&mut self) -> Vec<Input> {
        let mut keys = (0..KINDS).flat_map(|k| self.store.list(k)).collect::<Vec<Key>>();
        self.rng.shuffle(&mut keys);
        keys.iter().map(|k| self.store.tell(k)).collect()
    }
}
