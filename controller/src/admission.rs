//! Whether the namespace of the installation admits the speakers' pods: they use the host's network and raw sockets, which only
//! the level `privileged` of Pod Security does. The DaemonSet's own events say that pods are refused, but nobody looks there
//! before knowing that speakers are missing; and pods that run already go on until the day they are made anew.

use ferrolb_model::Labels;
use ferrolb_runtime::readiness::{Check, Readiness};
use tracing::{info, warn};

/// The label that has the level below which pods are refused
/// (<https://kubernetes.io/docs/concepts/security/pod-security-admission/>).
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What is known of the namespace.
#[derive(Debug)]
pub(crate) struct Admission {
    namespace: String,
    check: Check,
    refuses: bool,
}

impl Admission {
    pub(crate) fn new(readiness: &Readiness, namespace: &str) -> Self {
        Admission {
            namespace: namespace.to_owned(),
            check: readiness.sound_check("namespace"),
            refuses: false,
        }
    }

    /// The namespace has these labels now, or is not there.
    pub(crate) fn labelled(&mut self, labels: Option<&Labels>) {
        let why = labels.and_then(|labels| refusal(&self.namespace, labels));
        let refused = std::mem::replace(&mut self.refuses, why.is_some());
        match why {
            Some(why) => {
                warn!("{why}");
                self.check.warn(why);
            }
            None if refused => {
                info!(namespace = self.namespace, "the namespace admits speakers again");
                self.check.ready();
            }
            None => {}
        }
    }
}

fn refusal(namespace: &str, labels: &Labels) -> Option<String> {
    let level = labels.get(ENFORCE).filter(|level| *level != "privileged")?;
    Some(format!(
        "the label {ENFORCE}={level} of namespace {namespace:?} keeps new pods of the speakers out, which need the host's network and \
         NET_RAW: kubectl label --overwrite namespace {namespace} {ENFORCE}=privileged"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_privileged_level_admits_speakers() {
        let readiness = Readiness::default();
        let mut admission = Admission::new(&readiness, "lb");
        for (level, refuses) in [
            (Some("restricted"), true),
            (Some("privileged"), false),
            (Some("baseline"), true),
            (None, false),
        ] {
            let labels = level.map(|level| (ENFORCE.to_owned(), level.to_owned()));
            admission.labelled(Some(&labels.into_iter().collect()));
            let warnings = readiness.troubles().warnings;
            assert_eq!(!warnings.is_empty(), refuses, "{level:?}: {warnings:?}");
        }
    }
}
