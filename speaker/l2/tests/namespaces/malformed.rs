//! Frames that break the rules, as fast as a host can send them: what is asked properly meanwhile is answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use etherparse::checksum::Sum16BitWords;
use ferrolb_l2::Mac;
use ferrolb_l2::wire::{OwnedFrame, arp, ethernet, ndp};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::lab::{Lab, STRANGER_MAC, Segment};

const V4: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 100);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 0x100);
const NODE_MAC: Mac = [2, 0, 0, 0, 0, 2];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 8];

/// How many different frames are sent, again and again.
const FRAMES: usize = 20_000;
/// How many proper questions are asked meanwhile.
const QUESTIONS: u32 = 40;
/// What a question has to be answered within. A queue that overflows may cost it a try.
const ANSWERED: Duration = Duration::from_secs(1);
const NEXT_TRY: Duration = Duration::from_millis(20);

/// Asks who has an address: by broadcast from `source`, with an IP address of its segment.
fn question(address: IpAddr, source: Mac) -> Vec<u8> {
    let frame = match address {
        IpAddr::V4(target_ip) => {
            let packet = arp::Repr {
                operation: arp::Operation::Request,
                sender_mac: source,
                sender_ip: Ipv4Addr::new(10, 98, 0, source[5]),
                target_mac: [0; 6],
                target_ip,
            };
            OwnedFrame::arp(source, ethernet::BROADCAST, &packet)
        }
        IpAddr::V6(target) => {
            let packet = ndp::Repr {
                source: Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, source[5].into()),
                destination: ndp::solicited_node(target),
                message: ndp::Message::Solicitation {
                    target,
                    source_mac: Some(source),
                },
            };
            OwnedFrame::ndp(source, ethernet::multicast(packet.destination), &packet)
        }
    };
    frame.as_bytes().to_vec()
}

/// Puts the right checksum into what may be an ICMPv6 message behind an IPv6 header (RFC 4443, section 2.3).
fn sum(frame: &mut [u8]) {
    const ADDRESSES: usize = ethernet::HEADER_LENGTH + 8;
    const MESSAGE: usize = ethernet::HEADER_LENGTH + 40;
    if frame[12..14] != ethernet::TYPE_IPV6.to_be_bytes() || frame.len() < MESSAGE + 4 {
        return;
    }
    frame[MESSAGE + 2..MESSAGE + 4].fill(0);
    let length = (frame.len() - MESSAGE) as u32;
    let sum = Sum16BitWords::new()
        .add_slice(&frame[ADDRESSES..])
        .add_slice(&length.to_be_bytes())
        .add_slice(&58_u32.to_be_bytes());
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

/// Questions and claims with one to four octets drawn anew behind the destination, cut, or with more behind them. They
/// go to the node alone, so that nobody else has to work.
fn broken(rng: &mut TestRng) -> Vec<Vec<u8>> {
    let whole = [
        question(V4.into(), STRANGER_MAC),
        question(V6.into(), STRANGER_MAC),
        super::claim(V4.into(), STRANGER_MAC),
        super::claim(V6.into(), STRANGER_MAC),
    ];
    let mut below = |end: usize| rng.next_u32() as usize % end;
    (0..FRAMES)
        .map(|_| {
            let mut frame = whole[below(whole.len())].clone();
            frame[..6].copy_from_slice(&NODE_MAC);
            for _ in 0..=below(4) {
                let at = 6 + below(frame.len() - 6);
                frame[at] = below(256) as u8;
            }
            let length = match below(4) {
                0 => ethernet::HEADER_LENGTH + below(frame.len() - ethernet::HEADER_LENGTH),
                1 => frame.len() + below(1_400),
                _ => frame.len(),
            };
            frame.resize(length, 0xa5);
            if below(2) == 0 {
                sum(&mut frame);
            }
            frame
        })
        .collect()
}

#[test]
fn malformed_frames_at_full_rate_stop_nothing() {
    let Some(mut lab) = Lab::new() else { return };
    let segment = Segment::new(&lab);
    let addresses = [IpAddr::from(V4), IpAddr::from(V6)];
    lab.engine.want(&[&V4.to_string(), &V6.to_string()]);
    for address in addresses {
        lab.engine.announcing(&address.to_string(), &["eth0", "eth1"]);
    }
    let frames = broken(&mut TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let over = AtomicBool::new(false);
    let unanswered = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            while !over.load(Relaxed) {
                segment.stranger.send_frames("s0", frames.clone());
            }
        });
        let questions = (0..QUESTIONS).flat_map(|_| addresses);
        let unanswered: Vec<IpAddr> = questions.filter(|address| !answered(&lab, *address)).collect();
        over.store(true, Relaxed);
        storm.join().expect("every frame can be sent");
        unanswered
    });
    assert!(
        unanswered.is_empty(),
        "not answered within {ANSWERED:?}: {unanswered:?}"
    );
    let drops = lab.engine.counts().drops;
    let kinds = drops.values().filter(|count| **count > 0).count();
    assert!(
        kinds >= 4 && drops.values().sum::<u64>() > 1_000,
        "too few came through: {drops:?}"
    );
    assert!(lab.engine.stop().is_ok());
}

/// The client asks for the address until the node answers; whether it does in time.
fn answered(lab: &Lab, address: IpAddr) -> bool {
    let tap = lab.client.tap("c1");
    let start = Instant::now();
    let mut answer = None;
    while answer.is_none() && start.elapsed() < ANSWERED {
        lab.client.send_frames("c1", vec![question(address, CLIENT_MAC)]);
        answer = tap.within(NEXT_TRY, |frame| {
            frame.starts_with(&CLIENT_MAC) && frame[6..12] == NODE_MAC && tells(frame, address)
        });
    }
    answer.is_some()
}

/// Whether the frame tells where the address is.
fn tells(frame: &[u8], address: IpAddr) -> bool {
    let Ok(frame) = ethernet::Frame::new(frame) else {
        return false;
    };
    match address {
        IpAddr::V4(address) => arp::Packet::new(frame.payload())
            .and_then(|packet| arp::Repr::parse(&packet))
            .is_ok_and(|packet| packet.operation == arp::Operation::Reply && packet.sender_ip == address),
        IpAddr::V6(address) => ndp::Packet::new(frame.payload())
            .and_then(|packet| ndp::Repr::parse(&packet))
            .is_ok_and(
                |packet| matches!(packet.message, ndp::Message::Advertisement { target, .. } if target == address),
            ),
    }
}
