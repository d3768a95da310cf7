use proptest::prelude::*;

use super::*;
use crate::seam::{InterfaceChoice, Manner, Timing};

const NOW: Duration = Duration::from_secs(1);

fn placement(owner: &str, standbys: &[&str], epoch: u64) -> Placement {
    Placement {
        owner: owner.into(),
        standbys: standbys.iter().map(|name| Arc::from(*name)).collect(),
        epoch,
    }
}

fn duty(placement: Placement) -> Arc<Duty> {
    Arc::new(Duty {
        object: "one".into(),
        placement,
        previous_owner: None,
        interfaces: InterfaceChoice::All,
        may_announce: true,
        timing: Timing::default(),
        manner: Manner::default(),
    })
}

/// As `me` knows it, placed on `a`, with `b` and `c` standing by.
fn address(me: &str) -> Address {
    Address::new(duty(placement("a", &["b", "c"], 1)), me).0
}

fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn hear(address: &mut Address, epoch: u64, owner: &str, source: Source, me: &str) -> Compared {
    address.hear(epoch, &owner.into(), source, me)
}

#[test]
fn an_owner_begins_and_tells_all() {
    let (owner, change) = Address::new(duty(placement("a", &["b", "c"], 1)), "a");
    assert_eq!((owner.stage, change), (Stage::Own, Change::Own(names(&["b", "c"]))));
    let (standby, change) = Address::new(duty(placement("a", &["b"], 1)), "b");
    assert_eq!((standby.role("b"), change), (Some(Role::Listen), Change::Nothing));
    assert_eq!(standby.role("z"), None, "no part in it");
}

#[test]
fn who_cannot_serve_does_not_begin_but_does_not_stop_either() {
    let mut wanting = duty(placement("a", &["b"], 1));
    Arc::make_mut(&mut wanting).may_announce = false;
    let (mut address, change) = Address::new(wanting.clone(), "a");
    assert_eq!((&address.stage, change), (&Stage::Idle, Change::Nothing));
    let able = duty(placement("a", &["b"], 1));
    assert_eq!(address.update(able, "a", NOW), Change::Own(names(&["b"])));
    assert_eq!(address.update(wanting, "a", NOW), Change::Nothing);
    assert_eq!(address.stage, Stage::Own);
}

#[test]
fn a_move_is_make_before_break() {
    let mut old = address("a");
    let moved = duty(placement("b", &["a", "c"], 2));
    assert_eq!(old.update(moved.clone(), "a", NOW), Change::Planned);
    assert_eq!(old.role("a"), Some(Role::Own), "answers until the new owner does");
    let later = NOW + Duration::from_secs(1);
    assert_eq!(old.update(moved.clone(), "a", later), Change::Planned, "told twice");
    assert_eq!(old.plan.as_ref().map(|plan| plan.until), Some(NOW + HANDOVER), "once");
    assert_eq!(old.belief.order(), (1, "a"));
    let claimed = hear(&mut old, 2, "b", Source::Owner, "a");
    assert_eq!(claimed, Compared::Known(Change::HandedOver));
    assert_eq!(old.role("a"), Some(Role::Listen));
    let mut new = address("b");
    assert_eq!(new.update(moved, "b", NOW), Change::Own(names(&["a", "c"])));
}

#[test]
fn hearsay_does_not_end_a_handover() {
    let mut old = address("a");
    old.update(duty(placement("b", &["a"], 2)), "a", NOW);
    let heard = hear(&mut old, 2, "b", Source::Hearsay, "a");
    assert_eq!(
        (heard, old.role("a")),
        (Compared::Known(Change::Nothing), Some(Role::Own))
    );
    assert_eq!(
        (old.shown("a"), old.role("a")),
        (Change::HandedOver, Some(Role::Listen))
    );
    assert_eq!(old.shown("a"), Change::Nothing);
}

#[test]
fn a_standby_stands_by_for_who_answers() {
    let moved = duty(placement("d", &["b"], 2));
    let mut stays = address("b");
    assert_eq!(stays.update(moved.clone(), "b", NOW), Change::Planned);
    assert_eq!(stays.belief.order(), (1, "a"), "d may not know yet");
    assert_eq!(
        hear(&mut stays, 2, "d", Source::Owner, "b"),
        Compared::Known(Change::Nothing)
    );
    assert_eq!((stays.belief, stays.plan), (placement("d", &["b"], 2), None));
    let mut leaves = address("c");
    assert_eq!(leaves.update(moved, "c", NOW), Change::Nothing);
    assert_eq!(leaves.belief.order(), (2, "d"), "it has no part in it any more");
}

#[test]
fn what_was_only_read_corrects_nobody() {
    let mut standby = Address::new(duty(placement("a", &["b", "c"], 3)), "b").0;
    let claimed = hear(&mut standby, 2, "c", Source::Owner, "b");
    assert_eq!(claimed, Compared::Unsettled, "a may not know yet");
    hear(&mut standby, 3, "a", Source::Owner, "b");
    assert_eq!(hear(&mut standby, 2, "c", Source::Owner, "b"), Compared::Worse);
    standby.update(duty(placement("c", &["b"], 4)), "b", NOW);
    let mut lapsed = standby.clone();
    standby.shown("b");
    assert_eq!(hear(&mut standby, 3, "a", Source::Owner, "b"), Compared::Worse);
    lapsed.lapse("b");
    let claimed = hear(&mut lapsed, 3, "a", Source::Owner, "b");
    assert_eq!(claimed, Compared::Unsettled);
}

#[test]
fn who_takes_an_address_is_beyond_what_was_planned() {
    let moved = duty(placement("d", &["b"], 5));
    let take = |from| {
        let mut standby = address("b");
        standby.update(moved.clone(), "b", NOW);
        let told = standby.take(from, &"b".into());
        assert_eq!(told, Change::Own(names(&["a", "c", "d"])), "those of both");
        standby.belief
    };
    assert_eq!(take("a"), placement("b", &["c", "a"], 6));
    assert_eq!(take("d"), placement("b", &["d"], 6));
}

#[test]
fn a_better_claim_ends_ownership_at_once() {
    for source in [Source::Owner, Source::Hearsay] {
        let mut owner = address("a");
        let heard = hear(&mut owner, 2, "c", source, "a");
        assert_eq!((heard, &owner.stage), (Compared::Known(Change::Yielded), &Stage::Idle));
        assert_eq!(
            owner.belief,
            placement("c", &["b", "a"], 2),
            "what remains stands by, then the old owner"
        );
    }
}

#[test]
fn a_worse_claim_is_one() {
    let mut owner = Address::new(duty(placement("b", &["a"], 5)), "b").0;
    for (epoch, name) in [(4, "c"), (5, "a")] {
        assert_eq!(hear(&mut owner, epoch, name, Source::Owner, "b"), Compared::Worse);
        assert_eq!(owner.stage, Stage::Own);
    }
    assert_eq!(
        hear(&mut owner, 5, "c", Source::Owner, "b"),
        Compared::Known(Change::Yielded),
        "the name decides"
    );
}

#[test]
fn the_api_may_be_behind() {
    let mut standby = address("b");
    assert_eq!(standby.take("a", &"b".into()), Change::Own(names(&["a", "c"])));
    assert_eq!(standby.belief, placement("b", &["c", "a"], 2));
    assert_eq!(
        standby.update(duty(placement("a", &["b", "c"], 1)), "b", NOW),
        Change::Nothing
    );
    assert_eq!(standby.stage, Stage::Own);
    let recorded = duty(placement("b", &["d"], 2));
    assert_eq!(standby.update(recorded, "b", NOW), Change::Nothing);
    assert_eq!(standby.belief, placement("b", &["d"], 2), "the standbys are the API's");
}

#[test]
fn another_object_begins_anew() {
    let mut standby = address("b");
    standby.take("a", &"b".into());
    let other = Duty {
        object: "two".into(),
        ..Duty::clone(&duty(placement("a", &["b"], 1)))
    };
    assert_eq!(standby.update(Arc::new(other), "b", NOW), Change::Planned);
    assert_eq!(standby.shown("b"), Change::HandedOver);
    assert_eq!(standby.belief, placement("a", &["b"], 1));
}

#[test]
fn who_stands_in_goes_on_until_the_new_owner_answers() {
    let mut standby = address("b");
    let role = Role::StandIn(BTreeMap::from([("eth0".to_owned(), [7; 6])]));
    standby.stage = Stage::StandIn(BTreeMap::from([("eth0".to_owned(), [7; 6])]));
    assert_eq!(
        standby.update(duty(placement("c", &["b"], 2)), "b", NOW),
        Change::Planned
    );
    assert_eq!(standby.role("b"), Some(role));
    hear(&mut standby, 2, "c", Source::Owner, "b");
    assert_eq!(standby.role("b"), Some(Role::Listen));
}

#[test]
fn announces_once_a_second_and_after_the_former_owner_has_yielded() {
    let mut standby = address("b");
    assert!(!standby.announce(NOW), "not the owner");
    standby.take("a", &"b".into());
    assert!(!standby.acknowledged("c", NOW), "c has not answered for it");
    assert!(standby.acknowledged("a", NOW));
    assert!(!standby.acknowledged("a", NOW), "once");
    let at = |ms| NOW + Duration::from_millis(ms);
    assert_eq!([standby.announce(at(900)), standby.announce(at(1_000))], [false, true]);
}

proptest! {
    /// Whatever order nodes learn of claims in, and from whom: the same owner, and that one alone owns.
    #[test]
    fn everybody_ends_with_the_best_claim(
        claims in proptest::collection::vec((1_u64..6, 0_usize..3), 1..12),
        orders in proptest::collection::vec(any::<u64>(), 3),
    ) {
        let nodes = ["a", "b", "c"];
        let best = claims.iter().map(|(epoch, owner)| (*epoch, nodes[*owner])).chain([(1, "a")]).max().unwrap();
        for (me, order) in nodes.iter().zip(orders) {
            let mut address = address(me);
            let mut mine = claims.clone();
            let mut rng = fastrand::Rng::with_seed(order);
            rng.shuffle(&mut mine);
            for (epoch, owner) in mine {
                let source = if nodes[owner] != *me && rng.bool() { Source::Owner } else { Source::Hearsay };
                hear(&mut address, epoch, nodes[owner], source, me);
            }
            prop_assert_eq!(address.belief.order(), best);
            prop_assert_eq!(address.stage == Stage::Own, best.1 == *me);
        }
    }
}
