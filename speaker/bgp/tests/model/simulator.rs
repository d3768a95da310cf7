//! Two to fifty sessions through whatever happens, from a seed: connections that break, routers that are away or slow,
//! routes and settings that change, speakers that take over from others. Once it is quiet every router holds exactly
//! what is wanted for it.

use std::sync::Arc;

use ferrolb_bgp::session::{Origin, SLOTS};
use ferrolb_bgp::settings::Opening;
use ferrolb_bgp::{Attributes, Peer, Routes, State};

use crate::adj_rib_out::expected;
use crate::link::{Link, peer};
use crate::make::{context, host, tagged};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn routes(&mut self) -> Arc<Routes> {
        let most = [3, 30, 300, 3_000][self.below(4) as usize];
        let route = |random: &mut Random| {
            let v6 = random.below(2) == 0;
            let attributes = Attributes {
                med: (random.below(2) == 0).then(|| random.below(3) as u32),
                ..tagged(random.below(4) as u16)
            };
            (host(v6, random.below(most) as u32), attributes)
        };
        let count = self.below(most);
        Arc::new((0..count).map(|_| route(self)).collect())
    }

    fn settings(&mut self, before: &Peer) -> Peer {
        let mut next = before.clone();
        match self.below(4) {
            0 => next.keepalive = Some(1 + self.below(3) as u16),
            1 => next.hold_time = [6, 9, 12][self.below(3) as usize],
            2 => {
                let openings = [Opening::Dial, Opening::DialAndListen, Opening::Listen];
                next.opening = openings[self.below(3) as usize];
            }
            _ => next.router_id = [10, 0, 0, 1 + self.below(2) as u8].into(),
        }
        next
    }
}

/// One thing happens to one session.
fn happen(random: &mut Random, link: &mut Link, wanted: &mut Arc<Routes>) {
    match random.below(13) {
        0 | 1 => {
            *wanted = random.routes();
            link.session.want(link.now, Arc::clone(wanted));
        }
        2 => {
            let slot = random.below(SLOTS as u64) as usize;
            if link.routers[slot].is_some() {
                link.session.closed(link.now, slot, "reset");
            }
        }
        3 => link.reachable = random.below(3) > 0,
        4 => {
            let next = random.settings(link.session.peer());
            link.session.reconfigure(link.now, Arc::new(next));
        }
        5 => drop(link.connect(Origin::Accepted)),
        6 => link.session.bfd_down(link.now),
        7 | 8 => {
            // A slow router: a part of what is there, cut anywhere.
            for slot in 0..SLOTS {
                link.carry(slot, 1 + random.below(5_000) as usize);
            }
        }
        9 => link.settle(),
        10 => drop(link.hand_over(wanted)),
        _ => link.pass(random.below(40) as f64 / 10.0, random.below(4) == 0),
    }
    link.perform();
}

fn simulate(seed: u64, sessions: usize, steps: usize) {
    let mut random = Random(seed);
    let mut links: Vec<(Link, Arc<Routes>)> = (0..sessions)
        .map(|_| {
            let routes = random.routes();
            (Link::new(peer(), Arc::clone(&routes)), routes)
        })
        .collect();
    for _ in 0..steps {
        let (link, wanted) = &mut links[random.below(sessions as u64) as usize];
        happen(&mut random, link, wanted);
    }
    for (number, (link, wanted)) in links.iter_mut().enumerate() {
        link.reachable = true;
        // A router that is waited for dials every ten seconds.
        for _ in 0..20 {
            if link.session.peer().opening == Opening::Listen && link.state() < State::OpenSent {
                link.connect(Origin::Accepted);
                link.settle();
            }
            link.pass(10.0, false);
        }
        let at = format!("seed {seed}, session {number}: {:?}", link.session.status());
        assert_eq!(link.state(), State::Established, "{at}");
        assert!(link.router().held == expected(wanted, context()), "{at}");
        let before = link.router().updates;
        link.pass(60.0, false);
        assert_eq!(link.router().updates, before, "{at}: quiet is quiet");
        assert_eq!(link.routers.iter().flatten().count(), 1, "{at}");
    }
}

#[test]
fn every_router_holds_what_is_wanted_once_it_is_quiet() {
    for seed in 0..40 {
        simulate(seed, 2 + (seed as usize * 7) % 6, 120);
    }
    simulate(1_000, 50, 2_000);
}
