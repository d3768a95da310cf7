//! What `/readyz` says, as events on the object that stands for the program: its pod, or its node.
//!
//! An event is recorded when something new is wrong and has been for [`SETTLE`], and when nothing is wrong any more; not more often
//! than once in [`PAUSE`], so that a program whose luck changes all the time does not fill the list. What a check waits for
//! without having met trouble is none.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio_util::sync::CancellationToken;

use crate::events::{Note, Recorder};
use crate::readiness::{Readiness, Troubles};

/// What passes by itself within this time is not worth an event.
pub const SETTLE: Duration = Duration::from_secs(1);

/// The least time between two events.
const PAUSE: Duration = Duration::from_secs(10);

/// The reasons of the events, stable words.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Warning: the program is not ready.
    pub not_ready: &'static str,
    /// Warning: it is ready, and something is wrong all the same.
    pub warning: &'static str,
    /// Normal: nothing is wrong any more.
    pub ready: &'static str,
}

/// The pod of that name, of which the uid may not be known.
pub fn pod(namespace: &str, name: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// The node of that name.
pub fn node(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        // As the kubelet does it, so that kubectl shows it.
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Records what is wrong about `about` until `stop` is cancelled. The one task that waits for changes of `readiness`.
///
/// # Errors
/// Never.
pub async fn tell(
    readiness: Readiness,
    recorder: Recorder,
    about: ObjectReference,
    words: Words,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let work = async {
        let mut told = Troubles::default();
        loop {
            readiness.changed().await;
            tokio::time::sleep(SETTLE).await;
            let troubles = readiness.troubles();
            if let Some((warning, reason, message)) = event(&told, &troubles, words) {
                recorder.record(Note {
                    about: about.clone(),
                    warning,
                    reason,
                    message,
                });
                told = troubles;
                tokio::time::sleep(PAUSE).await;
                // It may have changed meanwhile, and that was not waited for.
                readiness.look_again();
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        never = work => never,
    }
}

/// The event about what is wrong now, when `told` was told last: whether it is a warning, its reason and its message.
fn event(told: &Troubles, now: &Troubles, words: Words) -> Option<(bool, &'static str, String)> {
    if told == now {
        return None;
    }
    let all = now.missing.iter().chain(&now.warnings).cloned().collect::<Vec<_>>();
    Some(match (now.missing.is_empty(), all.is_empty()) {
        (false, _) => (true, words.not_ready, format!("not ready: {}", all.join("; "))),
        (true, false) => (true, words.warning, all.join("; ")),
        (true, true) => (false, words.ready, "nothing is wrong any more".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words = Words {
        not_ready: "notReady",
        warning: "warning",
        ready: "ready",
    };

    fn troubles(missing: &[&str], warnings: &[&str]) -> Troubles {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
        Troubles {
            missing: lines(missing),
            warnings: lines(warnings),
        }
    }

    #[test]
    fn what_is_new_is_told_and_what_is_over() {
        let nothing = Troubles::default();
        assert_eq!(event(&nothing, &nothing, WORDS), None);
        let both = troubles(&["nodes: forbidden"], &["clock: late"]);
        let told = |text: &str| Some((true, "notReady", text.to_owned()));
        assert_eq!(
            event(&nothing, &both, WORDS),
            told("not ready: nodes: forbidden; clock: late")
        );
        assert_eq!(event(&both, &both, WORDS), None);
        let late = troubles(&[], &["clock: late"]);
        assert_eq!(
            event(&both, &late, WORDS),
            Some((true, "warning", "clock: late".to_owned()))
        );
        assert!(event(&late, &nothing, WORDS).is_some_and(|(warning, reason, _)| !warning && reason == "ready"));
    }
}
