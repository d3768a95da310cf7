//! The controller's ConfigurationState: what it makes of the configuration, object by object, and the last good versions
//! of objects that are wrong, for the process that comes after this one.
//!
//! Written when the verdict changes, tried again until it stands, and made anew when somebody deletes it.

use std::time::{Duration, Instant};

use ferrolb_api::names::{CONTROLLER_MANAGER, annotations, configuration_state as names, labels};
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
    /// The last request to rebalance that was answered, and the answer.
    rebalanced: Option<String>,
    /// This process has answered one, so what stands in the object may be older than what it knows.
    has_answered: bool,
    busy: bool,
    stands: bool,
    due: Option<Instant>,
}

/// What was found in the configuration, one line for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Mistakes.
    pub(crate) errors: Vec<String>,
    /// What is in force and likely to be a mistake.
    pub(crate) warnings: Vec<String>,
    /// The last good versions of objects that are wrong.
    pub(crate) last_good: Option<String>,
}

/// One verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    errors: String,
    warnings: String,
    last_good: Option<String>,
    /// Since when the configuration is valid or invalid.
    since: Timestamp,
}

impl State {
    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

impl Verdict {
    /// The verdict is this now.
    pub(crate) fn want(&mut self, findings: Findings, now: Instant, time: Timestamp) {
        let lines = |lines: &[String]| shortened(lines.join("\n"), MAX_MESSAGE);
        let mut state = State {
            errors: lines(&findings.errors),
            warnings: lines(&findings.warnings),
            last_good: findings.last_good,
            since: time,
        };
        if let Some(old) = &self.wanted {
            if old.is_valid() == state.is_valid() {
                state.since = old.since;
            }
            if *old == state {
                return;
            }
        }
        self.wanted = Some(state);
        self.stands = false;
        self.due = Some(now);
    }

    /// The answer that stands in the object: while this process stands by, another one's.
    pub(crate) fn inherit(&mut self, rebalanced: Option<String>) {
        if !self.has_answered {
            self.rebalanced = rebalanced.or(self.rebalanced.take());
        }
    }

    /// Whether the last answer is to this request.
    pub(crate) fn has_answered(&self, request: &str) -> bool {
        let answered = self.rebalanced.as_deref().and_then(|text| text.rsplit_once(": "));
        answered.is_some_and(|(answered, _)| answered == request)
    }

    /// A request to rebalance is answered. The message has no colon.
    pub(crate) fn answer(&mut self, request: &str, message: &str, now: Instant) {
        self.rebalanced = Some(format!("{request}: {message}"));
        self.has_answered = true;
        self.stands = false;
        self.due = Some(now);
    }

    /// Somebody deleted the object.
    pub(crate) fn gone(&mut self, now: Instant) {
        self.stands = false;
        self.due = Some(now);
    }

    /// The state to write now, and the answer beside it; how that went comes back through [`Verdict::written`].
    pub(crate) fn due(&mut self, now: Instant) -> Option<(State, Option<String>)> {
        if self.busy || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        let state = self.wanted.clone().filter(|_| !self.stands)?;
        self.busy = true;
        self.stands = true;
        Some((state, self.rebalanced.clone()))
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
pub(crate) async fn write(
    client: Client,
    namespace: String,
    state: State,
    rebalanced: Option<String>,
) -> Result<(), Failure> {
    let states = Api::<PartialObjectMeta<ConfigurationState>>::namespaced(client, &namespace);
    let params = PatchParams::apply(CONTROLLER_MANAGER).force();
    apply::within(states.patch(
        names::CONTROLLER,
        &params,
        &Patch::Apply(object(&state, rebalanced.as_ref())),
    ))
    .await?;
    apply::apply_status(&states, names::CONTROLLER, CONTROLLER_MANAGER, status(&state)).await?;
    Ok(())
}

fn object(state: &State, rebalanced: Option<&String>) -> Value {
    let mut metadata = json!({ "name": names::CONTROLLER, "labels": { labels::COMPONENT_TYPE: "controller" } });
    // An annotation that is not applied again is removed.
    let ours = [
        (annotations::LAST_GOOD, state.last_good.as_ref()),
        (annotations::REBALANCED, rebalanced),
    ];
    for (name, value) in ours {
        if let Some(value) = value {
            metadata["annotations"][name] = json!(value);
        }
    }
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ConfigurationState",
        "metadata": metadata,
    })
}

fn status(state: &State) -> Value {
    let (result, status, reason, message) = if state.is_valid() {
        (ConfigurationResult::Valid, "True", names::RECONCILED, &state.warnings)
    } else {
        (
            ConfigurationResult::Invalid,
            "False",
            names::CONFIGURATION_ERROR,
            &state.errors,
        )
    };
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ConfigurationState",
        "status": {
            "result": result,
            "errorSummary": state.errors,
            "conditions": [{
                "type": names::POOLS_VALID,
                "status": status,
                "reason": reason,
                "message": message,
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
        let wrong = || Findings {
            errors: vec!["pool a: overlaps".to_owned()],
            last_good: Some("[]".to_owned()),
            ..Findings::default()
        };
        let mut verdict = Verdict::default();
        assert_eq!(verdict.due(now), None, "nothing looked at yet");
        verdict.want(Findings::default(), now, time);
        let (state, _) = verdict.due(now).unwrap();
        assert_eq!(status(&state)["status"]["result"], "Valid");
        verdict.want(wrong(), now, later);
        assert_eq!(verdict.due(now), None, "one write at a time");
        verdict.written(&Ok(()), now);
        let (state, rebalanced) = verdict.due(now).unwrap();
        assert_eq!(
            status(&state)["status"]["conditions"][0]["lastTransitionTime"],
            "2026-01-02T03:04:05Z"
        );
        let object = object(&state, rebalanced.as_ref());
        assert_eq!(
            object["metadata"]["annotations"],
            json!({ annotations::LAST_GOOD: "[]" })
        );
        verdict.written(&Err(Failure::Conflict), now);
        assert_eq!(verdict.due(now), None);
        assert!(verdict.due(now + RETRY).is_some());
        verdict.written(&Ok(()), now);
        verdict.want(wrong(), now, time);
        assert_eq!(verdict.due(now), None, "the same again");
        verdict.gone(now);
        assert!(verdict.due(now).is_some());
    }

    #[test]
    fn who_stands_by_knows_what_was_answered_meanwhile() {
        let answer = |text: &str| Some(format!("{text}: moved 2 addresses, as many as it may"));
        let now = Instant::now();
        let mut verdict = Verdict::default();
        verdict.want(Findings::default(), now, Timestamp::UNIX_EPOCH);
        for text in ["1", "2"] {
            verdict.inherit(answer(text));
            verdict.inherit(None);
            assert!(verdict.has_answered(text), "{text}");
        }
        // It leads now, and hears of its own answer later.
        verdict.answer("3", "moved 2 addresses, as many as it may", now);
        verdict.inherit(answer("2"));
        assert!(verdict.has_answered("3") && !verdict.has_answered("2"));
        let (state, rebalanced) = verdict.due(now).unwrap();
        assert_eq!(rebalanced, answer("3"));
        let object = object(&state, rebalanced.as_ref());
        assert_eq!(
            object["metadata"]["annotations"],
            json!({ annotations::REBALANCED: rebalanced })
        );
        verdict.written(&Ok(()), now);
        verdict.want(Findings::default(), now, Timestamp::UNIX_EPOCH);
        assert_eq!(verdict.due(now), None, "it stands");
    }

    #[test]
    fn a_warning_leaves_the_configuration_valid() {
        let mut verdict = Verdict::default();
        let warned = Findings {
            warnings: vec!["pool a: contains a node".to_owned()],
            ..Findings::default()
        };
        verdict.want(warned, Instant::now(), Timestamp::UNIX_EPOCH);
        let (state, _) = verdict.due(Instant::now()).unwrap();
        let status = &status(&state)["status"];
        assert_eq!(
            (&status["result"], &status["errorSummary"]),
            (&json!("Valid"), &json!(""))
        );
        assert_eq!(status["conditions"][0]["message"], "pool a: contains a node");
        assert!(object(&state, None)["metadata"].get("annotations").is_none());
    }
}
