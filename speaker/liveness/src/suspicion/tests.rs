use super::*;

const KERNEL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const THIRD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));
const MAC: Mac = [1; 6];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn group(rank: usize) -> Group {
    Group {
        before: (0..rank).map(|place| place.to_string().into()).collect(),
        interfaces: InterfaceChoice::All,
        grace: ms(10_000),
        answer_for_owner: true,
        standing_in: false,
    }
}

fn answer(address: IpAddr, in_its_name: bool) -> Note {
    Note::Answer {
        question: 1,
        address,
        interface: "eth0".to_owned(),
        mac: MAC,
        in_its_name,
    }
}

/// What a round at `now` concludes from these answers, and when the next one is wanted.
fn round(
    case: &mut Case,
    group: &Group,
    control: bool,
    answers: &[Note],
    now: Duration,
) -> (Option<Act>, PeerState, Duration) {
    let third = control.then_some(THIRD).into_iter().collect();
    let question = case.ask(
        1,
        (BTreeSet::from([KERNEL]), BTreeSet::from([MAC])),
        third,
        BTreeMap::from([(group.clone(), VIP)]),
        now,
    );
    assert!(question.addresses.contains(&VIP) && question.addresses.contains(&KERNEL));
    answers.iter().for_each(|note| case.hear(note, now));
    let ends = now + ms(40);
    let said = answers.iter().any(|note| matches!(note, Note::Over { .. }));
    assert_eq!(case.ends(ends), said, "not before layer 2 has said so");
    let over = Note::Over {
        question: 1,
        unasked: BTreeSet::new(),
    };
    case.hear(&over, ends);
    assert!(case.ends(ends));
    let (mut acts, state) = case.conclude(ends);
    assert!(acts.len() <= 1);
    (acts.pop().map(|(_, act)| act), state, case.deadline().unwrap())
}

fn stand_in() -> Option<Act> {
    Some(Act::StandIn(BTreeMap::from([("eth0".to_owned(), MAC)])))
}

/// The table of the module, for the first standby.
#[test]
fn what_follows_from_what_is_heard() {
    let taken = Some(Act::Take(Takeover::NodeGone));
    let (kernel, vip, named) = (answer(KERNEL, false), answer(VIP, false), answer(VIP, true));
    let table = [
        (vec![], taken.clone(), PeerState::Gone),
        (vec![kernel.clone()], stand_in(), PeerState::SpeakerSilent),
        (vec![kernel.clone(), vip.clone()], None, PeerState::StillAnswers),
        (vec![kernel.clone(), named.clone()], None, PeerState::SpeakerSilent),
        (vec![kernel, named.clone(), vip.clone()], None, PeerState::StillAnswers),
        (vec![vip], None, PeerState::StillAnswers),
        (vec![named], None, PeerState::StillAnswers),
        // Somebody who speaks in the kernel's name proves nothing.
        (vec![answer(KERNEL, true)], taken, PeerState::Gone),
    ];
    for (answers, act, state) in table {
        let mut case = Case::new(ms(0), ms(100));
        let (does, thinks, _) = round(&mut case, &group(0), false, &answers, ms(100));
        assert_eq!((does, thinks), (act, state), "{answers:?}");
    }
}

#[test]
fn later_ranks_wait_and_look_again() {
    let mut case = Case::new(ms(0), ms(100));
    let (act, _, next) = round(&mut case, &group(2), false, &[], ms(100));
    assert_eq!((act, next), (None, ms(140 + 120)));
    let (act, ..) = round(&mut case, &group(2), false, &[], next);
    assert_eq!(act, Some(Act::Take(Takeover::NodeGone)));
    let mut case = Case::new(ms(0), ms(100));
    round(&mut case, &group(1), false, &[], ms(100));
    let (act, state, next) = round(&mut case, &group(1), false, &[answer(VIP, false)], ms(200));
    assert_eq!(
        (act, state, next),
        (None, PeerState::StillAnswers, ms(240 + 240)),
        "somebody was faster"
    );
}

#[test]
fn who_hears_nobody_looks_once_more() {
    let mut case = Case::new(ms(0), ms(100));
    let (act, state, next) = round(&mut case, &group(0), true, &[], ms(100));
    assert_eq!((act, state, next), (None, PeerState::Suspect, ms(140)));
    let (act, ..) = round(&mut case, &group(0), true, &[], next);
    assert_eq!(act, Some(Act::Take(Takeover::NodeGone)));
    let mut case = Case::new(ms(0), ms(100));
    let (act, ..) = round(&mut case, &group(0), true, &[answer(THIRD, false)], ms(100));
    assert_eq!(
        act,
        Some(Act::Take(Takeover::NodeGone)),
        "the third node shows that questions are answered"
    );
}

#[test]
fn what_was_not_asked_is_not_silent() {
    let unasked = |address| Note::Over {
        question: 1,
        unasked: BTreeSet::from([address]),
    };
    for note in [unasked(KERNEL), unasked(VIP)] {
        let mut case = Case::new(ms(0), ms(100));
        assert_eq!(round(&mut case, &group(0), false, &[note], ms(100)).0, None);
    }
}

#[test]
fn a_late_round_is_repeated_but_not_for_ever_and_one_that_is_not_over_is() {
    for (over, at_last) in [(true, Some(Act::Take(Takeover::NodeGone))), (false, None)] {
        let mut case = Case::new(ms(0), ms(100));
        for expected in [None, None, at_last] {
            case.ask(
                1,
                (BTreeSet::from([KERNEL]), BTreeSet::from([MAC])),
                BTreeSet::new(),
                BTreeMap::from([(group(0), VIP)]),
                ms(100),
            );
            if over {
                let note = Note::Over {
                    question: 1,
                    unasked: BTreeSet::new(),
                };
                case.hear(&note, ms(140));
            }
            // The other standbys are asked meanwhile.
            assert!(
                [100, 105, 110, 115, 120]
                    .iter()
                    .all(|at| case.asks_witnesses(ms(*at)).is_some())
            );
            let now = case.deadline().unwrap() + if over { ms(11) } else { ms(0) };
            let (mut acts, _) = case.conclude(now);
            assert_eq!(acts.pop().map(|(_, act)| act), expected, "over: {over}");
        }
    }
}

#[test]
fn the_stand_in_watches_the_kernel_until_the_grace_time_ends() {
    let standing = Group {
        standing_in: true,
        ..group(3)
    };
    let kernel = [answer(KERNEL, false)];
    let mut case = Case::goodbye([group(3)].iter(), ms(1_000));
    let (act, _, next) = round(&mut case, &standing, false, &kernel, ms(1_160));
    assert_eq!((act, next), (None, ms(1_300)));
    let gone = round(&mut case.clone(), &standing, false, &[], next).0;
    assert_eq!(gone, Some(Act::Take(Takeover::NodeGone)), "at once, whatever the rank");
    let back = round(
        &mut case.clone(),
        &standing,
        false,
        &[kernel[0].clone(), answer(VIP, false)],
        next,
    )
    .0;
    assert_eq!(back, Some(Act::Rest));
    let (act, _, next) = round(&mut case, &standing, false, &kernel, ms(11_100));
    assert_eq!((act, next), (None, ms(11_180)), "grace and rank");
    let (act, ..) = round(&mut case, &standing, false, &kernel, next);
    assert_eq!(act, Some(Act::Take(Takeover::GraceOver)));
}

#[test]
fn two_stand_ins_do_not_wait_for_each_other() {
    let standing = |rank| Group {
        standing_in: true,
        ..group(rank)
    };
    let other = answer(VIP, true);
    let alive = [answer(KERNEL, false), other.clone()];
    for rank in [0, 1] {
        let mut case = Case::goodbye([group(rank)].iter(), ms(1_000));
        let (act, state, next) = round(&mut case, &standing(rank), false, &alive, ms(1_160));
        assert_eq!((act, state), (None, PeerState::SpeakerSilent));
        assert_eq!(next, ms(1_300), "both watch the kernel");
        // It dies: the first takes over at once, the second gives it a moment.
        let mut dead = case.clone();
        let (act, _, next) = round(&mut dead, &standing(rank), false, std::slice::from_ref(&other), next);
        let take = Some(Act::Take(Takeover::NodeGone));
        if rank == 0 {
            assert_eq!(act, take);
        } else {
            assert_eq!((act, next), (None, ms(1_400)));
            let owner = round(&mut dead.clone(), &standing(rank), false, &[answer(VIP, false)], next).0;
            assert_eq!(owner, Some(Act::Rest), "the first has it");
            assert_eq!(
                round(&mut dead, &standing(rank), false, std::slice::from_ref(&other), next).0,
                take
            );
        }
        // It lives, and nobody comes back.
        let grace = ms(11_000 + 60 * rank as u64);
        let (act, ..) = round(&mut case, &standing(rank), false, &alive, grace);
        assert_eq!(act, Some(Act::Take(Takeover::GraceOver)));
    }
}

#[test]
fn without_stand_in_the_grace_time_is_waited_for() {
    let alone = Group {
        answer_for_owner: false,
        ..group(0)
    };
    let kernel = [answer(KERNEL, false)];
    let mut case = Case::new(ms(0), ms(100));
    let (act, _, next) = round(&mut case, &alone, false, &kernel, ms(100));
    assert_eq!((act, next), (None, ms(380)));
    let (act, _, next) = round(&mut case, &alone, false, &kernel, ms(10_000));
    assert_eq!((act, next), (None, ms(10_140)));
    let (act, ..) = round(&mut case, &alone, false, &kernel, next);
    assert_eq!(act, Some(Act::Take(Takeover::GraceOver)));
}

#[test]
fn another_station_with_the_owners_address_is_not_the_owner() {
    let other = Note::Answer {
        question: 1,
        address: KERNEL,
        interface: "eth0".to_owned(),
        mac: [2; 6],
        in_its_name: false,
    };
    let mut case = Case::new(ms(0), ms(100));
    let (act, ..) = round(&mut case, &group(0), false, &[other], ms(100));
    assert_eq!(act, Some(Act::Take(Takeover::NodeGone)));
}

#[test]
fn an_owner_that_another_standby_hears_is_not_taken_from() {
    let ask = |case: &mut Case, vouched: bool, at: Duration| {
        case.ask(
            1,
            (BTreeSet::from([KERNEL]), BTreeSet::from([MAC])),
            BTreeSet::from([THIRD]),
            BTreeMap::from([(group(0), VIP)]),
            at,
        );
        assert_eq!(case.asks_witnesses(at), Some(1));
        assert_eq!(case.asks_witnesses(at), None, "once at a time");
        if vouched {
            case.vouch();
        }
        case.hear(&answer(THIRD, false), at);
        let over = Note::Over {
            question: 1,
            unasked: BTreeSet::new(),
        };
        case.hear(&over, at + ms(40));
        case.conclude(at + ms(40))
    };
    let mut case = Case::new(ms(0), ms(100));
    let doubts = [(ms(100), ms(190)), (ms(190), ms(470)), (ms(470), ms(750))];
    for (at, next) in doubts {
        let (acts, state) = ask(&mut case, true, at);
        assert_eq!((acts, state), (Vec::new(), PeerState::HeardByOthers));
        assert_eq!(case.deadline(), Some(next), "the first word is checked soon");
    }
    let (acts, state) = ask(&mut case, false, ms(750));
    assert_eq!(acts, [(group(0), Act::Take(Takeover::NodeGone))]);
    assert_eq!(state, PeerState::Gone, "nobody hears it any more");
}

#[test]
fn a_stand_in_rests_when_the_wire_shows_the_owner_and_not_by_hearsay() {
    let standing = Group {
        standing_in: true,
        ..group(0)
    };
    let mut case = Case::new(ms(0), ms(100));
    let heard = |case: &mut Case, answers: &[Note], at: Duration| {
        let asked = BTreeMap::from([(standing.clone(), VIP)]);
        case.ask(
            1,
            (BTreeSet::from([KERNEL]), BTreeSet::from([MAC])),
            BTreeSet::new(),
            asked,
            at,
        );
        case.vouch();
        answers.iter().for_each(|note| case.hear(note, at));
        let over = Note::Over {
            question: 1,
            unasked: BTreeSet::new(),
        };
        case.hear(&over, at + ms(40));
        case.conclude(at + ms(40)).0
    };
    let kernel = answer(KERNEL, false);
    for at in [100, 10_000, 30_000].map(ms) {
        assert_eq!(heard(&mut case, std::slice::from_ref(&kernel), at), []);
    }
    let back = heard(&mut case, &[kernel, answer(VIP, false)], ms(30_100));
    assert_eq!(back, [(standing.clone(), Act::Rest)]);
}
