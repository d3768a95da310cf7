//! What a pod's status says: a pure function of what its containers do.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting { reason: &'static str, message: String },
    Running { since: Timestamp },
    Ended(Ended),
}

/// A container as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) ready: bool,
    pub(super) started: bool,
    pub(super) restarts: i32,
}

impl View {
    /// A container that has not been started yet.
    pub(super) fn waiting(name: &str, image: &str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            image: image.to_owned(),
            state: State::Waiting {
                reason,
                message: message.into(),
            },
            last: None,
            ready: false,
            started: false,
            restarts: 0,
        }
    }

    fn json(&self) -> Value {
        let ended = |ended: &Ended| {
            json!({ "terminated": {
                "exitCode": ended.code,
                "reason": if ended.code == 0 { "Completed" } else { "Error" },
                "startedAt": time(ended.started),
                "finishedAt": time(ended.finished),
            } })
        };
        let state = match &self.state {
            State::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
            State::Running { since } => json!({ "running": { "startedAt": time(*since) } }),
            State::Ended(how) => ended(how),
        };
        json!({
            "name": self.name,
            "image": self.image,
            "imageID": self.image,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
            "lastState": self.last.as_ref().map_or(json!({}), ended),
        })
    }
}

fn time(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// What the containers of a pod do, all together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Containers {
    pub(super) init: Vec<View>,
    pub(super) main: Vec<View>,
    /// The pod is being deleted: nothing is started again.
    pub(super) ending: bool,
}

impl Containers {
    /// Whether every init container has ended well.
    fn initialized(&self) -> bool {
        self.init
            .iter()
            .all(|view| matches!(&view.state, State::Ended(ended) if ended.code == 0))
    }

    fn ready(&self) -> bool {
        self.initialized() && self.main.iter().all(|view| view.ready)
    }

    /// The pod's phase under its restart policy.
    pub(super) fn phase(&self, policy: &str) -> &'static str {
        let restarts = policy != "Never" && !self.ending;
        let failed = |view: &View| matches!(&view.state, State::Ended(ended) if ended.code != 0);
        if !self.initialized() {
            return if self.init.iter().any(failed) && !restarts {
                "Failed"
            } else {
                "Pending"
            };
        }
        let over = self.main.iter().all(|view| matches!(view.state, State::Ended(_)));
        if !over {
            let new = |view: &View| matches!(view.state, State::Waiting { .. }) && view.last.is_none();
            return if self.main.iter().any(new) {
                "Pending"
            } else {
                "Running"
            };
        }
        match (policy, self.main.iter().any(failed)) {
            ("Always", _) if !self.ending => "Running",
            ("OnFailure", true) if !self.ending => "Running",
            (_, true) => "Failed",
            (_, false) => "Succeeded",
        }
    }
}

/// Where the pod is.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) node: Vec<IpAddr>,
    /// Empty until the pod has its network.
    pub(super) pod: Vec<IpAddr>,
}

/// Makes statuses of one pod; remembers since when its conditions are what they are.
#[derive(Debug)]
pub(super) struct Builder {
    started: Timestamp,
    since: HashMap<&'static str, (bool, Timestamp)>,
}

impl Builder {
    /// The builder of a pod that was first seen at `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            since: HashMap::new(),
        }
    }

    /// The patch that brings the pod's status up to date; it touches nothing that others write.
    pub(super) fn patch(&mut self, pod: &Pod, place: &Place, containers: &Containers, now: Timestamp) -> Value {
        let policy = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            .unwrap_or("Always");
        let phase = containers.phase(policy);
        let over = matches!(phase, "Succeeded" | "Failed");
        let unready: Vec<&str> = containers
            .main
            .iter()
            .filter(|view| !view.ready)
            .map(|view| view.name.as_str())
            .collect();
        let why = match (over, unready.is_empty()) {
            (true, _) => ("PodCompleted", String::new()),
            (false, false) => (
                "ContainersNotReady",
                format!("containers with unready status: [{}]", unready.join(" ")),
            ),
            (false, true) => ("ReadinessGatesNotReady", "a readiness gate is not true".to_owned()),
        };
        let not_initialized = (
            "ContainersNotInitialized",
            "init containers have not all succeeded".to_owned(),
        );
        let ready = containers.ready() && !over;
        let conditions = [
            (
                "PodReadyToStartContainers",
                !place.pod.is_empty(),
                (("Sandbox"), String::new()),
            ),
            ("Initialized", containers.initialized(), not_initialized),
            ("ContainersReady", ready, why.clone()),
            ("Ready", ready && gates_open(pod), why),
        ]
        .map(|(kind, holds, (reason, message))| {
            let since = self.since.entry(kind).or_insert((holds, now));
            if since.0 != holds {
                *since = (holds, now);
            }
            let (reason, message) = if holds {
                (None, None)
            } else {
                (Some(reason), Some(message))
            };
            json!({
                "type": kind,
                "status": if holds { "True" } else { "False" },
                "lastTransitionTime": time(since.1),
                "reason": reason,
                "message": message,
            })
        });
        let views = |views: &[View]| views.iter().map(View::json).collect::<Vec<_>>();
        let mut status = json!({
            "phase": phase,
            "startTime": time(self.started),
            "conditions": conditions,
            "containerStatuses": views(&containers.main),
            "hostIP": place.node.first(),
            "hostIPs": place.node.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        });
        if !containers.init.is_empty() {
            status["initContainerStatuses"] = json!(views(&containers.init));
        }
        if let Some(first) = place.pod.first() {
            status["podIP"] = json!(first);
            status["podIPs"] = place.pod.iter().map(|ip| json!({ "ip": ip })).collect();
        }
        // A uid in a patch is a precondition: a new pod of the same name is not touched.
        json!({ "metadata": { "uid": pod.metadata.uid }, "status": status })
    }
}

/// Whether the conditions that the pod's readiness gates name are all true.
fn gates_open(pod: &Pod) -> bool {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    gates
        .into_iter()
        .all(|gate| conditions().any(|condition| condition.type_ == gate.condition_type && condition.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: State) -> View {
        View {
            state,
            ..View::waiting("c", "i", "ContainerCreating", "")
        }
    }

    fn waiting() -> View {
        View::waiting("c", "i", "ContainerCreating", "")
    }

    fn running(ready: bool) -> View {
        View {
            ready,
            started: true,
            ..view(State::Running {
                since: Timestamp::UNIX_EPOCH,
            })
        }
    }

    fn how(code: i32) -> Ended {
        Ended {
            code,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        }
    }

    fn ended(code: i32) -> View {
        view(State::Ended(how(code)))
    }

    fn backing_off() -> View {
        View {
            last: Some(how(1)),
            ..View::waiting("c", "i", "CrashLoopBackOff", "")
        }
    }

    #[test]
    fn phases_follow_containers_and_policy() {
        let phase = |policy: &str, ending: bool, init: Vec<View>, main: Vec<View>| {
            Containers { init, main, ending }.phase(policy)
        };
        for policy in ["Always", "OnFailure", "Never"] {
            assert_eq!(phase(policy, false, vec![], vec![waiting()]), "Pending");
            assert_eq!(phase(policy, false, vec![], vec![running(false)]), "Running");
            assert_eq!(phase(policy, false, vec![waiting()], vec![waiting()]), "Pending");
            assert_eq!(phase(policy, false, vec![ended(0)], vec![running(true)]), "Running");
            assert_eq!(phase(policy, true, vec![], vec![ended(0)]), "Succeeded");
            assert_eq!(phase(policy, true, vec![], vec![ended(143)]), "Failed");
        }
        assert_eq!(phase("Always", false, vec![], vec![ended(0)]), "Running");
        assert_eq!(phase("Always", false, vec![], vec![backing_off()]), "Running");
        assert_eq!(phase("OnFailure", false, vec![], vec![ended(1)]), "Running");
        assert_eq!(phase("OnFailure", false, vec![], vec![ended(0)]), "Succeeded");
        assert_eq!(phase("Never", false, vec![], vec![ended(1), ended(0)]), "Failed");
        assert_eq!(phase("Never", false, vec![ended(1)], vec![waiting()]), "Failed");
        assert_eq!(phase("Never", false, vec![], vec![running(true), ended(0)]), "Running");
    }

    fn condition<'a>(patch: &'a Value, kind: &str) -> &'a Value {
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == kind).unwrap()
    }

    #[test]
    fn ready_says_why_not_and_since_when() {
        let pod = Pod::default();
        let place = Place {
            node: vec![],
            pod: vec!["10.0.0.2".parse().unwrap()],
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut builder = Builder::new(at(0));
        let mut patch = |ready, now| {
            let main = vec![running(ready)];
            builder.patch(
                &pod,
                &place,
                &Containers {
                    main,
                    ..Containers::default()
                },
                at(now),
            )
        };
        let first = patch(false, 1);
        assert_eq!(condition(&first, "Ready")["status"], "False");
        assert_eq!(
            condition(&first, "Ready")["message"],
            "containers with unready status: [c]"
        );
        assert_eq!(condition(&first, "Initialized")["status"], "True");
        assert_eq!(
            condition(&patch(false, 2), "Ready")["lastTransitionTime"],
            "1970-01-01T00:00:01Z"
        );
        let ready = patch(true, 3);
        assert_eq!(condition(&ready, "Ready")["status"], "True");
        assert_eq!(condition(&ready, "Ready")["lastTransitionTime"], "1970-01-01T00:00:03Z");
        assert_eq!(condition(&ready, "Ready")["reason"], Value::Null);
        assert_eq!(ready["status"]["podIPs"], json!([{ "ip": "10.0.0.2" }]));
    }

    #[test]
    fn a_readiness_gate_holds_ready_back() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {}, "spec": { "containers": [], "readinessGates": [{ "conditionType": "example/up" }] },
        }))
        .unwrap();
        let containers = Containers {
            main: vec![running(true)],
            ..Containers::default()
        };
        let patch =
            Builder::new(Timestamp::UNIX_EPOCH).patch(&pod, &Place::default(), &containers, Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&patch, "ContainersReady")["status"], "True");
        assert_eq!(condition(&patch, "Ready")["status"], "False");
    }

    #[test]
    fn a_finished_pod_is_not_ready() {
        let containers = Containers {
            main: vec![View {
                ready: true,
                ..ended(0)
            }],
            ending: true,
            init: vec![],
        };
        let now = Timestamp::UNIX_EPOCH;
        let patch = Builder::new(now).patch(&Pod::default(), &Place::default(), &containers, now);
        assert_eq!(condition(&patch, "Ready")["reason"], "PodCompleted");
        assert_eq!(
            patch["status"]["containerStatuses"][0]["state"]["terminated"]["reason"],
            "Completed"
        );
    }
}
