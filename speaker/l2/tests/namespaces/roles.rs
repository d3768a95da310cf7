//! What a node does about addresses it does not own: it listens, stands in for the owner, asks the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use ferrolb_l2::wire::{OwnedFrame, ethernet, ndp};
use ferrolb_l2::{Answer, AnswerKind, Mac, Note, Report, Role, Want, Wanted};

use crate::lab::{CLIENT_MAC, Engine, Lab, NODE, STRANGER_MAC, Segment, eventually};
use crate::segments::question;
use crate::{V4, V6, claim, ip, no_faults};

/// The client's own addresses.
const CLIENT: [&str; 2] = ["10.99.0.3", "fd99::3"];

/// Waits until the node's interface is up and has all its addresses.
fn ready(lab: &mut Lab, interface: &str) {
    lab.engine.until(&format!("{interface} up"), |report| match report {
        Report::Interfaces(interfaces) => interfaces
            .iter()
            .any(|state| state.name == interface && state.running() && state.addresses.len() == 3),
        _ => false,
    });
}

fn stand_in(interface: &str, owner: Mac) -> Role {
    Role::StandIn(BTreeMap::from([(interface.to_owned(), owner)]))
}

/// The answers among these notes: who has what.
fn answers(notes: &[Note]) -> Vec<(u64, IpAddr, &str, Mac, AnswerKind)> {
    let answer = |note| match note {
        &Note::Answer(Answer {
            question,
            address,
            ref interface,
            mac,
            is,
        }) => Some((question, address, interface.as_str(), mac, is)),
        _ => None,
    };
    let mut answers: Vec<_> = notes.iter().filter_map(answer).collect();
    answers.sort();
    answers
}

fn over(question: u64, unasked: &[&str]) -> Note {
    Note::Over {
        question,
        unasked: unasked.iter().map(|address| ip(address)).collect(),
    }
}

#[test]
fn a_kernel_answers_what_it_is_asked() {
    let Some(mut lab) = Lab::new() else { return };
    ready(&mut lab, "eth0");
    eventually("the client's kernel uses its addresses", || {
        let addresses = lab.client.ip("-6 addr show dev c0");
        addresses.matches("inet6").count() == 2 && !addresses.contains("tentative")
    });
    lab.engine.roles(&[(V4, Role::Listen), (V6, Role::Listen)], &CLIENT);
    for (id, probe) in [(1, false), (2, true)] {
        let notes = lab.engine.ask(id, &CLIENT, probe);
        let answer = |address| (id, ip(address), "eth0", CLIENT_MAC, AnswerKind::Itself);
        assert_eq!(answers(&notes), CLIENT.map(answer));
        assert_eq!(notes.last(), Some(&over(id, &[])));
    }
    let counts = lab.engine.counts();
    assert_eq!((counts.arp.questions, counts.arp.answers), (6, 2));
    assert_eq!((counts.ndp.questions, counts.ndp.answers), (6, 2));

    // Nobody has the addresses listened for; what is no peer cannot be heard, so it is not asked for.
    let notes = lab.engine.ask(3, &[V4, V6, "10.99.0.77"], false);
    assert_eq!(notes, [over(3, &["10.99.0.77"])]);

    lab.client.ip("link set c0 down");
    lab.engine.until("no carrier", |report| match report {
        Report::Interfaces(interfaces) => interfaces.iter().any(|state| state.name == "eth0" && !state.carrier),
        _ => false,
    });
    assert_eq!(lab.engine.ask(4, &CLIENT, false), [over(4, &CLIENT)]);
}

#[test]
fn a_stand_in_answers_for_the_owner_and_switches_still_find_it() {
    let Some(mut lab) = Lab::new() else { return };
    let segment = Segment::new(&lab);
    let (owner, owner_text) = (&segment.stranger, "02:00:00:00:00:13");
    let addresses = ["10.98.0.100", "fd98::100"];
    // The owner's kernel takes what is sent to the addresses, as with kube-proxy, and does not answer for them.
    owner.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1").unwrap());
    owner.ip("link set lo up");
    for address in addresses {
        owner.ip(&format!("addr add {address} dev lo"));
    }
    ready(&mut lab, "eth1");
    let roles = addresses.map(|address| (address, stand_in("eth1", STRANGER_MAC)));
    lab.engine.roles(&roles, &[]);
    lab.engine.settle();
    for address in addresses {
        let service = owner.run(move || UdpSocket::bind((ip(address), 9)).unwrap());
        service.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        lab.client.send_to(ip(address));
        let received = service.recv(&mut [0; 8]).expect("the owner gets what is sent");
        assert_eq!(received, 1);
        assert_eq!(lab.client.neighbour(ip(address)).as_deref(), Some(owner_text));
    }
    let learned = |mac: &str| segment.switch.command(&format!("bridge fdb get {mac} br br0")).0;
    assert!(learned(owner_text).contains("dev to-s0 "), "{}", learned(owner_text));
    let node = learned("02:00:00:00:00:02");
    assert!(node.contains("dev to-eth1 "), "{node}");

    let counts = lab.engine.counts();
    for kind in [counts.arp, counts.ndp] {
        assert!(kind.for_owner >= 1 && kind.for_owner == kind.replies, "{kind:?}");
        assert_eq!((kind.gratuitous, kind.conflicts), (0, 0), "{kind:?}");
    }
}

#[test]
fn another_standby_knows_a_stand_in_from_the_owner() {
    let Some(mut lab) = Lab::new() else { return };
    let segment = Segment::new(&lab);
    let other = Engine::start(&segment.stranger, 64);
    ready(&mut lab, "eth1");
    let addresses = ["10.98.0.100", "fd98::100"];
    other.roles(&addresses.map(|address| (address, stand_in("s0", CLIENT_MAC))), &[]);
    eventually("the other stands in", || {
        let (_, answered) = lab.client.command("arping -c 1 -w 1 -I c1 10.98.0.100");
        answered
    });
    lab.engine.roles(&addresses.map(|address| (address, Role::Listen)), &[]);
    let notes = lab.engine.ask(1, &addresses, false);
    let by = AnswerKind::InItsName { by: STRANGER_MAC };
    assert_eq!(
        answers(&notes),
        addresses.map(|address| (1, ip(address), "eth1", CLIENT_MAC, by))
    );
}

#[test]
fn who_asked_a_listener_is_answered_when_it_starts_to_answer() {
    let Some(mut lab) = Lab::new() else { return };
    ready(&mut lab, "eth0");
    let owner = [2, 0, 0, 0, 0, 0x66];
    let parts = [(stand_in("eth0", owner), "02:00:00:00:00:66"), (Role::Own, NODE)];
    for (round, (role, mac)) in (1..).zip(parts) {
        lab.engine.roles(&[(V4, Role::Listen), (V6, Role::Listen)], &[]);
        lab.engine.settle();
        lab.client.ip("neigh flush all");
        lab.client.send_to(ip(V4));
        lab.client.send_to(ip(V6));
        // The client asks again after a second; the neighbour entry waits for an answer till then.
        std::thread::sleep(Duration::from_millis(300));
        let before = lab.engine.counts();
        assert_eq!((before.arp.replies, before.ndp.replies), (round - 1, round - 1));
        lab.engine.roles(&[(V4, role.clone()), (V6, role)], &[]);
        lab.engine.settle();
        let counts = lab.engine.counts();
        for kind in [counts.arp, counts.ndp] {
            assert_eq!((kind.from_memory, kind.replies), (round, round), "{kind:?}");
        }
        for address in [V4, V6] {
            eventually("the client has the answer", || {
                lab.client.neighbour(ip(address)).as_deref() == Some(mac)
            });
        }
    }
    let counts = lab.engine.counts();
    assert_eq!((counts.arp.for_owner, counts.ndp.for_owner), (1, 1));
    assert!(counts.arp.gratuitous >= 2 && counts.ndp.gratuitous >= 1, "{counts:?}");
}

#[test]
fn questions_for_what_is_only_listened_for_wake_nobody() {
    const QUESTIONS: u64 = 200;
    let Some(mut lab) = Lab::new() else { return };
    ready(&mut lab, "eth0");
    for address in [V4, V6] {
        lab.engine.roles(&[(address, Role::Listen)], &[]);
        lab.engine.settle();
        let (before, start) = (lab.engine.wakeups(&lab.node), Instant::now());
        for _ in 0..QUESTIONS {
            lab.client.send_frames("c0", vec![question(address, CLIENT_MAC)]);
            std::thread::sleep(Duration::from_millis(2));
        }
        let (wakeups, time) = (lab.engine.wakeups(&lab.node) - before, start.elapsed());
        eprintln!("{address}: {wakeups} wake-ups, {QUESTIONS} questions in {time:?}");
        // It looks every 250 ms.
        let looks = time.as_millis() as u64 / 250;
        assert!(wakeups <= looks + 5, "{wakeups} wake-ups");
        // Nor are they lost, and the same one is answered once.
        lab.engine.roles(&[(address, Role::Own)], &[]);
        lab.engine.settle();
    }
    let counts = lab.engine.counts();
    assert_eq!((counts.arp.from_memory, counts.ndp.from_memory), (1, 1));
}

/// Of some questions a raw socket cannot tell who has sent them, or does not get them.
#[test]
fn a_listener_remembers_a_question_however_it_is_sent() {
    let Some(mut lab) = Lab::new() else { return };
    remembers_however_it_is_sent(&mut lab);
}

#[test]
fn a_listener_without_a_raw_socket_remembers_the_same() {
    let Some(mut lab) = Lab::without_raw_sockets() else {
        return;
    };
    remembers_however_it_is_sent(&mut lab);
    lab.engine.announcing(V6, &["eth0"]);
    no_faults(&lab.engine);
}

fn remembers_however_it_is_sent(lab: &mut Lab) {
    ready(lab, "eth0");
    let IpAddr::V6(target) = ip(V6) else {
        unreachable!("it is one")
    };
    let group = ndp::solicited_node(target);
    let to_group = ethernet::multicast(group);
    let to_node = [2, 0, 0, 0, 0, 1];
    let client: Ipv6Addr = "fd99::3".parse().unwrap();
    let table = [
        ("to the group", client, group, Some(CLIENT_MAC), to_group),
        (
            "to all nodes",
            client,
            ndp::ALL_NODES,
            Some(CLIENT_MAC),
            ethernet::multicast(ndp::ALL_NODES),
        ),
        ("without its MAC", client, group, None, to_group),
        ("duplicate detection", Ipv6Addr::UNSPECIFIED, group, None, to_group),
        ("to this station", client, target, None, to_node),
        ("to the group at this station", client, group, Some(CLIENT_MAC), to_node),
    ];
    for (case, source, destination, source_mac, station) in table {
        lab.engine.roles(&[(V6, Role::Listen)], &[]);
        lab.engine.settle();
        let before = lab.engine.counts().ndp;
        let packet = ndp::Repr {
            source,
            destination,
            message: ndp::Message::Solicitation { target, source_mac },
        };
        let frame = OwnedFrame::ndp(CLIENT_MAC, station, &packet).as_bytes().to_vec();
        let tap = lab.client.tap("c0");
        lab.client.send_frames("c0", vec![frame]);
        // What wakes the thread is heard before the role changes.
        std::thread::sleep(Duration::from_millis(50));
        lab.engine.roles(&[(V6, Role::Own)], &[]);
        lab.engine.settle();
        let after = lab.engine.counts().ndp;
        assert_eq!(
            (after.requests - before.requests, after.from_memory - before.from_memory),
            (1, 1),
            "{case}"
        );
        // Flags, in the IPv6 packet after the Ethernet header: solicited, unless there is nobody to answer to.
        let solicited = u8::from(!source.is_unspecified()) << 6;
        tap.until(case, |frame| {
            frame[54..56] == [136, 0] && frame[58] & 0x40 == solicited && frame[62..78] == target.octets()
        });
    }
}

#[test]
fn a_stand_in_that_takes_over_draws_the_clients_to_itself() {
    let Some(mut lab) = Lab::new() else { return };
    ready(&mut lab, "eth0");
    let role = stand_in("eth0", [2, 0, 0, 0, 0, 0x66]);
    lab.engine.roles(&[(V4, role.clone()), (V6, role)], &[]);
    for address in [V4, V6] {
        eventually("the client knows the owner's MAC", || {
            lab.client.send_to(ip(address));
            lab.client.neighbour(ip(address)).as_deref() == Some("02:00:00:00:00:66")
        });
    }
    lab.engine.want(&[V4, V6]);
    for address in [V4, V6] {
        eventually("the client is told of the node's", || {
            lab.client.neighbour(ip(address)).as_deref() == Some(NODE)
        });
    }
}

#[test]
fn an_owner_that_yields_falls_silent_and_goes_on_listening() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4, V6]);
    lab.engine.announcing(V6, &["eth0"]);
    lab.engine.roles(&[(V4, Role::Listen), (V6, Role::Listen)], &[]);
    lab.engine.settle();
    lab.engine.announcing(V4, &[]);
    lab.engine.announcing(V6, &[]);
    let before = lab.engine.counts();
    // Longer than until the third announcement.
    let (output, answered) = lab.client.command(&format!("arping -c 2 -w 2 -I c0 {V4}"));
    assert!(!answered, "{output}");
    let (output, answered) = lab.client.command(&format!("ndisc6 -1 -r 1 -w 500 {V6} c0"));
    assert!(!answered, "{output}");
    assert_eq!(lab.engine.counts(), before);
    assert!(lab.node.ip("-6 maddr show dev eth0").contains("ff02::1:ff00:100"));
}

#[test]
fn a_claim_is_told_in_every_role_and_that_of_a_member_is_no_conflict() {
    let Some(mut lab) = Lab::new() else { return };
    ready(&mut lab, "eth0");
    let owner = stand_in("eth0", CLIENT_MAC);
    let rounds = [
        (Role::Listen, BTreeSet::new(), 0),
        (owner, BTreeSet::new(), 0),
        (Role::Own, BTreeSet::from([CLIENT_MAC]), 0),
        (Role::Own, BTreeSet::new(), 1),
    ];
    for (role, members, conflicts) in rounds {
        let want = Want {
            role: role.clone(),
            ..Want::default()
        };
        lab.engine.replace(Wanted {
            addresses: [V4, V6].map(|address| (ip(address), want.clone())).into(),
            members,
            ..Wanted::default()
        });
        lab.engine.settle();
        for address in [V4, V6] {
            lab.client.send_frames("c0", vec![claim(ip(address), CLIENT_MAC)]);
            let claimed = Note::Claimed {
                address: ip(address),
                interface: "eth0".to_owned(),
                mac: CLIENT_MAC,
            };
            assert_eq!(lab.engine.note(), claimed, "{role:?}");
        }
        // The note is told a moment before the conflict is counted.
        lab.engine.settle();
        let counts = lab.engine.counts();
        assert_eq!(
            (counts.arp.conflicts, counts.ndp.conflicts),
            (conflicts, conflicts),
            "{role:?}"
        );
    }
}

#[test]
fn notes_that_nobody_reads_are_dropped_and_delay_no_answer() {
    let Some(mut lab) = Lab::new() else { return };
    lab.engine.want(&[V4]);
    lab.engine.announcing(V4, &["eth0"]);
    lab.client.send_frames("c0", vec![claim(ip(V4), CLIENT_MAC); 400]);
    eventually("notes are dropped", || lab.engine.counts().notes_dropped > 0);
    let (output, answered) = lab.client.command(&format!("arping -c 1 -w 2 -I c0 {V4}"));
    assert!(answered, "{output}");
}
