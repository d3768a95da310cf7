//! The laws bite: guards whose words are falsified are caught, by the law that they break.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_liveness::{Duties, Effect, Role, Wanted};

use crate::history;
use crate::world::ms;

/// By then a seed has met what is falsified.
const SEEDS: u64 = 60;

/// By then all has healed.
const HEALED: Duration = ms(16_000);

/// Falsifies one effect of a node's guard; `false` leaves it out.
type Effects = fn(node: usize, now: Duration, &mut Effect) -> bool;

/// What is falsified.
#[derive(Clone, Copy)]
pub(crate) struct Sabotage {
    /// On its way out of a guard.
    pub(crate) effects: Effects,
    /// On its way into a guard.
    pub(crate) duties: fn(now: Duration, &mut Duties),
}

impl Default for Sabotage {
    fn default() -> Sabotage {
        Sabotage {
            effects: |_, _, _| true,
            duties: |_, _| {},
        }
    }
}

/// Kinds of datagrams, as an octet of each says.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const GOODBYE: u8 = 2;
    pub(super) const CLAIM: u8 = 3;
    pub(super) const TELL: u8 = 4;
}

fn is(effect: &Effect, kinds: &[u8]) -> bool {
    matches!(effect, Effect::Send { bytes, .. } if kinds.contains(&bytes[5]))
}

/// Falsifies the parts that layer 2 is told to play.
fn roles(effect: &mut Effect, falsify: fn(&mut Role)) {
    if let Effect::Wanted(wanted) = effect {
        let mut falsified = Wanted::clone(wanted);
        falsified
            .addresses
            .values_mut()
            .for_each(|want| falsify(&mut want.role));
        *wanted = Arc::new(falsified);
    }
}

/// Plays seeds until one is caught by a law in these words.
fn caught(law: &str, sabotage: Sabotage) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        let complaints = history::tell(seed, sabotage).complaints;
        if complaints.iter().any(|complaint| complaint.contains(law)) {
            return;
        }
        others.extend(complaints.into_iter().take(1));
    }
    panic!("nobody says {law:?}, but {others:#?}");
}

fn effects(effects: Effects) -> Sabotage {
    Sabotage {
        effects,
        ..Sabotage::default()
    }
}

fn duties(duties: fn(Duration, &mut Duties)) -> Sabotage {
    Sabotage {
        duties,
        ..Sabotage::default()
    }
}

#[test]
fn owners_that_do_not_tell_each_other() {
    caught(
        "is answered twice on",
        effects(|_, _, effect| !is(effect, &[kind::CLAIM, kind::TELL])),
    );
}

#[test]
fn nodes_that_answer_for_a_third_one_for_ever() {
    let falsify: Effects = |_, _, effect| {
        roles(effect, |role| {
            *role = if *role == Role::Own { Role::Listen } else { Role::Own }
        });
        true
    };
    caught("is answered twice by former owners", effects(falsify));
}

#[test]
fn standbys_that_do_not_look() {
    caught(
        "though a standby is ready",
        effects(|_, _, effect| !matches!(effect, Effect::Ask(_))),
    );
}

#[test]
fn answers_in_the_name_of_a_node_that_is_none() {
    let falsify: Effects = |_, _, effect| {
        roles(effect, |role| {
            if let Role::StandIn(macs) = role {
                macs.values_mut().for_each(|mac| *mac = [9; 6]);
            }
        });
        true
    };
    caught("though a standby is ready", effects(falsify));
}

#[test]
fn owners_that_do_not_answer() {
    let falsify: Effects = |_, _, effect| {
        roles(effect, |role| *role = Role::Listen);
        true
    };
    caught("is not answered on", effects(falsify));
}

#[test]
fn questions_that_nobody_hears() {
    let falsify: Effects = |_, _, effect| {
        if let Effect::Ask(question) = effect {
            question.addresses.clear();
        }
        true
    };
    caught("was taken over", effects(falsify));
}

#[test]
fn ends_without_a_goodbye() {
    caught(
        "planned, and without",
        effects(|_, _, effect| !is(effect, &[kind::GOODBYE])),
    );
}

#[test]
fn moves_that_break_before_they_make() {
    caught(
        "planned, and without",
        duties(|_, duties| {
            let me = Arc::clone(&duties.node);
            duties.addresses.retain(|_, duty| duty.placement.owner == me);
        }),
    );
}

#[test]
fn knowledge_that_is_lost() {
    caught(
        "is known less of",
        duties(|now, duties| {
            for duty in duties.addresses.values_mut().filter(|_| now > ms(5_000)) {
                let duty = Arc::make_mut(duty);
                duty.object = "another".into();
                duty.placement.epoch = 0;
            }
        }),
    );
}

#[test]
fn answers_that_do_not_end() {
    let falsify: Effects = |_, now, effect| {
        if now > ms(9_000) {
            roles(effect, |role| *role = Role::Own);
        }
        true
    };
    caught("at rest is answered by", effects(falsify));
}

#[test]
fn owners_that_are_not_heard() {
    caught(
        "at rest does not hear",
        effects(|node, now, effect| node > 0 || now < HEALED || !is(effect, &[kind::HELLO])),
    );
}

#[test]
fn standbys_that_are_not_told() {
    caught(
        "at rest is None",
        duties(|now, duties| {
            if now > HEALED {
                duties.addresses.clear();
            }
        }),
    );
}
