//! The checks bite: a core whose effects are falsified is caught, by the rule that it breaks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_controller_core::{Effect, Write};
use ferrolb_model::{Claim, ServiceId};
use ferrolb_sim::Sabotage;

/// By then a seed has met what is falsified.
const SEEDS: u64 = 60;

/// Plays seeds with a fresh saboteur each until one is caught by a rule whose words contain `rule`.
fn caught(rule: &str, saboteur: impl Fn() -> Sabotage) {
    let mut others = Vec::new();
    for seed in 1..=SEEDS {
        match ferrolb_sim::run_sabotaged(seed, saboteur()) {
            Err(failure) if failure.what.contains(rule) => return,
            Err(failure) => others.push(failure.what),
            Ok(_) => {}
        }
    }
    panic!("nobody says {rule:?}, but {others:?}");
}

/// Falsifies writes one by one; `false` leaves the write out.
fn each(mut falsify: impl FnMut(&mut Write) -> bool + 'static) -> Sabotage {
    Box::new(move |effects| {
        effects.retain_mut(|effect| match effect {
            Effect::Write(write) => falsify(write),
            Effect::Event(_) | Effect::Rebalanced { .. } => true,
        });
    })
}

#[test]
fn an_address_shown_without_its_claim() {
    caught("without a claim", || {
        each(|write| {
            if let Write::SetServiceStatus { ingress, .. } = write {
                ingress.push(IpAddr::from([10, 0, 2, 9]));
            }
            true
        })
    });
}

#[test]
fn an_address_that_is_taken_away() {
    caught("without a cause", || {
        let mut given = BTreeMap::<ServiceId, usize>::new();
        each(move |write| {
            if let Write::SetServiceStatus { service, ingress, .. } = write {
                let count = given.entry(service.clone()).or_default();
                *count += 1;
                if *count > 1 {
                    ingress.clear();
                }
            }
            true
        })
    });
}

#[test]
fn an_address_that_nobody_is_asked_about() {
    caught("nobody is asked", || {
        each(|write| {
            if let Write::CreateVirtualIp { prober, .. } = write {
                *prober = None;
            }
            true
        })
    });
}

#[test]
fn a_claim_for_two_that_may_not_share() {
    caught("may not share", || {
        let mut claimed = Vec::<Claim>::new();
        each(move |write| {
            if let Write::CreateVirtualIp { claims, .. } = write {
                let other = claimed
                    .iter()
                    .find(|c| claims.iter().all(|own| own.service != c.service));
                let other = other.cloned();
                claimed.extend(claims.iter().cloned());
                claims.extend(other);
            }
            true
        })
    });
}

#[test]
fn an_address_of_no_pool() {
    caught("it is in no pool", || {
        each(|write| {
            if let Write::CreateVirtualIp { address, .. } = write {
                *address = IpAddr::from([198, 51, 100, 1]);
            }
            true
        })
    });
}

#[test]
fn a_claim_that_goes_too_early() {
    caught("while", || {
        each(|write| {
            if let Write::SetVirtualIpStatus {
                address,
                resource_version,
                ..
            } = write
            {
                *write = Write::UpdateVirtualIp {
                    address: *address,
                    pool: None,
                    claims: Vec::new(),
                    sharing_key: None,
                    resource_version: resource_version.clone(),
                };
            }
            true
        })
    });
}

#[test]
fn two_writes_at_once() {
    caught("two writes under way", || {
        Box::new(|effects| {
            let again = effects.first().cloned();
            effects.extend(again);
        })
    });
}

#[test]
fn a_service_that_is_forgotten() {
    caught("does not show it", || {
        each(|write| !matches!(write, Write::SetServiceStatus { .. }))
    });
}

#[test]
fn a_claim_for_nobody() {
    caught("which does not exist", || {
        each(|write| {
            if let Write::CreateVirtualIp { claims, .. } = write {
                claims[0].service = ServiceId::new("red", "nobody");
            }
            true
        })
    });
}

#[test]
fn a_takeover_that_is_undone() {
    caught("goes back", || {
        each(|write| {
            if let Write::SetVirtualIpStatus {
                placement: Some(placement),
                ..
            } = write
            {
                placement.epoch = 1;
            }
            true
        })
    });
}
