//! How long a single failure is felt, from the failure to the answer, with the defaults.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_liveness::{Outcome, PeerState, Timing};

use crate::world::{World, ms};

/// Three nodes, the first owns, the others stand by; all know each other.
pub(crate) fn settled(seed: u64, nodes: usize) -> (World, IpAddr) {
    let mut world = World::new(seed, nodes, Timing::default());
    let address = World::address(0);
    (0..nodes).for_each(|node| world.start(node));
    world.place(address, 0, &(1..nodes).collect::<Vec<_>>());
    let until = ms(2_000) + world.between(Duration::ZERO, ms(100));
    world.run_until(until);
    assert_eq!(world.nodes[0].answers(address), Some((world.nodes[0].mac, false)));
    world.judge.gaps.clear();
    (world, address)
}

/// The time without an answer in each of so many runs, sorted.
fn gaps(runs: u64, nodes: usize, fault: impl Fn(&mut World), check: impl Fn(&World)) -> Vec<Duration> {
    let mut gaps: Vec<Duration> = (0..runs)
        .map(|seed| {
            let (mut world, _) = settled(seed, nodes);
            let begin = world.now;
            fault(&mut world);
            world.run_until(begin + ms(3_000));
            check(&world);
            let complaints: Vec<&String> = world.judge.complaints().collect();
            assert!(complaints.is_empty(), "seed {seed}: {complaints:?}");
            let after = world.judge.gaps.iter().filter(|(_, at, _)| *at >= begin);
            after.map(|(_, _, length)| *length).sum()
        })
        .collect();
    gaps.sort();
    gaps
}

fn show(what: &str, gaps: &[Duration]) {
    let at = |share: usize| gaps[(gaps.len() - 1) * share / 100];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100));
}

fn takeovers(world: &World) -> usize {
    world
        .outcomes
        .iter()
        .filter(|(_, _, outcome)| matches!(outcome, Outcome::TookOver { .. }))
        .count()
}

#[test]
fn a_node_dies() {
    for nodes in [2, 3, 5] {
        let gaps = gaps(
            200,
            nodes,
            |world| world.crash(0),
            |world| assert_eq!(takeovers(world), 1),
        );
        show(&format!("node death, {nodes} nodes"), &gaps);
        assert!(
            gaps[gaps.len() / 2] <= ms(130) && gaps[gaps.len() - 1] <= ms(200),
            "{gaps:?}"
        );
    }
}

#[test]
fn a_speaker_dies() {
    let gaps = gaps(
        200,
        3,
        |world| world.kill(0),
        |world| {
            assert_eq!(takeovers(world), 0);
            let answer = world.nodes[1].answers(World::address(0));
            assert_eq!(
                answer,
                Some((world.nodes[0].mac, true)),
                "the first standby answers in the owner's name"
            );
        },
    );
    show("speaker death", &gaps);
    assert!(gaps[gaps.len() - 1] <= ms(200), "{gaps:?}");
}

#[test]
fn a_speaker_is_restarted() {
    let restart = |world: &mut World| {
        world.goodbye(0);
        let at = world.now + ms(700);
        world.plan(at, |world| world.start(0));
    };
    let gaps = gaps(200, 3, restart, |world| {
        assert_eq!(takeovers(world), 0);
        assert_eq!(
            world.nodes[0].answers(World::address(0)),
            Some((world.nodes[0].mac, false))
        );
        assert_eq!(world.nodes[1].answers(World::address(0)), None);
    });
    show("restart after a goodbye", &gaps);
    assert_eq!(gaps[gaps.len() - 1], Duration::ZERO);
}

#[test]
fn an_owner_and_its_first_standby_die() {
    let both = |world: &mut World| {
        world.crash(0);
        world.crash(1);
    };
    let gaps = gaps(100, 4, both, |world| assert_eq!(takeovers(world), 1));
    show("owner and first standby die", &gaps);
    assert!(gaps[gaps.len() - 1] <= ms(350), "{gaps:?}");
}

#[test]
fn an_owner_loses_its_link() {
    let gaps = gaps(
        200,
        3,
        |world| world.plug(0, false),
        |world| assert_eq!(takeovers(world), 1),
    );
    show("carrier loss, heartbeats on another network", &gaps);
    assert!(gaps[gaps.len() - 1] <= ms(150), "{gaps:?}");
}

#[test]
fn a_standby_is_deaf_to_the_owner() {
    let deaf = |world: &mut World| {
        world.deaf.insert((0, 1));
    };
    let gaps = gaps(200, 3, deaf, |world| {
        assert_eq!(takeovers(world), 0, "the third node hears the owner");
        let heard = |(_, node, outcome): &(_, usize, Outcome)| {
            let by_others = PeerState::HeardByOthers;
            *node == 1 && matches!(outcome, Outcome::Peer { state, .. } if *state == by_others)
        };
        assert!(world.outcomes.iter().any(heard));
    });
    assert_eq!(gaps[gaps.len() - 1], Duration::ZERO);
}
