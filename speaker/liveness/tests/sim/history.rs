//! What a seed makes happen, and what must be so when it is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_liveness::{Outcome, PeerState, Placement, Role, Timing};

use crate::judge::Judge;
use crate::sabotage::Sabotage;
use crate::world::{World, ms};

/// How bad a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Planned moves, restarts that say goodbye, clocks that are set, an API server that is away: never a moment without an
    /// answer.
    Planned,
    /// Planned moves on a network that loses and delays, between processes under load, also to nodes that have just lost their
    /// link: the same.
    Moves,
    /// Processes that stand still, load, loss, heartbeats that are cut: no takeover.
    Rough,
    /// Two nodes hear nothing of each other, for long, while the others hear both: no takeover.
    Deaf,
    /// One fault at a time, on a cluster that has come to rest: answered at once, by one change of owner at most.
    Single,
    /// A speaker ends and never comes back, and its node may die later: once the grace time is over others own what it owned.
    Lost,
    /// Everything.
    Wild,
}

const KINDS: [Kind; 10] = [
    Kind::Planned,
    Kind::Rough,
    Kind::Wild,
    Kind::Single,
    Kind::Wild,
    Kind::Deaf,
    Kind::Lost,
    Kind::Moves,
    Kind::Wild,
    Kind::Single,
];

/// Faults happen until then.
const END: Duration = ms(15_000);
/// After that everything heals, and comes to rest.
const REST: Duration = ms(15_000);

/// So long an address is without an answer after a single fault, with nothing lost by the network; with some of it lost, one
/// round of questions may say nothing.
const SINGLE: (Duration, Duration) = (ms(350), ms(600));
/// So long two answer in a planned move, with nothing lost by the network.
const MOVE: Duration = ms(100);

/// What a history was like.
pub(crate) struct Told {
    pub(crate) kind: Kind,
    /// What was wrong in it.
    pub(crate) complaints: Vec<String>,
    /// As [`Judge::longest`].
    pub(crate) longest: [Duration; 2],
}

/// Plays a history and judges it.
pub(crate) fn tell(seed: u64, sabotage: Sabotage) -> Told {
    let kind = KINDS[(seed % KINDS.len() as u64) as usize];
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = match kind {
        Kind::Rough | Kind::Wild => rng.usize(2..=if seed % 16 == 3 { 8 } else { 5 }),
        _ => rng.usize(3..=5),
    };
    let timing = Timing {
        // Longer than any single fault.
        grace: ms(if kind == Kind::Single {
            3_000
        } else {
            rng.u64(1_000..=3_000)
        }),
        answer_for_owner: kind != Kind::Wild || rng.u8(0..8) > 0,
        ..Timing::default()
    };
    let mut world = World::new(seed, nodes, timing);
    world.sabotage = sabotage;
    let addresses: Vec<IpAddr> = (0..rng.usize(1..=4)).map(World::address).collect();
    (0..nodes).for_each(|node| world.start(node));
    for address in &addresses {
        let order = shuffled(&mut rng, nodes);
        world.place(*address, order[0], &order[1..order.len().min(4)]);
    }
    world.run_until(ms(1_000));
    world.judge = Judge::default();
    if !timing.answer_for_owner {
        // Nobody does while its node lives.
        world.judge.none += timing.grace + ms(300);
    }
    world.outcomes.clear();
    match kind {
        Kind::Planned => planned(&mut world, &mut rng, &addresses),
        Kind::Moves => moves(&mut world, &mut rng, &addresses),
        Kind::Rough => rough(&mut world, &mut rng),
        Kind::Deaf => deaf(&mut world, &mut rng),
        Kind::Single => single(&mut world, &mut rng, &addresses),
        Kind::Lost => lost(&mut world, &mut rng),
        Kind::Wild => wild(&mut world, &mut rng, &addresses),
    }
    world.run_until(END);
    // Two may act in the same moment, one of them late.
    let most = if kind == Kind::Single && world.loss == 0 { 1 } else { 2 };
    heal(&mut world);
    world.run_until(END + REST);
    let complaints = check(kind, most, &world, &addresses);
    let why = format!("FERROLB_SEED={seed} ({kind:?}, {nodes} nodes)");
    let complaints = complaints.into_iter().map(|complaint| format!("{why}: {complaint}"));
    Told {
        kind,
        complaints: complaints.collect(),
        longest: world.judge.longest,
    }
}

fn shuffled(rng: &mut fastrand::Rng, nodes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..nodes).collect();
    rng.shuffle(&mut order);
    order
}

fn time(rng: &mut fastrand::Rng) -> Duration {
    ms(rng.u64(1_000..14_000))
}

/// The controller moves an address, to a node that could answer for it as far as is known.
fn plan_move(world: &mut World, rng: &mut fastrand::Rng, address: IpAddr, at: Duration) {
    let order = shuffled(rng, world.nodes.len());
    world.plan(at, move |world| {
        let link = |node: &usize| world.nodes[*node].link || world.hidden.contains(node);
        let able = |node: &&usize| world.nodes[**node].process.is_some() && link(node);
        let order: Vec<usize> = order.iter().filter(able).copied().collect();
        if let Some((owner, standbys)) = order.split_first() {
            world.place(address, *owner, &standbys[..standbys.len().min(3)]);
        }
    });
}

/// The controller gives an address other standbys.
fn plan_standbys(world: &mut World, rng: &mut fastrand::Rng, address: IpAddr, at: Duration) {
    let order = shuffled(rng, world.nodes.len());
    world.plan(at, move |world| world.stand_by(address, &order));
}

/// A clock is set to another time, earlier or later.
fn plan_clock(world: &mut World, rng: &mut fastrand::Rng, node: usize, at: Duration) {
    let clock = ms(rng.u64(0..24 * 3_600_000));
    world.plan(at, move |world| world.set_clock(node, clock));
}

fn plan_outage(world: &mut World, rng: &mut fastrand::Rng) {
    let (at, length) = (time(rng), ms(rng.u64(100..6_000)));
    world.plan(at, api_away);
    world.plan(at + length, api_back);
}

fn api_away(world: &mut World) {
    world.say(|| "the API server is away".to_owned());
    world.api_up = false;
}

fn api_back(world: &mut World) {
    world.say(|| "the API server is there".to_owned());
    world.api_up = true;
    world.record();
    world.tell_all();
}

fn planned(world: &mut World, rng: &mut fastrand::Rng, addresses: &[IpAddr]) {
    world.judge.two = MOVE;
    // One thing after the other, as people and controllers do: a move every other second, restarts in between.
    for round in 0..6 {
        let at = ms(1_200 + round * 2_200);
        let address = addresses[rng.usize(0..addresses.len())];
        match rng.u8(0..4) {
            0 => plan_standbys(world, rng, address, at),
            _ => plan_move(world, rng, address, at),
        }
        let (node, back) = (rng.usize(0..world.nodes.len()), ms(rng.u64(50..600)));
        world.plan(at + ms(1_000), move |world| world.goodbye(node));
        if rng.bool() {
            plan_clock(world, rng, node, at + ms(1_050));
        }
        world.plan(at + ms(1_101) + back, move |world| world.start(node));
    }
    if rng.bool() {
        plan_outage(world, rng);
    }
}

fn moves(world: &mut World, rng: &mut fastrand::Rng, addresses: &[IpAddr]) {
    world.loss = rng.u32(0..=50);
    world.delay = ms(rng.u64(1..=4));
    for node in 0..world.nodes.len() {
        world.nodes[node].load = ms(rng.u64(0..=15));
        if rng.bool() {
            let at = time(rng);
            plan_clock(world, rng, node, at);
        }
    }
    for _ in 0..rng.usize(3..12) {
        let (at, address) = (time(rng), addresses[rng.usize(0..addresses.len())]);
        match rng.u8(0..5) {
            0 => plan_standbys(world, rng, address, at),
            1 => plan_quiet_loss(world, rng, at),
            _ => plan_move(world, rng, address, at),
        }
    }
    if rng.bool() {
        plan_outage(world, rng);
    }
}

/// A node that nothing is placed on loses its link, and the controller does not hear of it.
fn plan_quiet_loss(world: &mut World, rng: &mut fastrand::Rng, at: Duration) {
    let (node, length) = (rng.usize(0..world.nodes.len()), ms(rng.u64(20..3_000)));
    world.plan(at, move |world| {
        let name = &world.nodes[node].name;
        let free = |(address, (placement, _)): (&IpAddr, &(Placement, _))| {
            placement.owner != *name && !world.nodes[node].has_part(*address)
        };
        let alone = world.nodes.iter().filter(|node| node.link).count() < 3;
        if !alone && world.api.iter().all(free) {
            // As many as may be placed there before it is back.
            world.hit(None);
            world.hidden.insert(node);
            world.plug(node, false);
            world.plan(world.now + length, move |world| {
                world.hidden.remove(&node);
                world.plug(node, true);
            });
        }
    });
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
        world.hit(None);
    }
    world.delay = ms(rng.u64(1..=2));
    plan_deafness(world, rng, ms(12_500), false);
    plan_outage(world, rng);
}

fn plan_deafness(world: &mut World, rng: &mut fastrand::Rng, longest: Duration, hits: bool) {
    let order = shuffled(rng, world.nodes.len());
    let pair = (order[0].min(order[1]), order[0].max(order[1]));
    let (at, length) = (ms(rng.u64(1_000..2_000)), ms(rng.u64(100..longest.as_millis() as u64)));
    world.plan(at, move |world| {
        world.say(|| format!("{pair:?} hear nothing of each other"));
        if hits {
            world.hit(Some(pair.0));
            world.hit(Some(pair.1));
        }
        world.deaf.insert(pair);
    });
    world.plan(at + length, move |world| {
        world.say(|| format!("{pair:?} hear each other"));
        world.deaf.remove(&pair);
    });
}

fn plan_cut(world: &mut World, rng: &mut fastrand::Rng) {
    let order = shuffled(rng, world.nodes.len());
    let pair = (order[0].min(order[1]), order[0].max(order[1]));
    let (at, length) = (time(rng), ms(rng.u64(50..4_000)));
    world.plan(at, move |world| {
        world.say(|| format!("heartbeats between {pair:?} are cut"));
        world.cut.insert(pair);
    });
    world.plan(at + length, move |world| {
        world.say(|| format!("heartbeats between {pair:?} pass"));
        world.cut.remove(&pair);
    });
}

/// Before the next fault everything has come to rest: a standby knows its owner.
const PAUSE: Duration = ms(2_800);

fn single(world: &mut World, rng: &mut fastrand::Rng, addresses: &[IpAddr]) {
    world.loss = if rng.bool() { rng.u32(1..=20) } else { 0 };
    world.judge.none = if world.loss == 0 { SINGLE.0 } else { SINGLE.1 };
    let mut at = ms(1_500);
    while at < END - PAUSE {
        let (any, length) = (rng.usize(0..world.nodes.len()), ms(rng.u64(20..2_000)));
        let (address, fault, owner) = (addresses[rng.usize(0..addresses.len())], rng.u8(0..7), rng.u8(0..4) > 0);
        let (before, clock) = (rng.bool(), ms(rng.u64(0..24 * 3_600_000)));
        world.plan(at, move |world| {
            let owner = world.nodes.iter().position(|node| owner && node.has_part(address));
            let node = owner.unwrap_or(any);
            let back = world.now + length;
            match fault {
                0 | 1 => {
                    world.hit(Some(node));
                    world.crash(node);
                    if before {
                        world.set_clock(node, clock);
                    }
                    world.plan(back, move |world| world.start(node));
                }
                2 => {
                    world.kill(node);
                    world.plan(back, move |world| world.start(node));
                }
                3 => world.stall(node, length),
                4 => {
                    world.hit(Some(node));
                    world.plug(node, false);
                    world.plan(back, move |world| world.plug(node, true));
                }
                5 => {
                    // On its own it takes what it stands by for.
                    world.hit(None);
                    let sides: Vec<u8> = (0..world.nodes.len()).map(|other| u8::from(other == node)).collect();
                    split(world, &sides);
                    world.plan(back, |world| split(world, &[]));
                }
                _ => {
                    api_away(world);
                    world.plan(back, api_back);
                }
            }
        });
        at += length + PAUSE;
    }
}

fn lost(world: &mut World, rng: &mut fastrand::Rng) {
    world.loss = rng.u32(0..=20);
    world.delay = ms(rng.u64(1..=4));
    let nodes = world.nodes.len();
    for node in 0..nodes {
        world.nodes[node].load = ms(rng.u64(0..=15));
    }
    let (node, at, farewell) = (rng.usize(0..nodes), ms(rng.u64(1_500..3_000)), rng.bool());
    world.plan(at, move |world| {
        world.hit(Some(node));
        world.gone = Some(node);
        if farewell {
            world.goodbye(node);
        } else {
            world.kill(node);
        }
    });
    // Standbys that are late in the very moment: another one may have answered by then.
    for _ in 0..rng.usize(0..=3) {
        let (other, begin, length) = (rng.usize(0..nodes), rng.u64(0..=60), ms(rng.u64(20..=150)));
        if other != node {
            world.plan(at + ms(begin) - ms(30), move |world| world.stall(other, length));
        }
    }
    if rng.bool() {
        let later = at + ms(rng.u64(300..5_000));
        world.plan(later, move |world| {
            world.hit(Some(node));
            world.crash(node);
        });
    }
}

fn wild(world: &mut World, rng: &mut fastrand::Rng, addresses: &[IpAddr]) {
    world.loss = rng.u32(0..=50);
    world.delay = ms(rng.u64(1..=5));
    let nodes = world.nodes.len();
    for _ in 0..rng.usize(2..10) {
        let (at, node, back) = (time(rng), rng.usize(0..nodes), ms(rng.u64(50..5_000)));
        match rng.u8(0..12) {
            fault @ (0 | 1) => {
                let speaker = ms(rng.u64(0..2_000));
                world.plan(at, move |world| {
                    world.hit(Some(node));
                    world.crash(node);
                });
                if fault == 1 {
                    plan_clock(world, rng, node, at);
                }
                world.plan(at + back, move |world| world.boot(node));
                world.plan(at + back + speaker, move |world| world.start(node));
            }
            fault @ (2 | 3) => {
                world.plan(at, move |world| {
                    world.hit(Some(node));
                    world.kill(node);
                });
                plan_clock(world, rng, node, at);
                world.plan(at + back, move |world| {
                    if fault == 3 && world.nodes[node].process.is_none() {
                        world.say(|| format!("node-{node} has lost its state"));
                        world.nodes[node].forget();
                    }
                    world.start(node);
                });
            }
            4 => {
                world.plan(at, move |world| {
                    world.hit(Some(node));
                    world.goodbye(node);
                });
                world.plan(at + ms(150) + back, move |world| world.start(node));
            }
            5 => {
                let length = ms(rng.u64(50..5_000));
                world.plan(at, move |world| {
                    world.hit(Some(node));
                    world.stall(node, length);
                });
            }
            6 => {
                let sides: Vec<u8> = (0..nodes).map(|_| rng.u8(0..2)).collect();
                world.plan(at, move |world| {
                    world.hit(None);
                    split(world, &sides);
                });
                world.plan(at + back, |world| split(world, &[]));
            }
            7 => plan_cut(world, rng),
            8 => plan_deafness(world, rng, ms(5_000), true),
            9 => {
                world.plan(at, move |world| {
                    world.hit(Some(node));
                    world.plug(node, false);
                });
                world.plan(at + back, move |world| world.plug(node, true));
            }
            10 => {
                let address = addresses[rng.usize(0..addresses.len())];
                plan_standbys(world, rng, address, at);
            }
            _ => {
                world.plan(at, move |world| {
                    world.say(|| format!("node-{node} does not reach the API server"));
                    world.nodes[node].api = false;
                });
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
    world.judge.forget(world.now);
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
        if world.gone != Some(node) {
            world.start(node);
        }
    }
    api_back(world);
    // What was in nobody's hand when the API server came back.
    for second in 1..10 {
        let at = world.now + ms(1_000 * second);
        world.plan(at, World::record);
    }
}

/// What is wrong at the end; an address may have been taken over `most` times for each fault.
fn check(kind: Kind, most: usize, world: &World, addresses: &[IpAddr]) -> Vec<String> {
    let mut wrong: Vec<String> = world.judge.complaints().cloned().collect();
    for address in addresses {
        let took = |outcome: &Outcome| matches!(outcome, Outcome::TookOver { address: a, .. } if a == address);
        let took = world.outcomes.iter().filter(|(_, _, outcome)| took(outcome)).count();
        let hits = world.hits.get(address).copied().unwrap_or(0);
        if took > most * hits {
            wrong.push(format!("{address} was taken over {took} times for {hits} faults"));
        }
        rest(world, *address, &mut wrong);
    }
    if matches!(kind, Kind::Planned | Kind::Moves) && !world.judge.gaps.is_empty() {
        wrong.push(format!(
            "planned, and without an answer for a moment: {:?}",
            world.judge.gaps
        ));
    }
    wrong
}

/// At rest one node owns an address, and all agree.
fn rest(world: &World, address: IpAddr, wrong: &mut Vec<String>) {
    let (placement, _) = &world.api[&address];
    let answers = world
        .nodes
        .iter()
        .filter_map(|node| Some((&*node.name, node.answers(address)?)));
    let answers: BTreeMap<_, _> = answers.collect();
    let owner = world.nodes.iter().find(|node| node.name == placement.owner);
    let alone = owner.map(|owner| (&*owner.name, (owner.mac, false)));
    if answers != alone.into_iter().collect() {
        wrong.push(format!(
            "{address} at rest is answered by {answers:?}, placed as {placement:?}"
        ));
    }
    for (number, node) in world.nodes.iter().enumerate() {
        let Some(process) = &node.process else {
            if world.gone == Some(number) {
                continue;
            }
            wrong.push(format!("{} does not run at rest", node.name));
            continue;
        };
        let role = process.guard.roles().find(|(a, _)| *a == address).map(|(_, role)| role);
        let fits = match &role {
            Some(Role::Own) => placement.owner == node.name,
            Some(Role::Listen) => placement.rank(&node.name).is_some(),
            Some(Role::StandIn(_)) => false,
            None => placement.members().all(|member| *member != node.name),
        };
        let belief = process.guard.belief(address);
        if !fits || belief.is_some_and(|belief| belief.order() != placement.order()) {
            wrong.push(format!(
                "{} at rest is {role:?} for {address} and goes by {belief:?}, placed as {placement:?}",
                node.name
            ));
        }
        let thinks = process.thinks.get(&placement.owner);
        if placement.rank(&node.name).is_some() && thinks != Some(&PeerState::Alive) {
            wrong.push(format!(
                "{} at rest does not hear {}: {thinks:?}",
                node.name, placement.owner
            ));
        }
    }
}
