//! Who is taken for the router, and what is sent when.

use proptest::prelude::*;

use super::*;

const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn says(lifetime: u16, mac: u8) -> Advertisement {
    Advertisement {
        lifetime,
        mac: Some([2, 0, 0, 0, 0, mac]),
    }
}

fn link() -> Link {
    Link::new(s(0), 7)
}

fn due(link: &mut Link, now: Duration) -> Vec<Message> {
    std::iter::from_fn(|| link.poll(now)).collect()
}

#[test]
fn a_router_is_asked_for_and_greeted_once() {
    let mut link = link();
    let both = [Message::Solicitation, Message::Advertisement(None)];
    assert_eq!(due(&mut link, s(0)), both);
    assert_eq!((due(&mut link, s(2)), link.deadline()), (vec![], s(3)));
    assert_eq!(due(&mut link, s(3)), both);
    link.heard(s(4), A, &says(1800, 1));
    assert_eq!((link.router(), link.deadline()), (Some(A), s(0)));
    assert_eq!(due(&mut link, s(4)), [Message::Advertisement(Some(A))]);
    link.heard(s(5), A, &says(1800, 1));
    assert_eq!(due(&mut link, s(5)), []);
    assert_eq!(due(&mut link, s(6)), [Message::Advertisement(None)]);
    // Three at first; then with jitter.
    assert_eq!(due(&mut link, s(9)), [Message::Advertisement(None)]);
    assert!((s(9) + Duration::from_millis(7500)..=s(19)).contains(&link.deadline()));
    // The interface was down: the router may have forgotten us.
    link.up(s(10));
    let anew = [Message::Advertisement(Some(A)), Message::Advertisement(None)];
    assert_eq!(due(&mut link, s(10)), anew);
}

#[test]
fn the_router_that_is_known_stays() {
    let mut link = link();
    link.heard(s(0), A, &says(1800, 1));
    for now in 1..=29 {
        link.heard(s(now), B, &says(1800, 2));
        assert_eq!((link.router(), link.other()), (Some(A), Some(B)));
    }
    // It does not come back: the other one is it.
    link.heard(s(30), B, &says(1800, 2));
    assert_eq!((link.router(), link.other()), (Some(B), None));
}

#[test]
fn a_router_that_speaks_seldom_is_not_silent() {
    let mut link = link();
    link.heard(s(0), A, &says(1800, 1));
    link.heard(s(200), A, &says(1800, 1));
    link.heard(s(799), B, &says(1800, 2));
    assert_eq!(link.router(), Some(A));
    link.heard(s(800), B, &says(1800, 2));
    assert_eq!(link.router(), Some(B));
}

#[test]
fn a_router_may_change_its_address() {
    let mut link = link();
    link.heard(s(0), A, &says(1800, 1));
    due(&mut link, s(0));
    link.heard(s(1), B, &says(1800, 1));
    assert_eq!((link.router(), link.other()), (Some(B), None));
    assert_eq!(due(&mut link, s(1)), [Message::Advertisement(Some(B))]);
    // Without a card's address nobody can tell that it is the same.
    let anonymous = Advertisement {
        lifetime: 1800,
        mac: None,
    };
    let mut link = Link::new(s(0), 7);
    link.heard(s(0), A, &anonymous);
    link.heard(s(1), B, &anonymous);
    assert_eq!((link.router(), link.other()), (Some(A), Some(B)));
}

#[test]
fn others_like_us_are_no_router_once_there_is_one() {
    let mut link = link();
    link.heard(s(0), B, &says(0, 2));
    assert_eq!(
        link.router(),
        Some(B),
        "a router may be told not to be a default router"
    );
    link.heard(s(1), A, &says(1800, 1));
    assert_eq!(link.router(), Some(A));
    link.heard(s(2), B, &says(0, 2));
    assert_eq!((link.router(), link.other()), (Some(A), Some(B)));
    // A router that goes says so, and is still the only one.
    link.heard(s(3), A, &says(0, 1));
    assert_eq!(link.router(), Some(A));
}

proptest! {
    /// Whatever is heard: no more than the greetings of new routers and a few messages in ten seconds are sent, and the
    /// router is one that was heard.
    #[test]
    fn little_is_sent(heard in prop::collection::vec((0u64..20, 0u16..6, 0u16..2, 0u8..3), 1..60), seed: u64) {
        let mut link = Link::new(s(0), seed);
        let (mut now, mut sent, mut greeted, mut changes) = (s(0), 0u64, 0u64, 0u64);
        for (pause, from, lifetime, mac) in heard {
            now += s(pause);
            let before = link.router();
            link.heard(now, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, from), &says(lifetime, mac));
            prop_assert!(link.router().is_some());
            changes += u64::from(link.router() != before);
            for message in due(&mut link, now) {
                match message {
                    Message::Advertisement(Some(router)) => {
                        prop_assert_eq!(Some(router), link.router());
                        greeted += 1;
                    }
                    _ => sent += 1,
                }
            }
            prop_assert!(link.deadline() > now);
        }
        prop_assert_eq!(greeted, changes);
        prop_assert!(sent <= 2 * 3 + 2 + now.as_secs() / 7);
    }
}
