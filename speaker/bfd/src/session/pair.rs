//! Two sessions and a link that loses, delays and is cut, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use crate::packet::{LENGTH, Packet};

use super::*;

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
enum Step {
    /// Of so many packets in 100, each lost at random.
    Loss(u32),
    /// Nothing passes from one side, or to it.
    Cut {
        from: [bool; 2],
    },
    /// Other intervals on one side, in milliseconds.
    Set(usize, Settings),
    /// A side starts anew, with another discriminator.
    Restart(usize),
    /// A side is taken down by hand, or back.
    Disable(usize),
    Enable(usize),
    /// Another process goes on with a side.
    HandOver(usize),
}

/// Arrival, order, receiver, packet.
type Travelling = (Duration, u64, usize, [u8; LENGTH]);

struct World {
    now: Duration,
    sides: [Session; 2],
    settings: [Settings; 2],
    link: BinaryHeap<Reverse<Travelling>>,
    sent: u64,
    loss: u32,
    cut: [bool; 2],
    delay: Duration,
    random: u64,
    failures: [u32; 2],
    starts: u32,
}

impl World {
    fn new(settings: [Settings; 2], delay: Duration, seed: u64) -> World {
        let name = |number| NonZeroU32::new(number).unwrap();
        World {
            now: Duration::ZERO,
            sides: [Session::new(name(1), settings[0]), Session::new(name(2), settings[1])],
            settings,
            link: BinaryHeap::new(),
            sent: 0,
            loss: 0,
            cut: [false; 2],
            delay,
            random: seed | 1,
            failures: [0; 2],
            starts: 2,
        }
    }

    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as u32
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Loss(share) => self.loss = *share,
            Step::Cut { from } => self.cut = *from,
            Step::Set(side, settings) => {
                self.settings[*side] = *settings;
                self.sides[*side].set(*settings);
            }
            Step::Restart(side) => {
                self.starts += 1;
                let name = NonZeroU32::new(self.starts).unwrap();
                self.sides[*side] = Session::new(name, self.settings[*side]);
            }
            Step::Disable(side) => drop(self.sides[*side].disable()),
            Step::Enable(side) => drop(self.sides[*side].enable()),
            Step::HandOver(side) => {
                let handed = serde_json::to_string(&self.sides[*side]).unwrap();
                self.sides[*side] = serde_json::from_str(&handed).unwrap();
            }
        }
    }

    fn run(&mut self, until: Duration) {
        loop {
            self.send();
            let arrival = self.link.peek().map(|Reverse((at, ..))| *at);
            let deadlines = self.sides.iter().filter_map(Session::next_deadline);
            let next = deadlines.chain(arrival).min().unwrap_or(until).max(self.now);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next;
            while let Some(Reverse((at, _, to, data))) = self.link.peek().copied()
                && at <= self.now
            {
                self.link.pop();
                let packet = Packet::new(&data).and_then(|packet| Repr::parse(&packet)).unwrap();
                let named = packet.your_discriminator;
                if named == 0 || named == self.sides[to].discriminator().get() {
                    let change = self.sides[to].receive(self.now, &packet);
                    self.failures[to] += u32::from(change.is_some_and(|change| change.is_failure()));
                }
            }
            for side in 0..2 {
                let change = self.sides[side].tick(self.now);
                self.failures[side] += u32::from(change.is_some_and(|change| change.is_failure()));
            }
            if next == until && self.sides.iter().all(|s| s.next_deadline().is_none_or(|at| at > until)) {
                return;
            }
        }
    }

    fn send(&mut self) {
        for side in 0..2 {
            for count in 0.. {
                let jitter = self.random();
                let Some(packet) = self.sides[side].transmit(self.now, jitter) else {
                    break;
                };
                assert!(count < 3, "a session has few packets due at a time");
                assert!(!(packet.poll && packet.r#final));
                let slow = packet.state == State::Up || packet.desired_transmit >= 1_000_000;
                assert!(slow, "at least a second until Up");
                if !self.cut[side] && self.random() % 100 >= self.loss {
                    self.sent += 1;
                    let arrival = Reverse((self.now + self.delay, self.sent, 1 - side, packet.emit()));
                    self.link.push(arrival);
                }
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (10u64..400, 10u64..400, 2u8..6).prop_map(|(receive, transmit, multiplier)| Settings {
        receive: Duration::from_millis(receive),
        transmit: Duration::from_millis(transmit),
        multiplier,
        passive: false,
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..100).prop_map(Step::Loss),
        any::<[bool; 2]>().prop_map(|from| Step::Cut { from }),
        (0usize..2, any_settings()).prop_map(|(side, settings)| Step::Set(side, settings)),
        (0usize..2).prop_map(Step::Restart),
        (0usize..2).prop_map(Step::Disable),
        (0usize..2).prop_map(Step::Enable),
        (0usize..2).prop_map(Step::HandOver),
    ]
}

/// Until both have heard each other at the speed before Up, whatever came before.
const SETTLED: Duration = Duration::from_secs(8);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happened_a_good_link_brings_both_up_and_a_cut_takes_both_down_in_time(
        settings in [any_settings(), any_settings()],
        delay in 0u64..5,
        seed: u64,
        history in prop::collection::vec((any_step(), 0u64..3000), 0..12),
        silent in prop_oneof![Just([true, true]), Just([true, false]), Just([false, true])],
    ) {
        let mut world = World::new(settings, Duration::from_millis(delay), seed);
        for (step, then) in &history {
            world.apply(step);
            world.run(world.now + Duration::from_millis(*then));
        }
        for step in [Step::Loss(0), Step::Cut { from: [false; 2] }, Step::Enable(0), Step::Enable(1)] {
            world.apply(&step);
        }
        world.run(world.now + SETTLED);
        prop_assert_eq!(world.states(), [State::Up; 2]);
        // Both hold what the other one says, at the speed both agree to.
        for (own, other) in [(0, 1), (1, 0)] {
            let (own, other) = (&world.sides[own], &world.sides[other]);
            prop_assert_eq!(own.poll, Poll::None);
            let interval = own.settings.transmit.max(other.settings.receive);
            prop_assert_eq!(own.transmit_interval(), interval);
            prop_assert_eq!(other.detection_time(), interval * u32::from(own.settings.multiplier));
        }
        // It stays.
        let failures = world.failures;
        world.run(world.now + Duration::from_secs(5));
        prop_assert_eq!((world.states(), world.failures), ([State::Up; 2], failures));
        // Who hears nothing knows within the detection time; the other one is told, or hears nothing itself.
        let times = [world.sides[0].detection_time(), world.sides[1].detection_time()];
        let in_time = match silent {
            [true, true] => times[0].max(times[1]),
            [true, false] => times[1] + world.delay,
            _ => times[0] + world.delay,
        };
        world.apply(&Step::Cut { from: silent });
        world.run(world.now + in_time + world.delay);
        prop_assert_eq!(world.states().map(|state| state == State::Up), [false; 2]);
        prop_assert_eq!(world.failures, failures.map(|count| count + 1));
    }

    #[test]
    fn settings_change_without_a_flap(
        settings in [any_settings(), any_settings()],
        delay in 0u64..5,
        seed: u64,
        changes in prop::collection::vec((0usize..2, any_settings(), 0u64..1500), 1..20),
    ) {
        let mut world = World::new(settings, Duration::from_millis(delay), seed);
        world.run(SETTLED);
        prop_assert_eq!(world.states(), [State::Up; 2]);
        for (side, settings, then) in changes {
            world.apply(&Step::Set(side, settings));
            world.apply(&Step::HandOver(side));
            world.run(world.now + Duration::from_millis(then));
            prop_assert_eq!(world.states(), [State::Up; 2]);
        }
        prop_assert_eq!(world.failures, [0; 2]);
    }
}

#[test]
fn administrative_down_is_no_failure_of_the_other_side() {
    let settings = Settings {
        receive: 50 * MS,
        transmit: 50 * MS,
        multiplier: 3,
        passive: false,
    };
    let mut world = World::new([settings; 2], MS, 1);
    world.run(SETTLED);
    world.apply(&Step::Disable(0));
    world.run(world.now + SETTLED);
    assert_eq!(
        (world.states(), world.failures),
        ([State::AdminDown, State::Down], [0; 2])
    );
    world.apply(&Step::Enable(0));
    world.run(world.now + SETTLED);
    assert_eq!(world.states(), [State::Up; 2]);
}
