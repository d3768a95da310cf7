//! Which interface answers: in its subnet, one of each segment, and another one when that is lost; and that nothing
//! which comes in by it stops that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferrolb_l2::wire::{OwnedFrame, arp, ethernet, ndp};
use ferrolb_l2::{Mac, Manner, Report, Want, Wanted};

use crate::lab::{Lab, NODE, STRANGER_MAC, Segment, eventually};
use crate::{V4, V6, ip, no_faults};

/// In the segment's subnets.
const IN_SEGMENT: [&str; 2] = ["10.98.0.100", "fd98::100"];
/// The client's MAC on `c1`.
const ASKER: Mac = [2, 0, 0, 0, 0, 8];
/// The node's MACs on `eth1` and `eth2`.
const FIRST: &str = "02:00:00:00:00:02";
const SECOND: &str = "02:00:00:00:00:0c";

/// Owned, with this manner.
fn owned(addresses: &[&str], manner: Manner) -> Wanted {
    let want = Want {
        manner,
        ..Want::default()
    };
    let all = addresses.iter().map(|address| (ip(address), want.clone()));
    Wanted {
        addresses: all.collect(),
        ..Wanted::default()
    }
}

fn in_subnet() -> Manner {
    Manner {
        subnet_check: true,
        ..Manner::default()
    }
}

/// What a host broadcasts that looks for an address.
pub(crate) fn question(target: &str, from: Mac) -> Vec<u8> {
    let frame = match ip(target) {
        IpAddr::V4(target_ip) => {
            let packet = arp::Repr {
                operation: arp::Operation::Request,
                sender_mac: from,
                sender_ip: [10, 98, 0, 77].into(),
                target_mac: [0; 6],
                target_ip,
            };
            OwnedFrame::arp(from, ethernet::BROADCAST, &packet)
        }
        IpAddr::V6(target) => {
            let packet = ndp::Repr {
                source: "fe80::77".parse().unwrap(),
                destination: ndp::solicited_node(target),
                message: ndp::Message::Solicitation {
                    target,
                    source_mac: Some(from),
                },
            };
            OwnedFrame::ndp(from, ethernet::multicast(packet.destination), &packet)
        }
    };
    frame.as_bytes().to_vec()
}

/// Waits until the node's interface is as `is` says.
fn interface(lab: &mut Lab, name: &str, running: bool) {
    lab.engine
        .until(&format!("{name} running: {running}"), |report| match report {
            Report::Interfaces(interfaces) => interfaces
                .iter()
                .any(|state| state.name == name && state.running() == running),
            _ => false,
        });
}

#[test]
fn of_two_cards_and_a_macvlan_in_one_segment_one_answers_and_the_other_takes_over() {
    let Some(mut lab) = Lab::new() else { return };
    let segment = Segment::new(&lab);
    segment.plug(&lab.node, "eth2", 12);
    lab.node.ip("link add mac0 link eth1 type macvlan mode bridge");
    lab.node.ip("addr add 10.98.0.22/24 dev mac0");
    lab.node.ip("addr add fd98::22/64 dev mac0 nodad");
    lab.node.ip("link set mac0 up");
    interface(&mut lab, "mac0", true);
    lab.engine.replace(owned(&IN_SEGMENT, in_subnet()));
    for address in IN_SEGMENT {
        lab.engine.announcing(address, &["eth1"]);
    }
    lab.client
        .send_frames("c1", IN_SEGMENT.map(|address| question(address, ASKER)).into());
    let replies = |lab: &Lab| {
        let counts = lab.engine.counts();
        [counts.arp.replies, counts.ndp.replies]
    };
    eventually("both are answered", || replies(&lab).iter().all(|count| *count > 0));
    lab.engine.settle();
    assert_eq!(replies(&lab), [1, 1], "three interfaces have heard each question");
    for address in IN_SEGMENT {
        eventually("the client resolves it", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some(FIRST)
        });
    }

    // The kernel itself tells of a lost carrier up to a second late.
    let tap = lab.client.tap("c1");
    segment.switch.ip("link set to-eth1 down");
    let lost = Instant::now();
    let from_second = |frame: &[u8]| frame[6..12] == [2, 0, 0, 0, 0, 12] && frame[12..14] == [0x08, 0x06];
    tap.until("an announcement by the other card", from_second);
    let silence = lost.elapsed();
    assert!(
        silence < Duration::from_millis(300),
        "announced by the other card after {silence:?}"
    );
    for address in IN_SEGMENT {
        lab.engine.announcing(address, &["eth2"]);
        eventually("the client hears of it", || {
            lab.client.neighbour(ip(address)).as_deref() == Some(SECOND)
        });
    }

    segment.switch.ip("link set to-eth1 up");
    interface(&mut lab, "eth1", true);
    lab.engine.settle();
    let before = replies(&lab);
    lab.client
        .send_frames("c1", IN_SEGMENT.map(|address| question(address, ASKER)).into());
    let answer = |frame: &[u8]| frame[0..6] == ASKER && frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2];
    let answer = tap.until("an answer", answer);
    assert_eq!(answer[6..12], [2, 0, 0, 0, 0, 12], "what is back takes nothing back");
    eventually("both are answered", || replies(&lab) > before);
    no_faults(&lab.engine);
}

#[test]
fn an_address_is_announced_where_its_subnet_is_and_follows_it() {
    const OTHER: &str = "10.97.0.100";
    const MACVLAN: &str = "02:00:00:00:00:97";
    let Some(mut lab) = Lab::new() else { return };
    lab.node.ip(&format!(
        "link add mac0 link eth0 address {MACVLAN} type macvlan mode bridge"
    ));
    lab.node.ip("addr add 10.97.0.1/24 dev mac0");
    lab.node.ip("link set mac0 up");
    lab.client.ip("addr add 10.97.0.3/24 dev c0");
    lab.engine.replace(owned(&[V4, V6, OTHER, "10.96.0.100"], in_subnet()));
    lab.engine.announcing(OTHER, &["mac0"]);
    for (address, mac) in [(V4, NODE), (V6, NODE), (OTHER, MACVLAN)] {
        eventually("the client resolves it", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some(mac)
        });
    }
    lab.node.ip("addr del 10.97.0.1/24 dev mac0");
    lab.engine.announcing(OTHER, &[]);
    lab.node.ip("addr add 10.97.0.9/24 dev eth0");
    lab.engine.announcing(OTHER, &["eth0"]);
    eventually("the client hears of it", || {
        lab.client.neighbour(ip(OTHER)).as_deref() == Some(NODE)
    });
    let nowhere = |report: &Report| matches!(report, Report::Announcing { address, interfaces } if *address == ip("10.96.0.100") && !interfaces.is_empty());
    assert!(!lab.engine.seen.iter().any(nowhere), "{:#?}", lab.engine.seen);
    no_faults(&lab.engine);
}

#[test]
fn an_interface_goes_on_under_another_name() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    lab.node.ip("link set eth0 down");
    lab.node.ip("link set eth0 name lan0");
    lab.node.ip("link set lan0 up");
    for address in [V4, V6] {
        lab.engine.announcing(address, &["lan0"]);
        eventually("the client resolves it", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
    no_faults(&lab.engine);
}

#[test]
fn what_is_announced_is_refreshed_as_is_said_for_it() {
    let Some(mut lab) = Lab::new() else { return };
    let often = Manner {
        refresh: Some(Duration::from_millis(50)),
        ..Manner::default()
    };
    lab.engine.replace(owned(&[V4], Manner::default()));
    lab.engine.announcing(V4, &["eth0"]);
    lab.engine.replace(owned(&[V4], often));
    // A burst is two frames and to whom it may concern, five times.
    eventually("it is announced after its burst", || {
        lab.engine.counts().arp.gratuitous > 30
    });
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Frames that nobody should send: questions with some octets changed, cut short or drawn out, and noise after an
/// Ethernet header that promises ARP or IPv6. None of them is from the client or the node.
fn nonsense(seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed;
    let mut below = |limit: usize| (random(&mut state) % limit as u64) as usize;
    let mut frame = || {
        let mut frame = question(IN_SEGMENT[below(2)], STRANGER_MAC);
        match below(3) {
            0 => {
                for _ in 0..=below(4) {
                    let at = ethernet::HEADER_LENGTH + below(frame.len() - ethernet::HEADER_LENGTH);
                    frame[at] = below(256) as u8;
                }
            }
            1 => frame.resize(ethernet::HEADER_LENGTH + below(1_400), below(256) as u8),
            _ => {
                frame.truncate(ethernet::HEADER_LENGTH);
                let length = below(1_400);
                frame.extend(std::iter::repeat_with(|| below(256) as u8).take(length));
            }
        }
        frame
    };
    std::iter::repeat_with(&mut frame).take(4_096).collect()
}

#[test]
fn a_flood_of_nonsense_keeps_nobody_from_an_answer() {
    const ROUNDS: usize = 20;
    let Some(mut lab) = Lab::new() else { return };
    let segment = Segment::new(&lab);
    lab.engine.replace(owned(&IN_SEGMENT, in_subnet()));
    for address in IN_SEGMENT {
        lab.engine.announcing(address, &["eth1"]);
    }
    /// Ends the flood, also when something panics.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&over);
        let flood = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                let frames = nonsense(sent as u64);
                sent += frames.len();
                segment.stranger.send_frames("s0", frames);
            }
            sent
        });
        let start = Instant::now();
        for _ in 0..ROUNDS {
            lab.client.ip("neigh flush dev c1");
            for address in IN_SEGMENT {
                eventually("the client resolves it", || {
                    lab.client.send_to(ip(address));
                    lab.client.neighbour(ip(address)).as_deref() == Some(FIRST)
                });
            }
        }
        drop(ends);
        let sent = flood.join().expect("the flood does not panic");
        let reasons = lab.engine.counts().drops;
        let met: BTreeSet<String> = reasons
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(r, n)| format!("{r}: {n}"))
            .collect();
        eprintln!("{ROUNDS} rounds in {:?} beside {sent} frames; {met:?}", start.elapsed());
        assert!(!met.is_empty(), "some of it got through to the engine");
    });
    assert!(lab.engine.stop().is_ok());
}
