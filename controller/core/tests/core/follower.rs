//! A controller that stands by: it takes everything in and asks for nothing, until it takes over.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ferrolb_controller_core::{Controller, Input, Settings};
use ferrolb_model::ServiceId;
use proptest::prelude::*;

use crate::fixtures::*;
use crate::lab::Lab;

#[derive(Clone, Debug)]
enum Op {
    Apply(u8),
    Delete(u8),
    Pool(u8),
    Block(u8),
    Unblock(u8),
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6u8).prop_map(Op::Apply),
        2 => (0..6u8).prop_map(Op::Delete),
        1 => (0..3u8).prop_map(Op::Pool),
        1 => (0..6u8).prop_map(Op::Block),
        1 => (0..6u8).prop_map(Op::Unblock),
        3 => Just(Op::Settle),
    ]
}

/// What is there now, and what has gone since `before`.
fn news(lab: &Lab, before: &Lists) -> Vec<Input> {
    let now = Lists::of(lab);
    let gone = before.services.difference(&now.services).cloned();
    let mut inputs = gone.map(Input::ServiceGone).collect::<Vec<_>>();
    let gone = before.addresses.difference(&now.addresses);
    inputs.extend(gone.map(|address| Input::VirtualIpGone(*address)));
    inputs.extend(lab.lists());
    inputs
}

#[derive(Default)]
struct Lists {
    services: BTreeSet<ServiceId>,
    addresses: BTreeSet<IpAddr>,
}

impl Lists {
    fn of(lab: &Lab) -> Self {
        Lists {
            services: lab.services.keys().cloned().collect(),
            addresses: lab.virtual_ips.keys().copied().collect(),
        }
    }
}

proptest! {
    #[test]
    fn one_that_followed_does_what_one_that_lists_would_do(ops in prop::collection::vec(op(), 1..40)) {
        let mut lab = Lab::started([pool("a", &["192.0.2.1-192.0.2.4"])]);
        let mut follower = Controller::new(Settings::default());
        let mut told = Lists::default();
        for op in ops {
            match op {
                Op::Apply(n) => lab.apply(service(&format!("s{n}"), n.into())),
                Op::Delete(n) => lab.delete(&format!("s{n}")),
                Op::Pool(n) => {
                    let range = ["192.0.2.1-192.0.2.4", "192.0.2.3-192.0.2.9", "192.0.2.2/32"][usize::from(n)];
                    lab.set_config(config([pool("a", &[range])]));
                }
                Op::Block(n) => lab.put_virtual_ip(virtual_ip(&format!("192.0.2.{n}"), &[])),
                Op::Unblock(n) => lab.delete_virtual_ip(&format!("192.0.2.{n}")),
                Op::Settle => lab.settle(),
            }
            for input in news(&lab, &told) {
                prop_assert_eq!(follower.handle(input, lab.now), []);
            }
            told = Lists::of(&lab);
        }
        let mut fresh = Controller::new(Settings::default());
        for input in lab.lists() {
            prop_assert_eq!(fresh.handle(input, lab.now), []);
        }
        prop_assert_eq!(follower.handle(Input::Synced, lab.now), fresh.handle(Input::Synced, lab.now));
    }
}
