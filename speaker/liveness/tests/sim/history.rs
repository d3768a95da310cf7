//! What a seed makes happen, and what must be so when it is over.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_liveness::{Outcome, Role, Timing};

use crate::judge::Judge;
use crate::world::{World, ms};

/// How bad a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Planned moves, restarts that say goodbye, an API server that is away: never a moment without an answer.
    Planned,
    /// Processes that stand still, load, loss, heartbeats that are cut: no takeover.
    Rough,
    /// Two nodes hear nothing of each other, for long, while the others hear both: no takeover.
    Deaf,
    /// Everything.
    Wild,
}

/// Faults happen until then.
const END: Duration = ms(15_000);
/// After that everything heals, and comes to rest.
const REST: Duration = ms(15_000);

/// Plays a history and checks it.
pub(crate) fn play(seed: u64) {
    let kinds = [
        Kind::Planned,
        Kind::Rough,
        Kind::Wild,
        Kind::Wild,
        Kind::Planned,
        Kind::Deaf,
        Kind::Wild,
        Kind::Wild,
    ];
    let kind = kinds[(seed % 8) as usize];
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = if matches!(kind, Kind::Planned | Kind::Deaf) {
        rng.usize(3..=5)
    } else {
        rng.usize(2..=if seed % 16 == 3 { 8 } else { 5 })
    };
    let timing = Timing {
        grace: ms(rng.u64(1_000..=3_000)),
        answer_for_owner: kind != Kind::Wild || rng.u8(0..8) > 0,
        ..Timing::default()
    };
    let mut world = World::new(seed, nodes, timing);
    let addresses: Vec<IpAddr> = (0..rng.usize(1..=4)).map(World::address).collect();
    (0..nodes).for_each(|node| world.start(node));
    for address in &addresses {
        let order = shuffled(&mut rng, nodes);
        world.place(*address, order[0], &order[1..order.len().min(4)]);
    }
    world.run_until(ms(1_000));
    world.judge = Judge::default();
    world.outcomes.clear();
    match kind {
        Kind::Planned => planned(&mut world, &mut rng, &addresses),
        Kind::Rough => rough(&mut world, &mut rng),
        Kind::Deaf => deaf(&mut world, &mut rng),
        Kind::Wild => wild(&mut world, &mut rng, &addresses),
    }
    world.run_until(END);
    heal(&mut world);
    world.run_until(END + REST);
    check(seed, kind, &world, &addresses);
}

fn shuffled(rng: &mut fastrand::Rng, nodes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..nodes).collect();
    rng.shuffle(&mut order);
    order
}

fn time(rng: &mut fastrand::Rng) -> Duration {
    ms(rng.u64(1_000..14_000))
}

/// The controller moves an address.
fn plan_move(world: &mut World, rng: &mut fastrand::Rng, address: IpAddr, at: Duration) {
    let order = shuffled(rng, world.nodes.len());
    world.plan(at, move |world| {
        let alive = |node: &&usize| world.nodes[**node].process.is_some();
        let order: Vec<usize> = order.iter().filter(alive).copied().collect();
        if let Some((owner, standbys)) = order.split_first() {
            world.place(address, *owner, &standbys[..standbys.len().min(3)]);
        }
    });
}

fn plan_outage(world: &mut World, rng: &mut fastrand::Rng) {
    let (at, length) = (time(rng), ms(rng.u64(100..6_000)));
    world.plan(at, |world| world.api_up = false);
    world.plan(at + length, api_back);
}

fn api_back(world: &mut World) {
    world.api_up = true;
    world.record();
    world.tell_all();
}

fn planned(world: &mut World, rng: &mut fastrand::Rng, addresses: &[IpAddr]) {
    // One thing after the other, as people and controllers do: a move every other second, restarts in between.
    for round in 0..6 {
        let at = ms(1_200 + round * 2_200);
        let address = addresses[rng.usize(0..addresses.len())];
        plan_move(world, rng, address, at);
        let (node, back) = (rng.usize(0..world.nodes.len()), ms(rng.u64(50..600)));
        world.plan(at + ms(1_000), move |world| world.goodbye(node));
        world.plan(at + ms(1_101) + back, move |world| world.start(node));
    }
}

fn rough(world: &mut World, rng: &mut fastrand::Rng) {
    world.loss = rng.u32(0..=20);
    world.delay = ms(rng.u64(1..=4));
    let nodes = world.nodes.len();
    for _ in 0..rng.usize(5..30) {
        let (at, node, length) = (time(rng), rng.usize(0..nodes), ms(rng.u64(20..=150)));
        world.plan(at, move |world| world.stall(node, length));
    }
    for _ in 0..rng.usize(0..3) {
        plan_cut(world, rng);
    }
    for node in 0..nodes {
        let load = ms(rng.u64(0..=15));
        world.nodes[node].load = load;
    }
    plan_outage(world, rng);
}

fn deaf(world: &mut World, rng: &mut fastrand::Rng) {
    if rng.bool() {
        // The witness may have missed a heartbeat itself in the very moment: one takeover, and not another.
        world.loss = rng.u32(1..=10);
        world.faults += 1;
    }
    world.delay = ms(rng.u64(1..=2));
    plan_deafness(world, rng, ms(12_500));
    plan_outage(world, rng);
}

fn plan_deafness(world: &mut World, rng: &mut fastrand::Rng, longest: Duration) {
    let order = shuffled(rng, world.nodes.len());
    let pair = (order[0].min(order[1]), order[0].max(order[1]));
    let (at, length) = (ms(rng.u64(1_000..2_000)), ms(rng.u64(100..longest.as_millis() as u64)));
    world.plan(at, move |world| {
        world.say(|| format!("{pair:?} hear nothing of each other"));
        world.deaf.insert(pair);
        world.judge.forget();
    });
    world.plan(at + length, move |world| {
        world.deaf.remove(&pair);
        world.judge.forget();
    });
}

fn plan_cut(world: &mut World, rng: &mut fastrand::Rng) {
    let order = shuffled(rng, world.nodes.len());
    let pair = (order[0].min(order[1]), order[0].max(order[1]));
    let (at, length) = (time(rng), ms(rng.u64(50..4_000)));
    world.plan(at, move |world| {
        world.say(|| format!("heartbeats between {pair:?} are cut"));
        world.cut.insert(pair);
        world.judge.forget();
    });
    world.plan(at + length, move |world| {
        world.cut.remove(&pair);
        world.judge.forget();
    });
}

fn wild(world: &mut World, rng: &mut fastrand::Rng, addresses: &[IpAddr]) {
    world.loss = rng.u32(0..=50);
    world.delay = ms(rng.u64(1..=5));
    let nodes = world.nodes.len();
    for _ in 0..rng.usize(2..10) {
        let (at, node, back) = (time(rng), rng.usize(0..nodes), ms(rng.u64(50..5_000)));
        world.faults += 1;
        match rng.u8(0..10) {
            0 | 1 => {
                world.plan(at, move |world| world.crash(node));
                world.plan(at + back, move |world| world.start(node));
            }
            2 => {
                world.plan(at, move |world| world.kill(node));
                world.plan(at + back, move |world| world.start(node));
            }
            3 => {
                world.plan(at, move |world| world.goodbye(node));
                world.plan(at + ms(150) + back, move |world| world.start(node));
            }
            4 => {
                let length = ms(rng.u64(50..5_000));
                world.plan(at, move |world| world.stall(node, length));
            }
            5 => {
                let sides: Vec<u8> = (0..nodes).map(|_| rng.u8(0..2)).collect();
                world.plan(at, move |world| split(world, &sides));
                world.plan(at + back, |world| split(world, &[]));
            }
            6 => plan_cut(world, rng),
            7 => plan_deafness(world, rng, ms(5_000)),
            8 => {
                world.plan(at, move |world| world.plug(node, false));
                world.plan(at + back, move |world| world.plug(node, true));
            }
            _ => {
                world.plan(at, move |world| world.nodes[node].api = false);
                world.plan(at + back, move |world| {
                    world.nodes[node].api = true;
                    api_back(world);
                });
            }
        }
    }
    for _ in 0..rng.usize(0..4) {
        let (at, address) = (time(rng), addresses[rng.usize(0..addresses.len())]);
        plan_move(world, rng, address, at);
    }
    if rng.bool() {
        plan_outage(world, rng);
    }
}

/// Puts each node on a side of the segment; those not named on side 0.
fn split(world: &mut World, sides: &[u8]) {
    world.say(|| format!("the segment is {sides:?}"));
    for (number, node) in world.nodes.iter_mut().enumerate() {
        node.segment = sides.get(number).copied().unwrap_or(0);
    }
    world.judge.forget();
}

fn heal(world: &mut World) {
    split(world, &[]);
    world.loss = 0;
    world.cut.clear();
    world.deaf.clear();
    for node in 0..world.nodes.len() {
        world.nodes[node].api = true;
        world.nodes[node].load = Duration::ZERO;
        world.plug(node, true);
        world.start(node);
    }
    api_back(world);
    // What was in nobody's hand when the API server came back.
    for second in 1..10 {
        let at = world.now + ms(1_000 * second);
        world.plan(at, World::record);
    }
}

fn check(seed: u64, kind: Kind, world: &World, addresses: &[IpAddr]) {
    let why = format!("FERROLB_SEED={seed} ({kind:?}, {} nodes)", world.nodes.len());
    let complaints = &world.judge.complaints;
    assert!(complaints.is_empty(), "{why}: {complaints:#?}");
    let took = |address: &IpAddr| {
        let of = |outcome: &Outcome| matches!(outcome, Outcome::TookOver { address: a, .. } if a == address);
        world.outcomes.iter().filter(|(_, _, outcome)| of(outcome)).count()
    };
    // A split may give each side an owner; everything else one.
    let most = 2 * world.faults;
    for address in addresses {
        assert!(
            took(address) <= most,
            "{why}: {address} was taken over {} times",
            took(address)
        );
        let owners = world
            .nodes
            .iter()
            .filter(|node| node.answers(*address) == Some((node.mac, false)));
        let owners: Vec<&str> = owners.map(|node| &*node.name).collect();
        let (placement, _) = &world.api[address];
        assert_eq!(
            owners,
            [&*placement.owner],
            "{why}: {address} at rest, placed as {placement:?}"
        );
        for node in &world.nodes {
            let guard = &node.process.as_ref().unwrap().guard;
            let role = guard.roles().find(|(a, _)| a == address).map(|(_, role)| role);
            let fits = match &role {
                Some(Role::Own) => placement.owner == node.name,
                Some(Role::Listen) => placement.rank(&node.name).is_some(),
                Some(Role::StandIn(_)) => false,
                None => placement.members().all(|member| *member != node.name),
            };
            assert!(
                fits,
                "{why}: {} is {role:?} for {address}, placed as {placement:?}",
                node.name
            );
        }
    }
    if kind == Kind::Planned {
        assert_eq!(world.judge.gaps, [], "{why}: not answered");
        assert_eq!(world.judge.longest_none, Duration::ZERO, "{why}: not answered");
    }
}
