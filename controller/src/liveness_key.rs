//! The keys that speakers sign their heartbeats with: made once, changed from time to time, without a moment in which a
//! speaker does not believe another.
//!
//! A change takes three steps, each long after the one before, so that every speaker has heard of it: a new key is
//! believed; it signs; the old one is forgotten. Only the replica that leads takes a step, and the resourceVersion of
//! what it read guards the write. A Secret that cannot be read is made anew, because without it nobody fails over.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use ferrolb_api::names::{CONTROLLER_MANAGER, liveness_secret};
use ferrolb_model::{LIVENESS_KEY, LivenessKeys};
use ferrolb_runtime::apply::{self, Failure};
use ferrolb_runtime::leader::Leadership;
use ferrolb_runtime::readiness::Readiness;
use ferrolb_runtime::write_health::WriteHealth;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Between two looks at the Secret.
const LOOK: Duration = Duration::from_secs(60);

/// Between two looks after one that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// A key signs for this long.
const LIFETIME: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Between two steps of a change. Every speaker that reaches the API server hears of a step within seconds.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);

/// Keeps the Secret.
pub(crate) struct Keeper {
    secrets: Api<Secret>,
    leadership: Leadership,
    reads: WriteHealth,
    writes: WriteHealth,
}

impl Keeper {
    pub(crate) fn new(client: Client, namespace: &str, leadership: Leadership, readiness: &Readiness) -> Self {
        Keeper {
            secrets: Api::namespaced(client, namespace),
            leadership,
            reads: WriteHealth::new(readiness, "get secrets"),
            writes: WriteHealth::new(readiness, "create and patch secrets"),
        }
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.leadership.gained() => {}
            }
            let pause = if self.look().await { LOOK } else { AGAIN };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads the Secret and takes the step that is due; whether all went well.
    async fn look(&mut self) -> bool {
        let now = std::time::Instant::now();
        let read = self.secrets.get_opt(liveness_secret::NAME).await.map_err(Failure::from);
        let result = read.as_ref().map(drop).map_err(Clone::clone);
        self.reads.outcome(&result, liveness_secret::NAME, now);
        let Ok(secret) = read else { return false };
        let Some(keys) = due(secret.as_ref(), Timestamp::now()) else {
            return true;
        };
        let written = self.write(secret.as_ref(), &keys).await;
        self.writes.outcome(&written, liveness_secret::NAME, now);
        if written.is_ok() {
            info!(
                secret = liveness_secret::NAME,
                signing = keys.signing,
                believed = keys.keys.len(),
                "changed the keys of the speakers' heartbeats"
            );
        }
        written.is_ok()
    }

    async fn write(&self, old: Option<&Secret>, keys: &LivenessKeys) -> Result<(), Failure> {
        let changed = (liveness_secret::CHANGED.to_owned(), Timestamp::now().to_string());
        let mut data = ferrolb_config::liveness_data(keys);
        let Some(old) = old else {
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(liveness_secret::NAME.to_owned()),
                    annotations: Some(BTreeMap::from([changed])),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..Secret::default()
            };
            let params = PostParams {
                field_manager: Some(CONTROLLER_MANAGER.to_owned()),
                ..PostParams::default()
            };
            self.secrets.create(&params, &secret).await?;
            return Ok(());
        };
        // What is not named in a merge patch stays: old keys have to be named to go.
        let gone = old.data.iter().flatten().map(|(name, _)| name);
        let gone = gone.filter(|name| name.starts_with(liveness_secret::KEY) && !data.contains_key(*name));
        let mut patch = json!(gone.map(|name| (name.clone(), None::<()>)).collect::<BTreeMap<_, _>>());
        for (name, value) in std::mem::take(&mut data) {
            patch[name] = json!(value);
        }
        let body = json!({ "metadata": { "annotations": { changed.0: changed.1 } }, "data": patch });
        let version = old.resource_version().unwrap_or_default();
        apply::merge(&self.secrets, liveness_secret::NAME, &version, CONTROLLER_MANAGER, body).await?;
        Ok(())
    }
}

/// The keys that are to stand in the Secret now; `None` when those that do are right.
fn due(secret: Option<&Secret>, now: Timestamp) -> Option<LivenessKeys> {
    let Some(secret) = secret else {
        return fresh_key().map(first);
    };
    let keys = match ferrolb_config::liveness_keys(secret) {
        Ok(keys) => keys,
        Err(error) => {
            warn!(
                secret = liveness_secret::NAME,
                "cannot be used and is made anew: {error}"
            );
            return fresh_key().map(first);
        }
    };
    let changed = secret.annotations().get(liveness_secret::CHANGED);
    let changed: Option<Timestamp> = changed.and_then(|text| text.parse().ok());
    // Keys that somebody else made are as old as can be.
    let age = changed.map_or(LIFETIME, |at| now.duration_since(at));
    step(keys, age, fresh_key)
}

fn first(key: [u8; LIVENESS_KEY]) -> LivenessKeys {
    LivenessKeys {
        signing: 1,
        keys: BTreeMap::from([(1, key)]),
    }
}

/// The next step of a change, if one is due `age` after the last.
fn step(
    mut keys: LivenessKeys,
    age: SignedDuration,
    fresh: impl FnOnce() -> Option<[u8; LIVENESS_KEY]>,
) -> Option<LivenessKeys> {
    let newest = *keys.keys.last_key_value()?.0;
    if keys.keys.len() == 1 {
        let next = newest.checked_add(1).filter(|_| age >= LIFETIME)?;
        keys.keys.insert(next, fresh()?);
    } else if age < SETTLED {
        return None;
    } else if keys.signing == newest {
        keys.keys.retain(|number, _| *number == newest);
    } else {
        keys.signing = newest;
    }
    Some(keys)
}

/// A key from the kernel's random numbers; `None`, with a line in the log, if it has none to give.
fn fresh_key() -> Option<[u8; LIVENESS_KEY]> {
    let mut key = [0; LIVENESS_KEY];
    match getrandom::fill(&mut key) {
        Ok(()) => Some(key),
        Err(error) => {
            warn!("no random numbers for a key: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_takes_three_steps() {
        let fresh = || Some([9; LIVENESS_KEY]);
        let one = first([1; LIVENESS_KEY]);
        let second = SignedDuration::from_secs(1);
        assert_eq!(step(one.clone(), LIFETIME - second, fresh), None);
        assert_eq!(
            step(one.clone(), LIFETIME, || None),
            None,
            "no random numbers, no change"
        );
        let both = step(one, LIFETIME, fresh).unwrap();
        assert_eq!(
            (both.signing, both.keys.len()),
            (1, 2),
            "everybody has to know it first"
        );
        assert_eq!(step(both.clone(), SETTLED - second, fresh), None);
        let signs = step(both, SETTLED, fresh).unwrap();
        assert_eq!(
            (signs.signing, signs.keys.len()),
            (2, 2),
            "the old one is still under way"
        );
        assert_eq!(step(signs.clone(), SETTLED - second, fresh), None);
        let alone = step(signs, SETTLED, fresh).unwrap();
        assert_eq!(
            (alone.signing, alone.keys.len(), alone.keys[&2]),
            (2, 1, [9; LIVENESS_KEY])
        );
        assert_eq!(step(alone, SETTLED, fresh), None);
    }

    #[test]
    fn what_is_missing_or_useless_is_made() {
        let now = Timestamp::now();
        let made = due(None, now).unwrap();
        assert_eq!((made.signing, made.keys.len()), (1, 1));
        assert_ne!(made.keys, due(None, now).unwrap().keys, "never the same");
        assert!(due(Some(&Secret::default()), now).is_some());
        let mut good = Secret {
            data: Some(ferrolb_config::liveness_data(&made)),
            ..Secret::default()
        };
        assert_eq!(
            due(Some(&good), now).unwrap().keys.len(),
            2,
            "nobody knows how old it is"
        );
        let changed = (liveness_secret::CHANGED.to_owned(), now.to_string());
        good.metadata.annotations = Some(BTreeMap::from([changed]));
        assert_eq!(due(Some(&good), now), None);
    }
}
