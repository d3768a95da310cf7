use super::*;

const MS: Duration = Duration::from_millis(1);
const MINE: NonZeroU32 = NonZeroU32::new(7).unwrap();
const THEIRS: NonZeroU32 = NonZeroU32::new(9).unwrap();

fn settings(transmit: u32, receive: u32) -> Settings {
    Settings {
        receive: receive * MS,
        transmit: transmit * MS,
        multiplier: 3,
        passive: false,
    }
}

/// A packet of a router with 100 ms both ways and multiplier 4.
fn packet(state: State) -> Repr {
    Repr {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        r#final: false,
        independent: false,
        demand: false,
        multiplier: 4,
        my_discriminator: THEIRS,
        your_discriminator: MINE.get(),
        desired_transmit: 100_000,
        required_receive: 100_000,
        required_echo: 0,
    }
}

/// All packets due.
fn sent(session: &mut Session, now: Duration) -> Vec<Repr> {
    std::iter::from_fn(|| session.transmit(now, 0)).take(9).collect()
}

/// A session in this state, with nothing due at `now` and heard then.
fn in_state(state: State, settings: Settings, now: Duration) -> Session {
    let mut session = Session::new(MINE, settings);
    match state {
        State::AdminDown => drop(session.disable()),
        State::Down => {}
        State::Init => drop(session.receive(now, &packet(State::Down))),
        State::Up => {
            session.receive(now, &packet(State::Init));
            sent(&mut session, now);
            let answer = Repr {
                r#final: true,
                ..packet(State::Up)
            };
            session.receive(now, &answer);
        }
    }
    sent(&mut session, now);
    assert_eq!(session.state(), state);
    session
}

#[test]
fn every_state_has_an_answer_to_every_packet() {
    use Cause::{Heard, NeighborAdminDown, NeighborDown};
    use State::{AdminDown, Down, Init, Up};
    let cases = [
        (AdminDown, AdminDown, None),
        (AdminDown, Down, None),
        (AdminDown, Init, None),
        (AdminDown, Up, None),
        (Down, AdminDown, None),
        (Down, Down, Some((Init, Heard))),
        (Down, Init, Some((Up, Heard))),
        (Down, Up, None),
        (Init, AdminDown, Some((Down, NeighborAdminDown))),
        (Init, Down, None),
        (Init, Init, Some((Up, Heard))),
        (Init, Up, Some((Up, Heard))),
        (Up, AdminDown, Some((Down, NeighborAdminDown))),
        (Up, Down, Some((Down, NeighborDown))),
        (Up, Init, None),
        (Up, Up, None),
    ];
    for (from, heard, expected) in cases {
        let mut session = in_state(from, settings(50, 50), MS);
        let change = session.receive(MS, &packet(heard));
        let expected = expected.map(|(to, cause)| Change { from, to, cause });
        assert_eq!(change, expected, "{from} hears {heard}");
        // A packet leaves at once only to tell of a change, or of a poll it began.
        assert_eq!(sent(&mut session, MS).len(), usize::from(change.is_some()));
        let failed = (from, heard) == (Up, Down);
        assert_eq!(change.is_some_and(|change| change.is_failure()), failed);
    }
}

#[test]
fn silence_takes_down_what_was_heard() {
    for (from, failed) in [
        (State::AdminDown, false),
        (State::Down, false),
        (State::Init, false),
        (State::Up, true),
    ] {
        let mut session = in_state(from, settings(50, 150), MS);
        // The router's multiplier x the larger of what this side takes in and what the router wants to send.
        session.receive(MS, &packet(if from == State::Init { State::Down } else { State::Up }));
        assert_eq!(session.detection_time(), 600 * MS);
        assert_eq!(session.tick(601 * MS - MS / 1000), None, "{from}");
        let change = session.tick(601 * MS);
        assert_eq!(change.is_some(), matches!(from, State::Init | State::Up));
        assert_eq!(change.is_some_and(|change| change.is_failure()), failed);
        if let Some(change) = change {
            assert_eq!((change.to, change.cause), (State::Down, Cause::Expired));
            assert_eq!(session.diagnostic(), Diagnostic::EXPIRED);
        }
        // The router is forgotten, once.
        assert_eq!(*session.remote(), Remote::UNKNOWN);
        assert_eq!(session.tick(9000 * MS), None);
        let told = sent(&mut session, 9000 * MS);
        assert_eq!(told[0].your_discriminator, 0);
    }
}

#[test]
fn packets_say_what_the_session_is() {
    let mut session = Session::new(MINE, settings(50, 60));
    let first = Repr {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        r#final: false,
        independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: MINE,
        your_discriminator: 0,
        // Slow until Up.
        desired_transmit: 1_000_000,
        required_receive: 60_000,
        required_echo: 0,
    };
    assert_eq!(sent(&mut session, MS), [first]);
    session.receive(2 * MS, &packet(State::Down));
    let second = Repr {
        state: State::Init,
        your_discriminator: THEIRS.get(),
        ..first
    };
    assert_eq!(sent(&mut session, 2 * MS), [second]);
    session.receive(3 * MS, &packet(State::Up));
    let third = Repr {
        state: State::Up,
        poll: true,
        desired_transmit: 50_000,
        ..second
    };
    assert_eq!(sent(&mut session, 3 * MS), [third]);
    session.receive(4 * MS, &packet(State::Down));
    let fourth = Repr {
        state: State::Down,
        diagnostic: Diagnostic::NEIGHBOR_DOWN,
        ..second
    };
    assert_eq!(sent(&mut session, 4 * MS), [fourth]);
}

#[test]
fn jitter_shortens_by_a_quarter_at_most() {
    let gap = |multiplier: u8, jitter: u32| {
        let settings = Settings {
            multiplier,
            ..settings(200, 200)
        };
        let mut session = in_state(State::Up, settings, MS);
        session.transmit(1000 * MS, jitter).unwrap();
        let next = session.sends_at().unwrap() - 1000 * MS;
        assert_eq!(session.transmit(1000 * MS + next - MS / 1000, 0), None);
        assert!(session.transmit(1000 * MS + next, 0).is_some());
        next
    };
    assert_eq!((gap(3, 0), gap(3, u32::MAX)), (200 * MS, 150 * MS));
    assert_eq!((gap(1, 0), gap(1, u32::MAX)), (180 * MS, 150 * MS));
}

#[test]
fn the_interval_is_what_both_agree_to() {
    // (own desired, router's required, Up) -> interval
    let cases = [
        (50, 100, true, 100),
        (300, 100, true, 300),
        (50, 100, false, 1000),
        (50, 2000, false, 2000),
    ];
    for (own, required, up, expected) in cases {
        let state = if up { State::Up } else { State::Init };
        let mut session = in_state(state, settings(own, 50), MS);
        let heard = if up { State::Up } else { State::Down };
        let packet = Repr {
            required_receive: required * 1000,
            ..packet(heard)
        };
        session.receive(2 * MS, &packet);
        assert_eq!(session.transmit_interval(), expected * MS);
        assert_eq!(session.sends_at(), Some((1 + expected) * MS));
    }
}

#[test]
fn a_shorter_interval_moves_the_packet_already_planned() {
    let mut session = in_state(State::Up, settings(50, 50), MS);
    let slow = Repr {
        required_receive: 1_000_000,
        ..packet(State::Up)
    };
    session.receive(MS, &slow);
    assert_eq!(session.next_deadline(), Some(401 * MS));
    assert_eq!(session.sends_at(), Some(1001 * MS));
    session.receive(10 * MS, &packet(State::Up));
    assert_eq!(session.sends_at(), Some(101 * MS));
    // From the speed before Up to that of Up.
    let mut session = in_state(State::Init, settings(50, 50), MS);
    assert_eq!(session.sends_at(), Some(1001 * MS));
    session.receive(10 * MS, &packet(State::Up));
    assert_eq!(sent(&mut session, 10 * MS).len(), 1);
    assert_eq!(session.sends_at(), Some(110 * MS));
}

#[test]
fn a_poll_is_answered_at_once_and_in_every_state_but_one() {
    for state in [State::AdminDown, State::Down, State::Init, State::Up] {
        let mut session = in_state(state, settings(50, 50), MS);
        let poll = Repr {
            poll: true,
            // A router that wants silence is answered all the same.
            required_receive: 0,
            demand: true,
            ..packet(if state == State::Init { State::Down } else { State::Up })
        };
        session.receive(2 * MS, &poll);
        assert_eq!(
            session.next_deadline() == Some(Duration::ZERO),
            state != State::AdminDown
        );
        let told = sent(&mut session, 2 * MS);
        let flags: Vec<_> = told.iter().map(|packet| (packet.poll, packet.r#final)).collect();
        assert_eq!(
            flags,
            if state == State::AdminDown {
                vec![]
            } else {
                vec![(false, true)]
            }
        );
    }
}

#[test]
fn slower_sending_waits_for_the_answer() {
    let mut session = in_state(State::Up, settings(200, 200), MS);
    session.set(settings(500, 200));
    assert_eq!(session.transmit_interval(), 200 * MS);
    let told = sent(&mut session, 201 * MS);
    assert!(told[0].poll && told[0].desired_transmit == 500_000);
    session.receive(202 * MS, &packet(State::Up));
    assert_eq!(session.transmit_interval(), 200 * MS, "that was no answer");
    let answer = Repr {
        r#final: true,
        ..packet(State::Up)
    };
    session.receive(203 * MS, &answer);
    assert_eq!(session.transmit_interval(), 500 * MS);
    assert!(!sent(&mut session, 801 * MS)[0].poll);
    // Faster is safe at once.
    session.set(settings(120, 200));
    assert_eq!(session.transmit_interval(), 120 * MS);
    assert!(sent(&mut session, 2000 * MS)[0].poll);
}

#[test]
fn quicker_detection_waits_for_the_answer() {
    let mut session = in_state(State::Up, settings(200, 400), MS);
    assert_eq!(session.detection_time(), 1600 * MS);
    session.set(settings(200, 200));
    assert_eq!(session.detection_time(), 1600 * MS);
    assert_eq!(sent(&mut session, 201 * MS)[0].required_receive, 200_000);
    let answer = Repr {
        r#final: true,
        ..packet(State::Up)
    };
    session.receive(203 * MS, &answer);
    assert_eq!(session.detection_time(), 800 * MS);
    // Slower is safe at once.
    session.set(settings(200, 500));
    assert_eq!(session.detection_time(), 2000 * MS);
}

#[test]
fn a_change_during_a_poll_is_polled_for_again() {
    let mut session = in_state(State::Up, settings(200, 200), MS);
    session.set(settings(300, 200));
    session.set(settings(500, 200));
    let answer = Repr {
        r#final: true,
        ..packet(State::Up)
    };
    session.receive(2 * MS, &answer);
    assert_eq!(session.transmit_interval(), 200 * MS, "the answer may be to the first");
    assert!(sent(&mut session, 300 * MS)[0].poll);
    session.receive(301 * MS, &answer);
    assert_eq!(session.transmit_interval(), 500 * MS);
    // What is not told in intervals needs no poll.
    let other = Settings {
        multiplier: 5,
        passive: true,
        ..settings(500, 200)
    };
    session.set(other);
    let told = sent(&mut session, 900 * MS)[0];
    assert_eq!((told.poll, told.multiplier), (false, 5));
}

#[test]
fn the_answer_to_a_former_poll_ends_no_other() {
    let mut session = in_state(State::Up, settings(200, 200), MS);
    let answer = Repr {
        r#final: true,
        ..packet(State::Up)
    };
    session.set(settings(300, 200));
    // The way there and back takes longer than an interval.
    assert!(sent(&mut session, 201 * MS)[0].poll);
    assert!(sent(&mut session, 401 * MS)[0].poll);
    session.receive(402 * MS, &answer);
    assert_eq!(session.transmit_interval(), 300 * MS);
    session.set(settings(500, 200));
    session.receive(403 * MS, &answer);
    assert_eq!(session.transmit_interval(), 300 * MS, "the router has not been told");
    let told = sent(&mut session, 702 * MS);
    assert!(told[0].poll && told[0].desired_transmit == 500_000);
    session.receive(703 * MS, &answer);
    assert_eq!(session.transmit_interval(), 500 * MS);
}

#[test]
fn down_ends_a_poll() {
    let mut session = in_state(State::Up, settings(50, 50), MS);
    session.set(settings(500, 20));
    session.receive(2 * MS, &packet(State::Down));
    let told = sent(&mut session, 2 * MS);
    assert!(!told[0].poll && told.len() == 1);
    assert_eq!(session.transmit_interval(), 1000 * MS);
}

#[test]
fn slow_settings_need_no_poll_to_come_up() {
    let mut session = in_state(State::Init, settings(2000, 2000), MS);
    session.receive(2 * MS, &packet(State::Up));
    assert!(!sent(&mut session, 2 * MS)[0].poll);
}

#[test]
fn a_passive_session_speaks_when_spoken_to() {
    let passive = Settings {
        passive: true,
        ..settings(50, 50)
    };
    let mut session = Session::new(MINE, passive);
    assert_eq!(session.next_deadline(), None);
    assert!(sent(&mut session, 5000 * MS).is_empty());
    session.receive(5001 * MS, &packet(State::Down));
    assert_eq!(sent(&mut session, 5001 * MS)[0].state, State::Init);
    // And is silent again once the router is gone.
    session.tick(6000 * MS).unwrap();
    assert!(sent(&mut session, 9000 * MS).is_empty());
}

#[test]
fn silence_on_demand() {
    let mut session = in_state(State::Up, settings(50, 50), MS);
    let demand = Repr {
        demand: true,
        ..packet(State::Up)
    };
    session.receive(2 * MS, &demand);
    assert!(sent(&mut session, 9000 * MS).is_empty());
    // A change of settings breaks it, and so does a router that is not Up.
    session.set(settings(60, 50));
    assert!(sent(&mut session, 9000 * MS)[0].poll);
    let answer = Repr {
        r#final: true,
        ..demand
    };
    session.receive(9001 * MS, &answer);
    assert!(sent(&mut session, 18000 * MS).is_empty());
    let init = Repr {
        demand: true,
        ..packet(State::Init)
    };
    session.receive(18000 * MS, &init);
    assert_eq!(sent(&mut session, 18000 * MS).len(), 1);
    // A router that takes nothing in is sent nothing.
    let deaf = Repr {
        required_receive: 0,
        ..packet(State::Up)
    };
    session.receive(18001 * MS, &deaf);
    assert!(sent(&mut session, 27000 * MS).is_empty());
}

#[test]
fn by_hand() {
    let mut session = in_state(State::Up, settings(50, 50), MS);
    let change = session.disable().unwrap();
    assert!(!change.is_failure());
    let told = sent(&mut session, 2 * MS);
    assert_eq!(
        (told[0].state, told[0].diagnostic),
        (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN)
    );
    assert_eq!(session.disable(), None);
    assert_eq!(session.enable().map(|change| change.to), Some(State::Down));
    assert_eq!(session.enable(), None);
    session.receive(3 * MS, &packet(State::Down));
    assert_eq!(session.state(), State::Init);
}

#[test]
fn a_profile_becomes_settings() {
    let profile = BfdProfile {
        name: "fast".to_owned(),
        receive_interval: 30 * MS,
        transmit_interval: 40 * MS,
        detect_multiplier: 5,
        echo_interval: None,
        passive: true,
        minimum_ttl: 250,
    };
    let expected = Settings {
        receive: 30 * MS,
        transmit: 40 * MS,
        multiplier: 5,
        passive: true,
    };
    assert_eq!(Settings::from(&profile), expected);
}
