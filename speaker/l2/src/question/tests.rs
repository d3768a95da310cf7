use proptest::prelude::*;

use super::*;
use crate::seam::InterfaceChoice;
use crate::wire::{arp, ethernet, ndp};

const MAC: Mac = [2, 0, 0, 0, 0, 1];
const OTHER: Mac = [2, 0, 0, 0, 0, 9];
const START: Duration = Duration::from_secs(7);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn question(id: u64, tries: u32, gap: u64) -> Question {
    Question {
        id,
        addresses: BTreeSet::from([ip("192.0.2.1"), ip("fd00::1")]),
        interfaces: InterfaceChoice::All,
        tries,
        gap: Duration::from_millis(gap),
        probe: false,
    }
}

fn sighting(address: &str, source: Mac) -> Sighting {
    Sighting {
        address: ip(address),
        mac: OTHER,
        source,
    }
}

/// What is due until nothing is, each at its deadline: milliseconds since the start, and the note if it is one.
fn times(questions: &mut Questions) -> Vec<(u128, Option<Note>)> {
    let mut times = Vec::new();
    while let Some(deadline) = questions.next_deadline() {
        for due in questions.due(deadline) {
            let note = match due {
                Due::Ask(_) => None,
                Due::Tell(note) => Some(note),
            };
            times.push(((deadline - START).as_millis(), note));
        }
    }
    times
}

#[test]
fn a_question_is_asked_three_times_and_then_over() {
    let mut questions = Questions::default();
    questions.ask(START, question(5, 3, 10));
    questions.asked(5, [(3, ip("192.0.2.1")), (3, ip("fd00::1")), (4, ip("192.0.2.1"))]);
    questions.lost(3);
    let over = Note::Over {
        question: 5,
        unasked: BTreeSet::from([ip("fd00::1")]),
    };
    assert_eq!(
        times(&mut questions),
        [(0, None), (10, None), (20, None), (30, Some(over))]
    );
}

#[test]
fn a_thread_that_slept_asks_later_and_not_less() {
    let mut questions = Questions::default();
    questions.ask(START, question(5, 2, 10));
    assert_eq!(questions.due(START).len(), 1);
    let late = START + Duration::from_millis(500);
    assert!(matches!(questions.due(late)[..], [Due::Ask(_)]));
    assert_eq!(questions.due(late), []);
    assert_eq!(questions.next_deadline(), Some(late + Duration::from_millis(10)));
}

#[test]
fn an_answer_is_told_once_for_each_who_gives_it_and_for_a_while_after_the_end() {
    let mut questions = Questions::default();
    questions.ask(START, question(5, 1, 10));
    questions.ask(START, question(6, 1, 500));
    let heard = |questions: &mut Questions, interface: &str, seen| {
        let mut answers = Vec::new();
        questions.heard(interface, seen, |_| false);
        questions.heard(interface, seen, |answer| {
            answers.push((answer.question, answer.is));
            true
        });
        answers
    };
    let itself = AnswerKind::Itself;
    let by = AnswerKind::InItsName { by: MAC };
    let own = sighting("192.0.2.1", OTHER);
    assert_eq!(heard(&mut questions, "eth0", own), [(5, itself), (6, itself)]);
    assert_eq!(heard(&mut questions, "eth0", own), []);
    assert_eq!(heard(&mut questions, "eth1", own), [(5, itself), (6, itself)]);
    assert_eq!(
        heard(&mut questions, "eth0", sighting("192.0.2.1", MAC)),
        [(5, by), (6, by)]
    );
    assert_eq!(heard(&mut questions, "eth0", sighting("192.0.2.2", OTHER)), []);

    for after in [0, 10] {
        questions.due(START + Duration::from_millis(after));
    }
    let late = sighting("fd00::1", OTHER);
    assert_eq!(heard(&mut questions, "eth0", late), [(5, itself), (6, itself)]);
    questions.due(START + Duration::from_millis(10) + LATE);
    assert_eq!(heard(&mut questions, "eth1", late), [(6, itself)]);
}

#[test]
fn the_same_id_replaces_and_too_many_push_out_the_first() {
    let mut questions = Questions::default();
    for id in 0..=OPEN as u64 {
        questions.ask(START, question(id, 3, 10));
    }
    questions.ask(START + LATE, question(9, 3, 10));
    let ids: Vec<u64> = questions.open.keys().copied().collect();
    assert_eq!((ids.len(), ids[0]), (OPEN, 1));
    assert_eq!(questions.due(START).len(), OPEN - 1, "one is new");
}

/// Ethernet destination, who asks, whom at which address.
fn read(frame: Option<OwnedFrame>) -> Option<(Mac, String)> {
    let frame = frame?;
    let frame = ethernet::Frame::new(frame.as_bytes()).unwrap();
    let header = frame.header();
    assert_eq!(header.source, MAC);
    let text = if header.ether_type == ethernet::TYPE_ARP {
        let packet = arp::Repr::parse(&arp::Packet::new(frame.payload()).unwrap()).unwrap();
        assert_eq!((packet.operation, packet.sender_mac), (arp::Operation::Request, MAC));
        format!("{} asks {}", packet.sender_ip, packet.target_ip)
    } else {
        let packet = ndp::Repr::parse(&ndp::Packet::new(frame.payload()).unwrap()).unwrap();
        let ndp::Message::Solicitation { target, source_mac } = packet.message else {
            panic!("{packet:?}")
        };
        assert_eq!(source_mac, (!packet.source.is_unspecified()).then_some(MAC));
        format!("{} asks {target} at {}", packet.source, packet.destination)
    };
    Some((header.destination, text))
}

#[test]
fn the_sender_is_the_interfaces_own_address_or_nobody() {
    let interface = |addresses: &[&str]| InterfaceState {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..InterfaceState::default()
    };
    let full = interface(&[
        "10.0.0.1/8",
        "192.0.2.9/24",
        "192.0.2.100/32",
        "fd00::9/64",
        "fe80::9/64",
    ]);
    let bare = interface(&["10.0.0.1/8", "fd00::9/64"]);
    let arp = |text: &str| Some((ethernet::BROADCAST, text.to_owned()));
    let nd = |text: &str| Some(([0x33, 0x33, 0xff, 0, 0, 1], text.to_owned()));
    let nobody = nd(":: asks fd00::1 at ff02::1:ff00:1");
    let table = [
        (&full, "192.0.2.1", false, arp("192.0.2.9 asks 192.0.2.1")),
        (&full, "192.0.2.1", true, arp("0.0.0.0 asks 192.0.2.1")),
        (&bare, "192.0.2.1", false, arp("0.0.0.0 asks 192.0.2.1")),
        (&full, "192.0.2.100", false, None),
        (&full, "fd00::1", false, nd("fe80::9 asks fd00::1 at ff02::1:ff00:1")),
        (&full, "fd00::1", true, nobody.clone()),
        (&bare, "fd00::1", false, nobody),
        (&full, "fe80::9", true, None),
    ];
    for (interface, target, probe, expected) in table {
        assert_eq!(
            read(frame(ip(target), interface, MAC, probe)),
            expected,
            "{target} {probe}"
        );
    }
}

proptest! {
    /// Whenever the engine looks: as many tries as wanted, at least a gap apart, then the end, at least a gap later,
    /// once; and nothing is left.
    #[test]
    fn every_question_ends(
        asked in prop::collection::vec((0u64..50, 0u32..5, 0u64..30), 1..20), lateness in prop::collection::vec(0u64..40, 1..20),
    ) {
        let (mut questions, mut now) = (Questions::default(), START);
        let mut seen: BTreeMap<u64, (Vec<Duration>, Vec<Duration>)> = BTreeMap::new();
        let mut lateness = lateness.into_iter().cycle();
        let mut look = |questions: &mut Questions, now: Duration| {
            for due in questions.due(now) {
                match due {
                    Due::Ask(question) => seen.entry(question.id).or_default().0.push(now),
                    Due::Tell(Note::Over { question, .. }) => seen.entry(question).or_default().1.push(now),
                    Due::Tell(note) => panic!("{note:?}"),
                }
            }
        };
        for (id, (wait, tries, gap)) in (0..).zip(&asked) {
            now += Duration::from_millis(*wait);
            questions.ask(now, question(id, *tries, *gap));
            look(&mut questions, now);
        }
        while let Some(deadline) = questions.next_deadline() {
            now = now.max(deadline) + Duration::from_millis(lateness.next().unwrap());
            look(&mut questions, now);
        }
        for (id, (_, tries, gap)) in (0..).zip(asked) {
            let (sent, over) = &seen[&id];
            prop_assert_eq!((sent.len(), over.len()), (tries as usize, 1));
            let times: Vec<Duration> = sent.iter().chain(over).copied().collect();
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(gap)));
        }
    }
}
