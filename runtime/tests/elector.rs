//! Electors over one Lease: single steps, then random worlds with delays, lost requests and answers, pauses, crashes and
//! clocks of different speed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ferrolb_runtime::elector::{Elector, Identity, NotWritten, Seen, Standing, Step, Write};
use ferrolb_runtime::leader::TIMING;
use proptest::prelude::*;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn held(holder: Option<&str>, version: u32, transitions: i32) -> Seen {
    Seen {
        holder: holder.map(str::to_owned),
        lease: TIMING.lease,
        transitions,
        version: version.to_string(),
    }
}

fn elector() -> Elector {
    Elector::new(Identity::of_host("a", "1"), TIMING)
}

/// One that has asked for the Lease at 10 s and got it at 11 s.
fn leader() -> Elector {
    let mut elector = elector();
    elector.read(Ok(Some(held(None, 1, 4))), s(9.0), s(10.0));
    elector.written(Ok(held(Some("a_1"), 2, 5)), s(10.0), s(11.0));
    elector
}

fn write(elector: &Elector, now: f64) -> Write {
    match elector.step(s(now)) {
        Step::Write(write) => write,
        step => panic!("at {now} s: {step:?}"),
    }
}

#[test]
fn a_missing_or_released_lease_is_taken_at_once() {
    let mut elector = elector();
    assert_eq!(elector.step(s(0.0)), Step::Read);
    elector.read(Ok(None), s(0.0), s(0.1));
    let create = write(&elector, 0.1);
    assert_eq!((create.over, create.transitions), (None, 0));

    elector.read(Ok(Some(held(None, 7, 4))), s(0.1), s(0.2));
    let update = write(&elector, 0.2);
    assert_eq!(update.over.as_deref(), Some("7"));
    assert_eq!((update.transitions, update.acquires), (5, true));
    assert_eq!(elector.standing(s(0.2)), Standing::Following(None));
}

#[test]
fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_duration() {
    let mut elector = elector();
    let mut renewed = |version, now: f64| {
        elector.read(Ok(Some(held(Some("b_1"), version, 0))), s(now - 0.1), s(now));
        elector.step(s(now))
    };
    assert_eq!(renewed(1, 1.0), Step::WaitUntil(s(1.0) + TIMING.look));
    assert_eq!(renewed(2, 8.0), Step::WaitUntil(s(8.0) + TIMING.look));
    assert_eq!(renewed(2, 17.9), Step::WaitUntil(s(18.0)), "8 s + 10 s");
    assert!(matches!(renewed(2, 18.0), Step::Write(_)));
}

#[test]
fn after_looks_without_an_answer_the_holder_may_renew_first() {
    let mut elector = elector();
    let b = || Ok(Some(held(Some("b_1"), 1, 0)));
    elector.read(b(), s(0.0), s(0.0));
    elector.read(Err(()), s(20.0), s(22.0));
    elector.read(b(), s(40.0), s(40.0));
    let again = s(40.0) + TIMING.look;
    assert_eq!(elector.step(s(40.0)), Step::WaitUntil(again));
    elector.read(b(), again, again);
    assert!(matches!(elector.step(again), Step::Write(_)));
}

#[test]
fn an_earlier_run_of_the_pod_is_dead() {
    for (identity, waits) in [
        (Identity::of_pod("a", "2"), false),
        (Identity::of_pod("b", "2"), true),
        (Identity::of_host("a", "2"), true),
    ] {
        let mut elector = Elector::new(identity, TIMING);
        elector.read(Ok(Some(held(Some("a_1"), 1, 0))), s(0.0), s(0.0));
        assert_eq!(matches!(elector.step(s(0.0)), Step::WaitUntil(_)), waits, "{elector:?}");
    }
}

#[test]
fn the_lead_counts_from_the_question_not_from_the_answer() {
    let elector = leader();
    assert_eq!(elector.standing(s(16.9)), Standing::Leading(s(17.0)));
    assert_eq!(elector.standing(s(17.0)), Standing::Suspended);
    let renewal = write(&elector, 12.0);
    assert_eq!(renewal.over.as_deref(), Some("2"));
    assert_eq!((renewal.transitions, renewal.acquires), (5, false));
}

#[test]
fn one_that_was_paused_looks_before_it_writes() {
    assert_eq!(leader().step(s(17.0)), Step::Read);

    let mut waiting = elector();
    waiting.read(Ok(None), s(0.0), s(0.0));
    assert_eq!(waiting.step(s(7.0)), Step::Read);
}

#[test]
fn a_lost_answer_is_made_up_for() {
    // That of the acquisition.
    let mut one = elector();
    one.read(Ok(None), s(0.0), s(0.0));
    one.written(Err(NotWritten::Unknown), s(0.0), s(2.0));
    assert_eq!(one.step(s(2.0)), Step::WaitUntil(s(2.0) + TIMING.look));
    one.read(Ok(Some(held(Some("a_1"), 1, 0))), s(3.0), s(3.0));
    assert!(!write(&one, 3.0).acquires);

    // That of a renewal; it still leads until its deadline, and again when nobody else has led.
    let mut one = leader();
    one.written(Err(NotWritten::Unknown), s(12.0), s(14.0));
    assert_eq!(one.standing(s(14.0)), Standing::Leading(s(17.0)));
    one.read(Ok(Some(held(Some("a_1"), 3, 5))), s(20.0), s(20.0));
    assert_eq!(write(&one, 20.0).over.as_deref(), Some("3"));
    one.written(Ok(held(Some("a_1"), 4, 5)), s(20.0), s(20.1));
    assert_eq!(one.standing(s(20.1)), Standing::Leading(s(27.0)));
}

#[test]
fn what_is_lost_is_lost() {
    for found in [Some(held(Some("b_1"), 3, 6)), Some(held(None, 3, 5)), None] {
        let mut one = leader();
        one.written(Err(NotWritten::Conflict), s(12.0), s(12.1));
        assert_eq!(one.step(s(12.1)), Step::Read);
        let holder = found.as_ref().and_then(|seen| seen.holder.clone());
        one.read(Ok(found), s(12.1), s(12.2));
        assert_eq!(one.standing(s(12.2)), Standing::Lost(holder));
        assert!(matches!(one.step(s(1000.0)), Step::WaitUntil(_)));
        assert_eq!(one.release(), None);
    }
}

#[test]
fn only_the_leader_has_something_to_release() {
    assert_eq!(elector().release(), None);
    let release = leader().release().unwrap();
    assert_eq!((release.holder, release.over.as_deref()), (None, Some("2")));
    assert_eq!(release.transitions, 5);
}

// --- random worlds

/// How long a participant waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Faults happen before this, and later everything works.
const CALM: Duration = Duration::from_secs(200);
const END: Duration = Duration::from_secs(260);

/// A stream of numbers that a seed decides (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.next() % below)
    }
}

enum Event {
    /// The participant may do something.
    Wake,
    /// Its request reaches the API server.
    Arrive(Option<Write>),
    /// It has an answer, or gives up on one.
    Answer(Answer),
    /// It stands still for so long.
    Pause(Duration),
    /// It is started anew, after a release or without.
    Restart(bool),
}

enum Answer {
    Read(Result<Option<Seen>, ()>),
    Written(Result<Seen, NotWritten>),
}

struct Participant {
    elector: Elector,
    run: u32,
    /// Local time is `offset + rate * time`.
    offset: Duration,
    rate: f64,
    awake_at: Duration,
    /// The request that it waits for an answer to, and when it asked, by its own clock.
    asked: Option<(u64, Duration)>,
    /// When it asked what it knows.
    basis: Duration,
}

impl Participant {
    fn local(&self, time: Duration) -> Duration {
        self.offset + time.mul_f64(self.rate)
    }
}

struct World {
    random: Random,
    time: Duration,
    lease: Option<Seen>,
    version: u32,
    all: Vec<Participant>,
    /// By time and order; who, in which of its runs, with which request, and what.
    events: BTreeMap<(Duration, u64), (usize, u32, u64, Event)>,
    order: u64,
    requests: u64,
    terms: BTreeSet<i32>,
    suspended: u32,
}

impl World {
    fn new(seed: u64, size: usize) -> Self {
        let mut random = Random(seed);
        let all = (0..size).map(|n| Participant {
            elector: Elector::new(name(n, 0), TIMING),
            run: 0,
            offset: random.millis(1_000_000),
            rate: 0.85 + 0.3 * (random.next() % 1000) as f64 / 1000.0,
            awake_at: Duration::ZERO,
            asked: None,
            basis: Duration::ZERO,
        });
        let mut world = World {
            all: all.collect(),
            random,
            time: Duration::ZERO,
            lease: None,
            version: 0,
            events: BTreeMap::new(),
            order: 0,
            requests: 0,
            terms: BTreeSet::new(),
            suspended: 0,
        };
        for who in 0..size {
            world.at(Duration::ZERO, who, Event::Wake);
            for _ in 0..world.random.next() % 6 {
                let at = world.random.millis(CALM.as_millis() as u64 - 30_000);
                let event = match world.random.next() % 4 {
                    0 => Event::Restart(false),
                    1 => Event::Restart(true),
                    _ => Event::Pause(world.random.millis(30_000)),
                };
                world.at(at, who, event);
            }
        }
        world
    }

    fn at(&mut self, time: Duration, who: usize, event: Event) {
        self.order += 1;
        let run = self.all[who].run;
        self.events.insert((time, self.order), (who, run, self.requests, event));
    }

    fn run(&mut self) {
        while let Some(((time, _), (who, run, request, event))) = self.events.pop_first() {
            if time > END {
                return;
            }
            self.time = time;
            self.handle(who, run, request, event);
            let leaders = self.leaders();
            assert!(leaders.len() <= 1, "at {time:?} {leaders:?} lead");
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |p: &Participant| matches!(p.elector.standing(p.local(self.time)), Standing::Leading(_));
        (0..self.all.len()).filter(|n| leads(&self.all[*n])).collect()
    }

    fn handle(&mut self, who: usize, run: u32, request: u64, event: Event) {
        let now = self.time;
        let same = self.all[who].run == run;
        let awake_at = self.all[who].awake_at;
        match event {
            Event::Arrive(write) => self.arrive(who, run, request, write),
            Event::Restart(release) => self.restart(who, release),
            Event::Pause(time) => self.all[who].awake_at = now + time,
            _ if !same => {}
            event if awake_at > now => {
                self.order += 1;
                self.events.insert((awake_at, self.order), (who, run, request, event));
            }
            Event::Wake => self.step(who),
            Event::Answer(answer) => self.answer(who, request, answer),
        }
    }

    fn step(&mut self, who: usize) {
        let participant = &mut self.all[who];
        let local = participant.local(self.time);
        if participant.asked.is_some() {
            return;
        }
        match participant.elector.standing(local) {
            Standing::Lost(_) => return self.at(self.time + s(1.0), who, Event::Restart(false)),
            Standing::Suspended => self.suspended += 1,
            _ => {}
        }
        let request = match participant.elector.step(local) {
            Step::WaitUntil(due) => {
                let wait = (due - local).div_f64(participant.rate) + Duration::from_micros(1);
                return self.at(self.time + wait, who, Event::Wake);
            }
            Step::Read => None,
            Step::Write(write) => {
                let age = local - participant.basis;
                assert!(age < TIMING.renew_deadline, "writes on knowledge {age:?} old");
                Some(write)
            }
        };
        self.requests += 1;
        participant.asked = Some((self.requests, local));
        let give_up = match &request {
            None => Answer::Read(Err(())),
            Some(_) => Answer::Written(Err(NotWritten::Unknown)),
        };
        let patience = PATIENCE.div_f64(participant.rate);
        self.at(self.time + patience, who, Event::Answer(give_up));
        let calm = self.time > CALM;
        if calm || !self.random.chance(15) {
            let longest = if !calm && self.random.chance(10) { 20_000 } else { 400 };
            let delay = self.random.millis(longest);
            self.at(self.time + delay, who, Event::Arrive(request));
        }
    }

    /// A request reaches the API server, perhaps long after anybody waits for its answer.
    fn arrive(&mut self, who: usize, run: u32, request: u64, write: Option<Write>) {
        let answer = match write {
            None => Answer::Read(Ok(self.lease.clone())),
            Some(write) => Answer::Written(self.serve(&write)),
        };
        if self.time > CALM || !self.random.chance(15) {
            self.order += 1;
            let at = self.time + self.random.millis(400);
            self.events
                .insert((at, self.order), (who, run, request, Event::Answer(answer)));
        }
    }

    fn serve(&mut self, write: &Write) -> Result<Seen, NotWritten> {
        if self.lease.as_ref().map(|seen| &seen.version) != write.over.as_ref() {
            return Err(NotWritten::Conflict);
        }
        self.version += 1;
        let seen = Seen {
            holder: write.holder.clone(),
            lease: write.lease,
            transitions: write.transitions,
            version: self.version.to_string(),
        };
        if write.acquires {
            assert!(self.terms.insert(seen.transitions), "two terms with one number");
        }
        self.lease = Some(seen.clone());
        Ok(seen)
    }

    fn answer(&mut self, who: usize, request: u64, answer: Answer) {
        let participant = &mut self.all[who];
        let local = participant.local(self.time);
        let Some((_, asked)) = participant.asked.take_if(|(id, _)| *id == request) else {
            return;
        };
        match answer {
            Answer::Read(answer) => {
                if answer.is_ok() {
                    participant.basis = asked;
                }
                participant.elector.read(answer, asked, local);
            }
            Answer::Written(outcome) => {
                if outcome.is_ok() {
                    participant.basis = asked;
                }
                participant.elector.written(outcome, asked, local);
            }
        }
        self.step(who);
    }

    fn restart(&mut self, who: usize, release: bool) {
        let participant = &mut self.all[who];
        let release = participant.elector.release().filter(|_| release);
        participant.run += 1;
        participant.elector = Elector::new(name(who, participant.run), TIMING);
        participant.asked = None;
        participant.awake_at = self.time;
        if let Some(write) = release {
            let delay = self.random.millis(400);
            self.at(self.time + delay, who, Event::Arrive(Some(write)));
        }
        let down = self.random.millis(5_000);
        self.at(self.time + down, who, Event::Wake);
    }
}

fn name(who: usize, run: u32) -> Identity {
    Identity::of_pod(&format!("pod-{who}"), &run.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn never_two_leaders_and_in_the_end_one(seed: u64, size in 1..4_usize) {
        let mut world = World::new(seed, size);
        world.run();
        prop_assert_eq!(world.leaders().len(), 1);
    }
}

#[test]
fn random_worlds_are_eventful() {
    let worlds = (0..200).map(|seed| {
        let mut world = World::new(seed, 3);
        world.run();
        world
    });
    let (mut changes, mut suspended) = (0, 0);
    for world in worlds {
        changes += world.terms.len();
        suspended += world.suspended;
    }
    assert!(
        changes > 600 && suspended > 200,
        "{changes} changes, {suspended} suspended"
    );
}
