//! `BFDProfile`.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::BfdProfile;

use crate::error::Report;
use crate::number::{milliseconds, number};

/// One profile. What it leaves open has the value that FRR uses.
pub(crate) fn bfd_profile(object: &ferrolb_api::BfdProfile, report: &mut Report) -> Option<Arc<BfdProfile>> {
    let spec = &object.spec;
    let mut interval = |field, value: Option<u32>, default: u64| {
        let given = milliseconds(report, field, value, 10..=60_000);
        given.unwrap_or(Duration::from_millis(default))
    };
    let receive_interval = interval("spec.receiveInterval", spec.receive_interval, 300);
    let transmit_interval = interval("spec.transmitInterval", spec.transmit_interval, 300);
    let echo_interval = interval("spec.echoInterval", spec.echo_interval, 50);
    let multiplier = spec.detect_multiplier.unwrap_or(3);
    let ttl = spec.minimum_ttl.unwrap_or(254);
    let detect_multiplier = number(report, "spec.detectMultiplier", multiplier, 2..=255);
    let minimum_ttl = number(report, "spec.minimumTtl", ttl, 1..=254);
    Some(Arc::new(BfdProfile {
        name: object.metadata.name.clone().unwrap_or_default(),
        receive_interval,
        transmit_interval,
        detect_multiplier: detect_multiplier?,
        echo_interval: spec.echo_mode.unwrap_or(false).then_some(echo_interval),
        passive: spec.passive_mode.unwrap_or(false),
        minimum_ttl: minimum_ttl?,
    }))
}
