//! Who else gives addresses in the cluster: another FerroLB, known by the Lease of its leader, or MetalLB for the same
//! Services, known by its Deployment, whatever that is called. Two that do not know of each other write over each other's work
//! without end.
//!
//! **Who works goes on, who comes later waits.** A controller stands for election only once it has found nobody else; until then it is
//! not ready and says who is in its way, and its cluster hears nothing of it but that. From then on it looks from time to time. Of two FerroLBs that found
//! nobody at the same moment, the one that leads longer goes on and the other ends, to wait when it is started again. Beside a MetalLB that is installed later
//! it goes on and warns: what MetalLB keeps writing over is left alone (`Reason::ForeignWriter`).
//!
//! Nothing of this is what keeps an address from having two holders: that is the claim. It keeps two programs with different
//! configurations from undoing each other's decisions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferrolb_runtime::apply::Failure;
use ferrolb_runtime::leader::{Leadership, TIMING};
use ferrolb_runtime::readiness::{Check, Readiness};
use ferrolb_runtime::write_health::WriteHealth;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client, ResourceExt};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Between two looks while somebody is in the way, and while nobody is.
const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(10);

/// A Lease that was not renewed for this long is nobody's: longer than any that FerroLB makes.
const DEAD: Duration = TIMING.lease.saturating_add(Duration::from_secs(5));

/// What the workloads of MetalLB are called by its manifest, and by its chart when the release is called so.
const CONTROLLERS: [&str; 2] = ["controller", "metallb-controller"];
const SPEAKERS: [&str; 2] = ["speaker", "metallb-speaker"];

/// MetalLB's controller answers the API server's questions behind this Service, which has that name in any release.
const WEBHOOK: &str = "metallb-webhook-service";
/// The label of the EndpointSlices of a Service.
const SLICE_OF: &str = "kubernetes.io/service-name";

/// Another FerroLB leads, and has for longer than this one.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Displaced(String);

/// Looks for others.
pub(crate) struct Rivals {
    leases: Api<Lease>,
    deployments: Api<Deployment>,
    daemon_sets: Api<DaemonSet>,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    namespace: String,
    lease: &'static str,
    class: Option<String>,
    sightings: Sightings,
    check: Check,
    reads: [WriteHealth; 2],
    said: Option<String>,
}

/// What a look has found.
#[derive(Debug, Default)]
struct Found {
    /// Another FerroLB leads.
    other: Option<Lead>,
    /// It has led for longer than this one.
    older: bool,
    metallb: MetalLb,
}

/// The workloads of MetalLB that run for the same Services: the beginning of a sentence each.
#[derive(Debug, Default, PartialEq, Eq)]
struct MetalLb {
    controller: Option<String>,
    speaker: Option<String>,
}

impl Rivals {
    /// For the FerroLB in `namespace`, whose leader holds the Lease called `lease` there, and which serves `class`.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        lease: &'static str,
        class: Option<String>,
        readiness: &Readiness,
    ) -> Self {
        Rivals {
            leases: Api::all(client.clone()),
            deployments: Api::all(client.clone()),
            daemon_sets: Api::all(client.clone()),
            services: Api::all(client.clone()),
            slices: Api::all(client),
            namespace: namespace.to_owned(),
            lease,
            class,
            sightings: Sightings::default(),
            check: readiness.check("other load balancers", "not looked for yet"),
            reads: ["list leases", "list deployments and daemonsets"].map(|rule| WriteHealth::new(readiness, rule)),
            said: None,
        }
    }

    /// Tells `alone` once nobody else is there, then looks from time to time until `stop` is cancelled.
    ///
    /// # Errors
    /// When another FerroLB leads and has for longer.
    pub(crate) async fn run(
        mut self,
        leadership: Leadership,
        alone: oneshot::Sender<()>,
        stop: CancellationToken,
    ) -> Result<(), Displaced> {
        let work = async {
            while !self.is_alone().await {
                tokio::time::sleep(SOON).await;
            }
            // Nobody listens where the program leads without an election.
            let _ = alone.send(());
            loop {
                tokio::time::sleep(LATER).await;
                self.look_beside(leadership.leads()).await?;
            }
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    /// Before this controller does anything: whether it may.
    async fn is_alone(&mut self) -> bool {
        let Some(found) = self.look().await else { return false };
        let why = match &found {
            Found { other: Some(lead), .. } => format!(
                "{lead}, and a cluster has one FerroLB: this one gives no addresses and changes nothing until that one is gone. Remove \
                 one of the two"
            ),
            Found {
                metallb:
                    MetalLb {
                        controller: Some(metallb),
                        ..
                    },
                ..
            } => format!(
                "{metallb}: this FerroLB gives no addresses and changes nothing until that is scaled down or has a class of its \
                 own (--lb-class)"
            ),
            _ => {
                self.at_peace(&found);
                return true;
            }
        };
        self.say(&why);
        self.check.not_ready(why);
        false
    }

    /// While this controller works.
    async fn look_beside(&mut self, leads: bool) -> Result<(), Displaced> {
        let Some(found) = self.look().await else { return Ok(()) };
        if let (Some(lead), true) = (&found.other, leads) {
            if found.older {
                return Err(Displaced(format!("{lead}, and has for longer than this one")));
            }
            let why =
                format!("{lead} as well as this one, which goes on: that one is about to end. Remove one of the two");
            self.say(&why);
            self.check.warn(why);
            return Ok(());
        }
        if let Some(metallb) = &found.metallb.controller {
            let why = format!(
                "{metallb}, beside this FerroLB, which goes on with what it has and leaves alone what MetalLB keeps writing over: scale \
                 MetalLB down, or give it a class of its own (--lb-class)"
            );
            self.say(&why);
            self.check.warn(why);
            return Ok(());
        }
        self.at_peace(&found);
        Ok(())
    }

    /// Nobody else gives addresses. MetalLB's speakers alone may still answer for some.
    fn at_peace(&mut self, found: &Found) {
        if let Some(metallb) = &found.metallb.speaker {
            let why = format!("{metallb}: what it announces is answered for by two programs. Remove it");
            self.say(&why);
            self.check.warn(why);
            return;
        }
        if self.said.take().is_some() {
            info!("no other load balancer is in the way any more");
        }
        self.check.ready();
    }

    fn say(&mut self, why: &str) {
        if self.said.as_deref() != Some(why) {
            warn!("{why}");
            self.said = Some(why.to_owned());
        }
    }

    /// `None` when the API server does not answer. What it forbids to look at is taken for not there; `/readyz` says so.
    async fn look(&mut self) -> Option<Found> {
        let params = named(self.lease);
        let (leases, metallb) = tokio::join!(self.leases.list(&params), self.metallb());
        let leases = leases.map_err(Failure::from);
        let now = Instant::now();
        let [of_leases, of_workloads] = &mut self.reads;
        of_leases.outcome(&leases.as_ref().map(drop).map_err(Clone::clone), self.lease, now);
        of_workloads.outcome(&metallb.as_ref().map(drop).map_err(Clone::clone), "MetalLB", now);
        let allowed = |failure: &Failure| matches!(failure, Failure::Forbidden(_));
        let leases = match leases {
            Ok(leases) => leases.items.iter().map(Lead::of).collect(),
            Err(failure) if allowed(&failure) => Vec::new(),
            Err(_) => return None,
        };
        let metallb = match metallb {
            Ok(metallb) => metallb,
            Err(failure) if allowed(&failure) => MetalLb::default(),
            Err(_) => return None,
        };
        let ours = leases.iter().find(|lead| lead.namespace == self.namespace).cloned();
        let other = self.sightings.living(leases, &self.namespace, now);
        let older = other
            .as_ref()
            .zip(ours)
            .is_some_and(|(other, ours)| other.precedes(&ours));
        Some(Found { other, older, metallb })
    }

    async fn metallb(&self) -> Result<MetalLb, Failure> {
        let mut found = MetalLb::default();
        // Those that were looked at are known, whatever their class is.
        let mut seen = Vec::new();
        for name in CONTROLLERS {
            for object in self.deployments.list(&named(name)).await? {
                if is_metallb(&object.metadata, template(&object)) && runs(&object) {
                    seen.extend(object.namespace().map(|namespace| (namespace, object.name_any())));
                    if class_of(template(&object)) == self.class.as_deref() {
                        found.controller = Some(told("Deployment", &object));
                    }
                }
            }
        }
        for service in self.services.list(&named(WEBHOOK)).await? {
            let namespace = service.namespace().unwrap_or_default();
            for name in self.behind(&namespace).await? {
                if !seen.contains(&(namespace.clone(), name.clone()))
                    && let Some(rival) = self.called_otherwise(&namespace, &name).await?
                {
                    found.controller = Some(rival);
                }
            }
        }
        for name in SPEAKERS {
            for object in self.daemon_sets.list(&named(name)).await? {
                let running = object.status.as_ref().map_or(0, |status| status.number_ready);
                let template = object.spec.as_ref().map(|spec| &spec.template);
                let same = class_of(template) == self.class.as_deref();
                if running > 0 && same && is_metallb(&object.metadata, template) {
                    found.speaker = Some(told("DaemonSet", &object));
                }
            }
        }
        Ok(found)
    }

    /// The Deployments of the pods that answer for MetalLB in a namespace.
    async fn behind(&self, namespace: &str) -> Result<Vec<String>, Failure> {
        let params = ListParams::default()
            .labels(&format!("{SLICE_OF}={WEBHOOK}"))
            .fields(&format!("metadata.namespace={namespace}"));
        let mut names = Vec::new();
        for slice in self.slices.list(&params).await? {
            let ready = slice.endpoints.iter().filter(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
            });
            names.extend(ready.filter_map(|endpoint| deployment_of(endpoint.target_ref.as_ref()?.name.as_deref()?)));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The controller of a MetalLB whose release has a name of its own. A rule for that name is nothing that an installation can
    /// have, so its class may not be known: whoever serves no class of its own takes it for the same.
    async fn called_otherwise(&self, namespace: &str, name: &str) -> Result<Option<String>, Failure> {
        match self.deployments.list(&named(name)).await.map_err(Failure::from) {
            Ok(found) => {
                let mut here = found
                    .items
                    .iter()
                    .filter(|object| object.namespace().as_deref() == Some(namespace));
                let same = here.find(|object| class_of(template(object)) == self.class.as_deref());
                Ok(same.map(|object| told("Deployment", object)))
            }
            Err(Failure::Forbidden(_)) if self.class.is_some() => Ok(None),
            Err(Failure::Forbidden(_)) => Ok(Some(format!(
                "MetalLB's Deployment {name:?} in namespace {namespace:?} runs, as far as can be seen for the same Services (to know its \
                 class takes the right to list deployments {name:?})"
            ))),
            Err(failure) => Err(failure),
        }
    }
}

fn template(object: &Deployment) -> Option<&PodTemplateSpec> {
    object.spec.as_ref().map(|spec| &spec.template)
}

fn runs(object: &Deployment) -> bool {
    let ready = object.status.as_ref().and_then(|status| status.ready_replicas);
    ready.is_some_and(|ready| ready > 0)
}

/// The Deployment that a pod is of, by its name: `NAME-HASH-HASH`.
fn deployment_of(pod: &str) -> Option<String> {
    let (replica_set, _) = pod.rsplit_once('-')?;
    let (name, _) = replica_set.rsplit_once('-')?;
    Some(name.to_owned())
}

/// Only objects of that name, which is all that the rule admits.
fn named(name: &str) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={name}"))
}

fn told(kind: &str, object: &impl ResourceExt) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!(
        "MetalLB's {kind} {:?} in namespace {namespace:?} runs for the same Services",
        object.name_any()
    )
}

fn containers(template: Option<&PodTemplateSpec>) -> impl Iterator<Item = &Container> {
    let spec = template.and_then(|template| template.spec.as_ref());
    spec.into_iter().flat_map(|spec| &spec.containers)
}

/// The class of Services that a MetalLB serves, by its arguments.
fn class_of(template: Option<&PodTemplateSpec>) -> Option<&str> {
    let mut args = containers(template).flat_map(|container| container.args.iter().flatten());
    let class = args.find_map(|arg| arg.trim_start_matches('-').strip_prefix("lb-class="));
    class.filter(|class| !class.is_empty())
}

/// Whether a workload is MetalLB's, by its labels or its images.
fn is_metallb(metadata: &ObjectMeta, template: Option<&PodTemplateSpec>) -> bool {
    let labels = metadata.labels.iter().flatten();
    let labelled = labels
        .filter(|(key, _)| ["app", "app.kubernetes.io/name"].contains(&key.as_str()))
        .any(|(_, value)| value == "metallb");
    let from_image = containers(template).any(|container| {
        container
            .image
            .as_deref()
            .is_some_and(|image| image.contains("metallb/"))
    });
    labelled || from_image
}

/// What a Lease says of who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lead {
    namespace: String,
    holder: Option<String>,
    /// When it was renewed, by the holder's clock: only whether it changes means something.
    renewed: Option<String>,
    /// Since when the holder has it, by the holder's clock.
    acquired: Option<Timestamp>,
}

impl Lead {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        Lead {
            namespace: lease.namespace().unwrap_or_default(),
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            renewed: spec.renew_time.map(|time| time.0.to_string()),
            acquired: spec.acquire_time.map(|time| time.0),
        }
    }

    /// Which of two that lead goes on. Both see the same two Leases, so that both say the same.
    fn precedes(&self, other: &Lead) -> bool {
        (&self.acquired, &self.namespace) < (&other.acquired, &other.namespace)
    }
}

impl std::fmt::Display for Lead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the FerroLB in namespace {:?} leads", self.namespace)?;
        self.holder.iter().try_for_each(|holder| write!(f, " ({holder})"))
    }
}

/// When each Lease was last seen to change, by this machine's clock.
#[derive(Debug, Default)]
struct Sightings(BTreeMap<String, (Lead, Instant)>);

impl Sightings {
    /// The first in another namespace than `own` that somebody holds and renews. One that is seen for the first time counts as
    /// renewed.
    fn living(&mut self, leads: Vec<Lead>, own: &str, now: Instant) -> Option<Lead> {
        let mut before = std::mem::take(&mut self.0);
        for lead in leads.into_iter().filter(|lead| lead.namespace != own) {
            let seen = match before.remove(&lead.namespace) {
                Some((known, at)) if known == lead => at,
                _ => now,
            };
            self.0.insert(lead.namespace.clone(), (lead, seen));
        }
        let mut living = self
            .0
            .values()
            .filter(|(lead, seen)| lead.holder.is_some() && now.duration_since(*seen) < DEAD);
        living.next().map(|(lead, _)| lead.clone())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn lead(namespace: &str, holder: Option<&str>, renewed: &str) -> Lead {
        Lead {
            namespace: namespace.to_owned(),
            holder: holder.map(str::to_owned),
            renewed: Some(renewed.to_owned()),
            acquired: "2026-01-01T00:00:00Z".parse().ok(),
        }
    }

    #[test]
    fn a_lease_that_is_renewed_is_somebodys() {
        let mut sightings = Sightings::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut look = |leads: &[Lead], seconds| {
            let found = sightings.living(leads.to_vec(), "lb", at(seconds));
            found.map(|lead| lead.namespace)
        };
        let own = lead("lb", Some("a"), "0");
        assert_eq!(look(&[own.clone(), lead("old", None, "0")], 0), None, "released");
        let other = |renewed| lead("other", Some("b"), renewed);
        let seen = Some("other".to_owned());
        assert_eq!(look(&[own.clone(), other("0")], 0), seen);
        assert_eq!(look(&[own.clone(), other("0")], 14), seen);
        assert_eq!(look(&[own.clone(), other("0")], 15), None, "not renewed");
        assert_eq!(look(&[own.clone(), other("2")], 17), seen);
        assert_eq!(look(&[own], 18), None, "gone");
    }

    #[test]
    fn a_pod_has_the_name_of_its_deployment() {
        assert_eq!(
            deployment_of("lb-metallb-controller-5d9c7b6f4-x2x7q").as_deref(),
            Some("lb-metallb-controller")
        );
        assert_eq!(deployment_of("controller-0"), None);
    }

    #[test]
    fn of_two_that_lead_one_goes_on() {
        let (mut first, second) = (lead("x", Some("a"), "5"), lead("a", Some("b"), "5"));
        assert!(second.precedes(&first) && !first.precedes(&second), "by name");
        first.acquired = "2025-01-01T00:00:00Z".parse().ok();
        assert!(first.precedes(&second) && !second.precedes(&first), "by time");
    }

    #[test]
    fn metallb_is_known_by_label_or_image_and_by_its_class() {
        let workload = |label: Option<&str>, image: &str, args: &[&str]| {
            let labels = label.map(|name| BTreeMap::from([("app".to_owned(), name.to_owned())]));
            let container = Container {
                image: Some(image.to_owned()),
                args: Some(args.iter().map(ToString::to_string).collect()),
                ..Container::default()
            };
            let template = PodTemplateSpec {
                spec: Some(PodSpec {
                    containers: vec![container],
                    ..PodSpec::default()
                }),
                ..PodTemplateSpec::default()
            };
            let metadata = ObjectMeta {
                labels,
                ..ObjectMeta::default()
            };
            (metadata, template)
        };
        let class = "example.com/lb";
        for (label, image, args, of, is) in [
            (Some("metallb"), "mirror/speaker:1", &[][..], None, true),
            (
                None,
                "quay.io/metallb/controller:v0.15.3",
                &["--port=7472"][..],
                None,
                true,
            ),
            (
                None,
                "quay.io/metallb/controller:v0.15.3",
                &["--lb-class=example.com/lb"][..],
                None,
                false,
            ),
            (
                None,
                "quay.io/metallb/controller:v0.15.3",
                &["--lb-class=example.com/lb"][..],
                Some(class),
                true,
            ),
            (None, "quay.io/metallb/controller:v0.15.3", &[][..], Some(class), false),
            (Some("shop"), "shop/controller:1", &[][..], None, false),
        ] {
            let (metadata, template) = workload(label, image, args);
            let same = is_metallb(&metadata, Some(&template)) && class_of(Some(&template)) == of;
            assert_eq!(same, is, "{label:?} {image} {args:?}");
        }
    }
}
