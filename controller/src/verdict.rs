//! The controller's ConfigurationState: what it makes of the configuration, object by object.
//!
//! Written when the verdict changes, tried again until it stands, and made anew when somebody deletes it.

use std::time::{Duration, Instant};

use ferrolb_api::names::{CONTROLLER_MANAGER, configuration_state as names, labels};
use ferrolb_api::{ConfigurationResult, ConfigurationState};
use ferrolb_runtime::apply::{self, Failure};
use ferrolb_runtime::text::shortened;
use jiff::Timestamp;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::writes::seconds;

/// Time before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A condition's message holds this much; the API server refuses more.
const MAX_MESSAGE: usize = 32 * 1024;

/// What should stand in the object, and whether it does.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    wanted: Option<State>,
    busy: bool,
    stands: bool,
    due: Option<Instant>,
}

/// One verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// One line per object that is left out.
    lines: String,
    /// Since when the verdict is valid or invalid.
    since: Timestamp,
}

impl Verdict {
    /// The verdict is this now: one line per object that is left out, none when all are in force.
    pub(crate) fn want(&mut self, lines: &[String], now: Instant, time: Timestamp) {
        let lines = shortened(lines.join("\n"), MAX_MESSAGE);
        let old = self.wanted.as_ref();
        if old.is_some_and(|old| old.lines == lines) {
            return;
        }
        let since = old
            .filter(|old| old.lines.is_empty() == lines.is_empty())
            .map_or(time, |old| old.since);
        self.wanted = Some(State { lines, since });
        self.stands = false;
        self.due = Some(now);
    }

    /// Somebody deleted the object.
    pub(crate) fn gone(&mut self, now: Instant) {
        self.stands = false;
        self.due = Some(now);
    }

    /// The state to write now; its outcome comes back through [`Verdict::written`].
    pub(crate) fn due(&mut self, now: Instant) -> Option<State> {
        if self.busy || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        let state = self.wanted.clone().filter(|_| !self.stands)?;
        self.busy = true;
        self.stands = true;
        Some(state)
    }

    /// A write has ended.
    pub(crate) fn written(&mut self, result: &Result<(), Failure>, now: Instant) {
        self.busy = false;
        if result.is_err() {
            self.stands = false;
            self.due = Some(now + RETRY);
        } else if !self.stands {
            self.due = Some(now);
        }
    }

    /// When to ask [`Verdict::due`] again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.filter(|_| !self.busy)
    }
}

/// Makes the object if need be and writes its status. Both by forced server-side apply: the object is the controller's.
pub(crate) async fn write(client: Client, namespace: String, state: State) -> Result<(), Failure> {
    let states = Api::<PartialObjectMeta<ConfigurationState>>::namespaced(client, &namespace);
    let params = PatchParams::apply(CONTROLLER_MANAGER).force();
    apply::within(states.patch(names::CONTROLLER, &params, &Patch::Apply(object()))).await?;
    apply::apply_status(&states, names::CONTROLLER, CONTROLLER_MANAGER, status(&state)).await?;
    Ok(())
}

fn object() -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ConfigurationState",
        "metadata": { "name": names::CONTROLLER, "labels": { labels::COMPONENT_TYPE: "controller" } },
    })
}

fn status(state: &State) -> Value {
    let valid = state.lines.is_empty();
    let (result, status, reason) = if valid {
        (ConfigurationResult::Valid, "True", names::RECONCILED)
    } else {
        (ConfigurationResult::Invalid, "False", names::CONFIGURATION_ERROR)
    };
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ConfigurationState",
        "status": {
            "result": result,
            "errorSummary": state.lines,
            "conditions": [{
                "type": names::POOLS_VALID,
                "status": status,
                "reason": reason,
                "message": state.lines,
                "lastTransitionTime": seconds(state.since),
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_on_change_and_until_it_stands() {
        let now = Instant::now();
        let time = Timestamp::UNIX_EPOCH;
        let later = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut verdict = Verdict::default();
        assert_eq!(verdict.due(now), None, "nothing looked at yet");
        verdict.want(&[], now, time);
        let state = verdict.due(now).unwrap();
        assert_eq!(status(&state)["status"]["result"], "Valid");
        verdict.want(&["pool a: overlaps".to_owned()], now, later);
        assert_eq!(verdict.due(now), None, "one write at a time");
        verdict.written(&Ok(()), now);
        let state = verdict.due(now).unwrap();
        assert_eq!(
            status(&state)["status"]["conditions"][0]["lastTransitionTime"],
            "2026-01-02T03:04:05Z"
        );
        verdict.written(&Err(Failure::Conflict), now);
        assert_eq!(verdict.due(now), None);
        assert!(verdict.due(now + RETRY).is_some());
        verdict.written(&Ok(()), now);
        verdict.want(&["pool a: overlaps".to_owned()], now, time);
        assert_eq!(verdict.due(now), None, "the same again");
        verdict.gone(now);
        assert!(verdict.due(now).is_some());
    }
}
