//! The words of the core, of the guard and of layer 2 for the same things. None of the three knows another.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_l2::interfaces::{NamePattern, suitable};
use ferrolb_l2::{Conflicts, InterfaceChoice, InterfaceState, Manner, Want, Wanted};
use ferrolb_liveness as liveness;
use ferrolb_model::{ConflictDetection, Placement};
use ferrolb_speaker_core::{Duty, Liveness};

/// What layer 2 does while there is no guard: everything that this node owns, and may announce, is announced.
pub(crate) fn owned(duties: &liveness::Duties) -> Arc<Wanted> {
    let owned = duties
        .addresses
        .iter()
        .filter(|(_, duty)| duty.placement.owner == duties.node && duty.may_announce);
    let want = |duty: &liveness::Duty| Want {
        interfaces: interfaces(&duty.interfaces),
        manner: manner(duty.manner),
        ..Want::default()
    };
    Arc::new(Wanted {
        addresses: owned.map(|(address, duty)| (*address, want(duty))).collect(),
        ..Wanted::default()
    })
}

/// A duty as the guard takes it; `names` has the nodes in it.
pub(super) fn duty(duty: &Duty, names: &BTreeSet<Arc<str>>) -> liveness::Duty {
    liveness::Duty {
        object: duty.uid.as_str().into(),
        placement: placement(&duty.placement, names),
        previous_owner: duty.previous_owner.as_deref().map(|node| name(node, names)),
        interfaces: match &duty.interfaces {
            None => liveness::InterfaceChoice::All,
            Some(names) => liveness::InterfaceChoice::Named(names.clone()),
        },
        may_announce: duty.able,
        timing: timing(&duty.liveness),
        manner: liveness::Manner {
            refresh: duty.manner.refresh,
            conflicts: conflicts(duty.manner.conflicts),
            subnet_check: duty.manner.subnet_check.unwrap_or(true),
        },
    }
}

/// Every name is kept once.
fn name(node: &str, names: &BTreeSet<Arc<str>>) -> Arc<str> {
    names.get(node).map_or_else(|| node.into(), Arc::clone)
}

fn conflicts(mode: Option<ConflictDetection>) -> liveness::Conflicts {
    match mode {
        None | Some(ConflictDetection::Probe) => liveness::Conflicts::Probe,
        Some(ConflictDetection::Passive) => liveness::Conflicts::Passive,
        Some(ConflictDetection::Disabled) => liveness::Conflicts::Ignore,
    }
}

fn timing(of: &Liveness) -> liveness::Timing {
    let usual = liveness::Timing::default();
    let multiplier = of.multiplier.map(|n| u8::try_from(n).unwrap_or(u8::MAX));
    liveness::Timing {
        interval: of.interval.unwrap_or(usual.interval),
        multiplier: multiplier.unwrap_or(usual.multiplier),
        grace: of.grace.unwrap_or(usual.grace),
        answer_for_owner: of.answer_for_owner.unwrap_or(usual.answer_for_owner),
    }
}

fn placement(placement: &Placement, names: &BTreeSet<Arc<str>>) -> liveness::Placement {
    liveness::Placement {
        owner: name(&placement.owner, names),
        standbys: placement.standbys.iter().map(|node| name(node, names)).collect(),
        epoch: placement.epoch,
    }
}

/// A placement as the core takes it.
pub(super) fn placement_back(placement: &liveness::Placement) -> Placement {
    Placement {
        owner: placement.owner.to_string(),
        standbys: placement.standbys.iter().map(ToString::to_string).collect(),
        epoch: placement.epoch,
    }
}

/// The interfaces that may be announced on now.
pub(super) fn links(states: &[InterfaceState], named: &BTreeSet<&str>, exclude: &[NamePattern]) -> Vec<liveness::Link> {
    let fits = |state: &&InterfaceState| {
        let exclude = if named.contains(state.name.as_str()) {
            &[]
        } else {
            exclude
        };
        let any = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        any.iter()
            .any(|family| suitable(state, *family, &InterfaceChoice::All, exclude).is_ok())
    };
    let link = |state: &InterfaceState| {
        Some(liveness::Link {
            interface: state.name.clone(),
            mac: state.mac?,
            addresses: state.addresses.iter().copied().collect(),
        })
    };
    states.iter().filter(fits).filter_map(link).collect()
}

/// What layer 2 has to do, as the guard says it.
pub(super) fn wanted(wanted: &liveness::Wanted) -> Arc<Wanted> {
    let want = |want: &liveness::Want| Want {
        interfaces: interfaces(&want.interfaces),
        role: match &want.role {
            liveness::Role::Own => ferrolb_l2::Role::Own,
            liveness::Role::StandIn(macs) => ferrolb_l2::Role::StandIn(macs.clone()),
            liveness::Role::Listen => ferrolb_l2::Role::Listen,
        },
        manner: manner(want.manner),
    };
    Arc::new(Wanted {
        addresses: wanted.addresses.iter().map(|(ip, of)| (*ip, want(of))).collect(),
        peers: wanted.peers.clone(),
        members: wanted.members.clone(),
    })
}

fn manner(of: liveness::Manner) -> Manner {
    Manner {
        refresh: of.refresh,
        conflicts: match of.conflicts {
            liveness::Conflicts::Probe => Conflicts::Probe,
            liveness::Conflicts::Passive => Conflicts::Passive,
            liveness::Conflicts::Ignore => Conflicts::Ignore,
        },
        subnet_check: of.subnet_check,
    }
}

fn interfaces(choice: &liveness::InterfaceChoice) -> InterfaceChoice {
    match choice {
        liveness::InterfaceChoice::All => InterfaceChoice::All,
        liveness::InterfaceChoice::Named(names) => InterfaceChoice::Named(names.clone()),
    }
}

/// A question to the wire.
pub(super) fn question(question: liveness::Question) -> ferrolb_l2::Question {
    ferrolb_l2::Question {
        id: question.id,
        addresses: question.addresses,
        interfaces: interfaces(&question.interfaces),
        tries: question.tries,
        gap: question.gap,
        probe: false,
    }
}

/// What layer 2 has heard.
pub(super) fn note(note: ferrolb_l2::Note) -> Option<liveness::Note> {
    Some(match note {
        ferrolb_l2::Note::Answer(answer) => liveness::Note::Answer {
            question: answer.question,
            address: answer.address,
            interface: answer.interface,
            mac: answer.mac,
            in_its_name: matches!(answer.is, ferrolb_l2::AnswerKind::InItsName { .. }),
        },
        ferrolb_l2::Note::Over { question, unasked } => liveness::Note::Over { question, unasked },
        ferrolb_l2::Note::Claimed {
            address,
            interface,
            mac,
        } => liveness::Note::Claimed {
            address,
            interface,
            mac,
        },
    })
}
