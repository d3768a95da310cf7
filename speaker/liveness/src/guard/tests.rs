use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::keyring::Keyring;
use crate::seam::{Duty, InterfaceChoice, Link, Manner, Question};
use crate::wire::{Header, Message, Packet, Place};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ip(octet: u8) -> IpAddr {
    [10, 0, 0, octet].into()
}

const VIP: u8 = 100;

fn keys() -> Keyring {
    Keyring::new(1, [(1, b"one".as_slice())])
}

/// What `me` is told: `a` owns the address, `b` and `c` stand by.
fn duties(me: &str) -> Duties {
    let placement = Placement {
        owner: "a".into(),
        standbys: vec!["b".into(), "c".into()],
        epoch: 1,
    };
    let duty = Duty {
        object: "uid".into(),
        placement,
        previous_owner: None,
        interfaces: InterfaceChoice::All,
        may_announce: true,
        timing: Timing::default(),
        manner: Manner::default(),
    };
    let peers = [("a", 1), ("b", 2), ("c", 3)].map(|(name, octet)| (name.into(), BTreeSet::from([ip(octet)])));
    Duties {
        node: me.into(),
        boot: 7,
        keys: keys(),
        peers: peers.into(),
        addresses: BTreeMap::from([(ip(VIP), Arc::new(duty))]),
    }
}

fn ground(octet: u8) -> Ground {
    let link = Link {
        interface: "eth0".to_owned(),
        mac: [octet; 6],
        addresses: BTreeSet::from([IpNet::new(ip(octet), 24).unwrap()]),
    };
    Ground {
        answering: true,
        links: vec![link],
    }
}

/// A guard that has been told everything at time 0.
fn guard(me: &str, octet: u8) -> (Guard, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let mut guard = Guard::new(1, Arc::clone(&counters));
    guard.handle(Input::Ground(Arc::new(ground(octet))), ms(0));
    guard.handle(Input::Duties(Arc::new(duties(me))), ms(0));
    (guard, counters)
}

fn datagram(keys: &Keyring, key: u32, sender: &str, boot: u64, sequence: u64, message: &Message) -> Vec<u8> {
    let header = Header {
        key,
        boot,
        sequence,
        sender,
    };
    let mut bytes = header.emit(message);
    bytes.extend(keys.sign(key, &bytes).unwrap());
    bytes
}

fn hello(octet: u8, standing_in: bool) -> Message {
    Message::Hello {
        interval: ms(50),
        multiplier: 2,
        answering: true,
        standing_in,
        places: vec![Place {
            address: ip(octet),
            mac: [octet; 6],
        }],
    }
}

fn from(guard: &mut Guard, sender: &str, sequence: u64, message: &Message, now: Duration) -> Vec<Effect> {
    let bytes = datagram(&keys(), 1, sender, 9, sequence, message);
    let bytes = bytes.as_slice();
    guard.handle(
        Input::Datagram {
            from: ip(1),
            bytes,
            at: now,
        },
        now,
    )
}

/// Ticks when they are wanted, until then.
fn run(guard: &mut Guard, until: Duration) -> Vec<Effect> {
    let mut effects = Vec::new();
    while let Some(at) = guard.next_deadline().filter(|at| *at <= until) {
        effects.extend(guard.handle(Input::Tick, at));
        assert!(
            guard.next_deadline().is_none_or(|next| next > at),
            "a tick moves every deadline"
        );
    }
    effects
}

fn questions(effects: &[Effect]) -> Vec<&Question> {
    fn question(effect: &Effect) -> Option<&Question> {
        match effect {
            Effect::Ask(question) => Some(question),
            _ => None,
        }
    }
    effects.iter().filter_map(question).collect()
}

#[test]
fn what_is_not_believed_is_counted() {
    let (mut guard, counters) = guard("b", 2);
    let other = Keyring::new(1, [(1, b"two".as_slice()), (2, b"two".as_slice())]);
    let (good, hello) = (keys(), hello(1, false));
    let table = [
        (b"nonsense".to_vec(), "malformed"),
        (datagram(&other, 2, "a", 9, 1, &hello), "unknown_key"),
        (datagram(&other, 1, "a", 9, 1, &hello), "signature"),
        (datagram(&good, 1, "z", 9, 1, &hello), "unknown_sender"),
        (datagram(&good, 1, "b", 9, 1, &hello), "unknown_sender"),
        (datagram(&good, 1, "a", 9, 5, &hello), ""),
        (datagram(&good, 1, "a", 9, 5, &hello), "replay"),
        (datagram(&good, 1, "a", 8, 6, &hello), "replay"),
    ];
    for (bytes, why) in table {
        let read = || counters.drops().collect::<BTreeMap<_, _>>();
        let before = read();
        guard.handle(
            Input::Datagram {
                from: ip(1),
                bytes: &bytes,
                at: ms(1),
            },
            ms(1),
        );
        let counted: Vec<&str> = read()
            .into_iter()
            .filter(|(name, count)| before[name] != *count)
            .map(|(name, _)| name)
            .collect();
        let expected: Vec<&str> = Some(why).filter(|why| !why.is_empty()).into_iter().collect();
        assert_eq!(counted, expected);
    }
    assert_eq!(counters.received.get(), 1);
}

#[test]
fn a_silent_owner_is_asked_for_and_taken_from() {
    let (mut guard, counters) = guard("b", 2);
    from(&mut guard, "a", 1, &hello(1, false), ms(10));
    assert!(questions(&run(&mut guard, ms(109))).is_empty());
    let effects = run(&mut guard, ms(110));
    let asked = questions(&effects);
    assert_eq!(
        (asked.len(), &asked[0].addresses),
        (1, &BTreeSet::from([ip(1), ip(VIP)]))
    );
    let watched = || counters.peers().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
    assert_eq!(watched(), [(PeerState::Suspect, 1)]);
    let question = asked[0].id;
    assert!(
        !run(&mut guard, ms(149))
            .iter()
            .any(|effect| matches!(effect, Effect::Wanted(_)))
    );
    let over = Note::Over {
        question,
        unasked: BTreeSet::new(),
    };
    guard.handle(Input::Note(over), ms(150));
    let effects = run(&mut guard, ms(150));
    let Some(Effect::Wanted(wanted)) = effects.first() else {
        panic!("layer 2 first: {effects:?}")
    };
    assert_eq!(wanted.addresses[&ip(VIP)].role, Role::Own);
    let took = |effect: &Effect| matches!(effect, Effect::Outcome(Outcome::TookOver { reason: Takeover::NodeGone, after, .. }) if *after == ms(140));
    assert!(effects.iter().any(took), "{effects:?}");
    assert_eq!(guard.belief(ip(VIP)).unwrap().order(), (2, "b"));
    assert!(watched().is_empty(), "it owns nothing any more");
    assert_eq!(
        (counters.missed.get(), counters.questions.get(), counters.stalls.get()),
        (1, 1, 0)
    );
}

#[test]
fn a_guard_that_stood_still_judges_nobody_by_it() {
    let (mut guard, counters) = guard("b", 2);
    from(&mut guard, "a", 1, &hello(1, false), ms(10));
    run(&mut guard, ms(60));
    let effects = guard.handle(Input::Tick, ms(400));
    assert!(questions(&effects).is_empty());
    assert_eq!(counters.stalls.get(), 1);
    assert!(
        !questions(&run(&mut guard, ms(450))).is_empty(),
        "but one interval later"
    );
}

#[test]
fn nobody_is_asked_for_where_nothing_could_be_done() {
    let away = Ground {
        answering: true,
        links: Vec::new(),
    };
    let elsewhere = Ground {
        links: vec![Link {
            interface: "eth1".to_owned(),
            ..ground(2).links.remove(0)
        }],
        answering: true,
    };
    let dead = Ground {
        answering: false,
        ..ground(2)
    };
    for ground in [away, elsewhere, dead] {
        let (mut guard, _) = guard("b", 2);
        from(&mut guard, "a", 1, &hello(1, false), ms(10));
        guard.handle(Input::Ground(Arc::new(ground.clone())), ms(20));
        assert!(questions(&run(&mut guard, ms(5_000))).is_empty(), "{ground:?}");
    }
    let (mut guard, _) = guard("b", 2);
    let mut duties = duties("b");
    let all = duties.addresses.values_mut();
    all.for_each(|duty| Arc::make_mut(duty).may_announce = false);
    guard.handle(Input::Duties(Arc::new(duties)), ms(5));
    from(&mut guard, "a", 1, &hello(1, false), ms(10));
    assert!(questions(&run(&mut guard, ms(5_000))).is_empty(), "not eligible");
}

#[test]
fn a_node_acts_outside_of_its_subnets_only_if_it_may() {
    for (subnet_check, octets, asks) in [(true, [10, 0], true), (true, [10, 9], false), (false, [10, 9], true)] {
        let (mut guard, _) = guard("b", 2);
        let [a, b] = octets;
        let duties = duties("b");
        let mut duty = duties.addresses[&ip(VIP)].clone();
        Arc::make_mut(&mut duty).manner.subnet_check = subnet_check;
        let addresses = BTreeMap::from([([a, b, 0, VIP].into(), duty)]);
        guard.handle(Input::Duties(Arc::new(Duties { addresses, ..duties })), ms(5));
        from(&mut guard, "a", 1, &hello(1, false), ms(10));
        assert_eq!(!questions(&run(&mut guard, ms(1_000))).is_empty(), asks, "{octets:?}");
    }
}

#[test]
fn a_question_that_was_not_taken_is_asked_again() {
    let (mut guard, _) = guard("b", 2);
    from(&mut guard, "a", 1, &hello(1, false), ms(10));
    let effects = run(&mut guard, ms(110));
    let question = questions(&effects)[0].id;
    guard.handle(Input::NotAsked { question }, ms(110));
    assert!(questions(&run(&mut guard, ms(129))).is_empty());
    assert_eq!(questions(&run(&mut guard, ms(130))).len(), 1);
    assert_eq!(guard.belief(ip(VIP)).unwrap().epoch, 1);
}

#[test]
fn a_goodbye_waits_for_the_first_standby() {
    let left = |effects: &[Effect]| effects.contains(&Effect::Leave);
    let (mut lonely, _) = guard("a", 1);
    assert!(left(&lonely.handle(Input::Goodbye, ms(5))), "no standby is heard");
    for answered in [true, false] {
        let (mut owner, _) = guard("a", 1);
        from(&mut owner, "b", 1, &hello(2, false), ms(10));
        run(&mut owner, ms(15));
        let effects = owner.handle(Input::Goodbye, ms(20));
        let sent = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Send { .. }))
            .count();
        assert!(sent == 2 && !left(&effects), "both standbys are told: {effects:?}");
        if answered {
            assert!(left(&from(&mut owner, "b", 2, &hello(2, true), ms(25))));
        } else {
            let effects = run(&mut owner, ms(119));
            let said = effects.iter().filter(|effect| matches!(effect, Effect::Send { .. }));
            assert!(said.count() == 2 * 9 && !left(&effects), "until then it says so again");
            assert!(left(&run(&mut owner, ms(120))));
        }
        assert_eq!(
            owner.roles().collect::<Vec<_>>(),
            [(ip(VIP), Role::Own)],
            "answers to the end"
        );
    }
}

#[test]
fn the_first_standby_answers_at_once_after_a_goodbye() {
    let (mut standby, _) = guard("b", 2);
    from(&mut standby, "a", 1, &hello(1, false), ms(10));
    let places = vec![Place {
        address: ip(1),
        mac: [1; 6],
    }];
    let effects = from(&mut standby, "a", 2, &Message::Goodbye { places }, ms(20));
    let role = Role::StandIn(BTreeMap::from([("eth0".to_owned(), [1; 6])]));
    assert_eq!(standby.roles().collect::<Vec<_>>(), [(ip(VIP), role)]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Send { .. })),
        "the owner is told at once"
    );
    // The owner is back, in a new run.
    let back = datagram(&keys(), 1, "a", 10, 1, &hello(1, false));
    standby.handle(
        Input::Datagram {
            from: ip(1),
            bytes: &back,
            at: ms(50),
        },
        ms(50),
    );
    let alive = datagram(&keys(), 1, "a", 10, 2, &hello(1, false));
    let bytes = alive.as_slice();
    let at = ms(100);
    standby.handle(Input::Datagram { from: ip(1), bytes, at }, at);
    run(&mut standby, ms(149));
    assert!(
        matches!(standby.roles().next(), Some((_, Role::StandIn(_)))),
        "a little longer"
    );
    run(&mut standby, ms(150));
    assert_eq!(standby.roles().collect::<Vec<_>>(), [(ip(VIP), Role::Listen)]);
}

#[test]
fn a_later_standby_follows_a_goodbye_that_is_said_again() {
    let (mut standby, _) = guard("c", 3);
    from(&mut standby, "a", 1, &hello(1, false), ms(10));
    let goodbye = |standby: &mut Guard, sequence, now| {
        let places = vec![Place {
            address: ip(1),
            mac: [1; 6],
        }];
        from(standby, "a", sequence, &Message::Goodbye { places }, now);
        standby.roles().next().map(|(_, role)| role)
    };
    for (sequence, at) in [(2, 20), (3, 30), (4, 40)] {
        assert_eq!(
            goodbye(&mut standby, sequence, ms(at)),
            Some(Role::Listen),
            "b has its turn"
        );
    }
    let stands_in = goodbye(&mut standby, 5, ms(50));
    assert!(matches!(stands_in, Some(Role::StandIn(_))), "{stands_in:?}");
}

#[test]
fn addresses_are_judged_apart_where_others_would_answer_before() {
    let (mut standby, _) = guard("c", 3);
    let mut duties = duties("c");
    for (octet, first) in [(VIP + 1, "b"), (VIP + 2, "d")] {
        let mut duty = duties.addresses[&ip(VIP)].clone();
        Arc::make_mut(&mut duty).placement.standbys = vec![first.into(), "c".into()];
        duties.addresses.insert(ip(octet), duty);
    }
    standby.handle(Input::Duties(Arc::new(duties)), ms(5));
    from(&mut standby, "a", 1, &hello(1, false), ms(10));
    let effects = run(&mut standby, ms(110));
    let asked = BTreeSet::from([ip(1), ip(VIP), ip(VIP + 2)]);
    assert_eq!(questions(&effects)[0].addresses, asked, "one of each kind");
}

#[test]
fn who_asks_lives() {
    let (mut standby, _) = guard("b", 2);
    from(&mut standby, "a", 1, &hello(1, false), ms(10));
    let about = "c".to_owned();
    from(&mut standby, "a", 2, &Message::Ask { question: 1, about }, ms(90));
    assert!(questions(&run(&mut standby, ms(189))).is_empty());
    assert_eq!(questions(&run(&mut standby, ms(190))).len(), 1);
}

/// The kinds of the datagrams that are sent.
fn sent(effects: &[Effect]) -> BTreeSet<u8> {
    let kind = |effect: &Effect| match effect {
        Effect::Send { bytes, .. } => Some(bytes[5]),
        _ => None,
    };
    effects.iter().filter_map(kind).collect()
}

#[test]
fn an_owner_without_an_interface_claims_nothing() {
    const CLAIM: u8 = 3;
    const UNABLE: u8 = 8;
    let (mut owner, _) = guard("a", 1);
    from(&mut owner, "b", 1, &hello(2, false), ms(10));
    assert_eq!(sent(&run(&mut owner, ms(60))), BTreeSet::from([1, CLAIM]));
    let bare = Ground {
        answering: true,
        links: Vec::new(),
    };
    owner.handle(Input::Ground(Arc::new(bare)), ms(70));
    assert_eq!(sent(&run(&mut owner, ms(100))), BTreeSet::from([1, UNABLE]));
    owner.handle(Input::Ground(Arc::new(ground(1))), ms(110));
    assert_eq!(sent(&run(&mut owner, ms(160))), BTreeSet::from([1, CLAIM]));
}

#[test]
fn a_member_that_is_seen_to_claim_is_told() {
    const CLAIM: u8 = 3;
    let (mut owner, _) = guard("a", 1);
    from(&mut owner, "b", 1, &hello(2, false), ms(10));
    let known = |epoch| crate::wire::Known {
        address: ip(VIP),
        epoch,
        owner: "a".to_owned(),
    };
    for (sequence, name) in [(2, "b"), (1, "c")] {
        from(&mut owner, name, sequence, &Message::Tell(vec![known(1)]), ms(20));
    }
    assert_eq!(sent(&run(&mut owner, ms(100))), BTreeSet::from([1]), "all know");
    for (mac, at, kinds) in [([9; 6], 110, vec![1]), ([2; 6], 170, vec![1, CLAIM])] {
        let claimed = Note::Claimed {
            address: ip(VIP),
            interface: "eth0".to_owned(),
            mac,
        };
        let mut effects = owner.handle(Input::Note(claimed), ms(at));
        effects.extend(run(&mut owner, ms(at + 60)));
        assert_eq!(sent(&effects), kinds.into_iter().collect(), "{mac:?}");
    }
}

#[test]
fn who_hands_over_to_a_node_that_cannot_answer_takes_it_back() {
    let (mut owner, _) = guard("a", 1);
    from(&mut owner, "b", 1, &hello(2, false), ms(10));
    let mut moved = duties("a");
    for duty in moved.addresses.values_mut() {
        Arc::make_mut(duty).placement = Placement {
            owner: "b".into(),
            standbys: vec!["a".into()],
            epoch: 2,
        };
    }
    owner.handle(Input::Duties(Arc::new(moved)), ms(20));
    assert_eq!(
        owner.roles().collect::<Vec<_>>(),
        [(ip(VIP), Role::Own)],
        "until b answers"
    );
    let effects = from(&mut owner, "b", 2, &Message::Unable(vec![(ip(VIP), 2)]), ms(30));
    let took = |effect: &Effect| matches!(effect, Effect::Outcome(Outcome::TookOver { placement, .. }) if placement.epoch == 3);
    assert!(effects.iter().any(took), "{effects:?}");
    run(&mut owner, ms(20_000));
    assert_eq!(owner.roles().collect::<Vec<_>>(), [(ip(VIP), Role::Own)], "for good");
}

#[test]
fn a_new_run_is_told_anew() {
    const CLAIM: u8 = 3;
    let (mut owner, _) = guard("a", 1);
    let known = crate::wire::Known {
        address: ip(VIP),
        epoch: 1,
        owner: "a".to_owned(),
    };
    for name in ["b", "c"] {
        from(&mut owner, name, 1, &Message::Tell(vec![known.clone()]), ms(20));
    }
    assert_eq!(sent(&run(&mut owner, ms(100))), BTreeSet::from([1]), "all know");
    let bytes = datagram(&keys(), 1, "b", 10, 1, &hello(2, false));
    let datagram = Input::Datagram {
        from: ip(2),
        bytes: &bytes,
        at: ms(110),
    };
    owner.handle(datagram, ms(110));
    assert!(sent(&run(&mut owner, ms(160))).contains(&CLAIM));
}

#[test]
fn a_standby_goes_by_the_plan_of_an_owner_that_is_silent() {
    let (mut standby, _) = guard("b", 2);
    from(&mut standby, "a", 1, &hello(1, false), ms(10));
    let mut moved = duties("b");
    for duty in moved.addresses.values_mut() {
        Arc::make_mut(duty).placement = Placement {
            owner: "c".into(),
            standbys: vec!["b".into()],
            epoch: 2,
        };
    }
    standby.handle(Input::Duties(Arc::new(moved)), ms(20));
    run(&mut standby, ms(109));
    assert_eq!(standby.belief(ip(VIP)).unwrap().order(), (1, "a"));
    let effects = run(&mut standby, ms(110));
    assert_eq!(standby.belief(ip(VIP)).unwrap().order(), (2, "c"));
    assert!(questions(&effects).is_empty(), "c has its time");
}

#[test]
fn who_hands_over_still_has_standbys() {
    const YOURS: u8 = 5;
    let (mut owner, _) = guard("a", 1);
    from(&mut owner, "b", 1, &hello(2, false), ms(10));
    let mut moved = duties("a");
    for duty in moved.addresses.values_mut() {
        Arc::make_mut(duty).placement = Placement {
            owner: "c".into(),
            standbys: vec!["b".into()],
            epoch: 2,
        };
    }
    owner.handle(Input::Duties(Arc::new(moved)), ms(20));
    assert!(
        sent(&run(&mut owner, ms(80))).contains(&YOURS),
        "c may not have read it"
    );
    from(&mut owner, "b", 2, &hello(2, false), ms(90));
    let effects = owner.handle(Input::Goodbye, ms(100));
    assert!(!effects.contains(&Effect::Leave), "b is waited for");
    assert!(from(&mut owner, "b", 3, &hello(2, true), ms(105)).contains(&Effect::Leave));
    assert_eq!(owner.roles().collect::<Vec<_>>(), [(ip(VIP), Role::Own)]);
}

#[test]
fn a_worse_claim_is_answered_with_the_better() {
    let (mut owner, _) = guard("a", 1);
    from(&mut owner, "b", 1, &hello(2, false), ms(10));
    let effects = from(
        &mut owner,
        "b",
        2,
        &Message::Claim(vec![(ip(VIP), 0), (ip(99), 5)]),
        ms(20),
    );
    let announce = Effect::Announce(BTreeSet::from([ip(VIP)]));
    assert!(effects.contains(&announce), "{effects:?}");
    let again = from(&mut owner, "b", 3, &Message::Claim(vec![(ip(VIP), 0)]), ms(30));
    assert!(!again.contains(&announce), "once a second");
    from(&mut owner, "b", 4, &Message::Claim(vec![(ip(VIP), 2)]), ms(40));
    assert_eq!(owner.roles().collect::<Vec<_>>(), [(ip(VIP), Role::Listen)]);
}

proptest! {
    /// Whatever is said: there is an answer, and no deadline that a tick does not move.
    #[test]
    fn ticks_end(
        words in proptest::collection::vec((0_u8..7, 0_u64..400, 0_u64..4, 0_usize..3), 1..60),
        me in 0_usize..3,
    ) {
        let nodes = ["a", "b", "c"];
        let (mut guard, _) = guard(nodes[me], me as u8 + 1);
        let mut now = ms(0);
        for (sequence, (word, pause, epoch, sender)) in (1..).zip(words) {
            now += ms(pause);
            let places = vec![Place { address: ip(sender as u8 + 1), mac: [sender as u8 + 1; 6] }];
            let known = crate::wire::Known { address: ip(VIP), epoch, owner: nodes[(sender + 1) % 3].to_owned() };
            let message = match word {
                0 => hello(sender as u8 + 1, epoch == 0),
                1 => Message::Goodbye { places },
                2 => Message::Claim(vec![(ip(VIP), epoch)]),
                3 => Message::Tell(vec![known]),
                4 => Message::Yours(vec![(ip(VIP), epoch)]),
                5 => {
                    guard.handle(Input::Goodbye, now);
                    continue;
                }
                _ => {
                    let mut duties = duties(nodes[me]);
                    let placement = Placement { owner: nodes[sender].into(), standbys: vec![nodes[(sender + 2) % 3].into()], epoch };
                    let all = duties.addresses.values_mut();
                    all.for_each(|duty| Arc::make_mut(duty).placement = placement.clone());
                    guard.handle(Input::Duties(Arc::new(duties)), now);
                    continue;
                }
            };
            from(&mut guard, nodes[sender], sequence, &message, now);
            guard.handle(Input::Tick, now);
            prop_assert!(guard.next_deadline().is_none_or(|at| at > now), "{:?} at {:?}", guard.next_deadline(), now);
        }
    }
}

#[test]
fn a_witness_that_stood_still_tells_when_it_heard() {
    let (mut witness, _) = guard("b", 2);
    let mut hear = |sender: &str, message: &Message, at, now| {
        let bytes = datagram(&keys(), 1, sender, 9, 1, message);
        let bytes = bytes.as_slice();
        witness.handle(Input::Datagram { from: ip(1), bytes, at }, now)
    };
    // It is read with a question of another standby, three seconds after it came.
    hear("a", &hello(1, false), ms(50), ms(3_050));
    let about = "a".to_owned();
    let effects = hear("c", &Message::Ask { question: 4, about }, ms(3_049), ms(3_050));
    let said = effects.iter().find_map(|effect| match effect {
        Effect::Send { bytes, .. } => match Packet::new(bytes).unwrap().message().unwrap() {
            Message::Heard { ago, .. } => Some(ago),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(said, Some(Some(ms(3_000))));
}

#[test]
fn the_answer_of_a_witness_ages_while_it_waits() {
    for (waited, vouched) in [(ms(0), 1), (ms(40), 0)] {
        let (mut standby, counters) = guard("b", 2);
        from(&mut standby, "a", 1, &hello(1, false), ms(10));
        let question = run(&mut standby, ms(120)).iter().find_map(|effect| match effect {
            Effect::Send { bytes, .. } => match Packet::new(bytes).unwrap().message().unwrap() {
                Message::Ask { question, .. } => Some(question),
                _ => None,
            },
            _ => None,
        });
        let (about, ago) = ("a".to_owned(), Some(ms(20)));
        let question = question.unwrap();
        let bytes = datagram(&keys(), 1, "c", 9, 1, &Message::Heard { question, about, ago });
        let (bytes, at) = (bytes.as_slice(), ms(120) - waited);
        standby.handle(Input::Datagram { from: ip(3), bytes, at }, ms(120));
        assert_eq!(counters.vouched.get(), vouched, "it waited {waited:?}");
    }
}
