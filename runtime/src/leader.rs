//! Leadership by a Lease: the task around an [`Elector`], and what others know of it.
//!
//! [`Candidate::run`] reads and writes the Lease, one request at a time. Whoever acts as the leader holds a
//! [`Leadership`] and asks it before acting; its answer comes from the clock, not from the task, so it is right even
//! when the whole process stood still. The Lease is released only when every [`Leadership`] is dropped.

use std::fs;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::apply::{self, Failure};
use crate::backoff::random_fraction;
use crate::elector::{Elector, Identity, NotWritten, Seen, Standing, Step, Timing, Write};
use crate::readiness::Readiness;
use crate::write_health::WriteHealth;

/// A leader that dies is replaced within 11 s and the time of a few requests, one that says goodbye within a second.
pub const TIMING: Timing = Timing {
    lease: Duration::from_secs(10),
    renew_deadline: Duration::from_secs(7),
    renew: Duration::from_secs(2),
    look: Duration::from_millis(800),
};

/// How long a request may take. Several fit into the renew deadline.
const REQUEST: Duration = Duration::from_secs(2);

/// How long the release may take, with the wait for whoever acted as the leader.
const RELEASE: Duration = Duration::from_millis(1500);

/// The lease is in other hands. Whoever led under it must end: what it knows of its own doings is out of date.
#[derive(Debug, Error)]
#[error("lost the lease {lease} to {}", holder.as_deref().unwrap_or("nobody"))]
pub struct LeaseLost {
    /// Namespace and name.
    pub lease: String,
    /// Who holds it now, if anybody.
    pub holder: Option<String>,
}

/// Lets a process lead that asks nobody.
#[derive(Debug)]
pub struct Grant(watch::Sender<bool>);

impl Grant {
    /// It leads from now on, for good.
    pub fn give(self) {
        self.0.send_replace(true);
    }
}

/// Whether this process leads, asked by whoever acts as the leader.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
    /// Leads without a Lease.
    granted: watch::Receiver<bool>,
}

impl Leadership {
    /// That of a process that leads without asking anybody, from the grant on.
    pub fn granted() -> (Grant, Self) {
        let (grant, granted) = watch::channel(false);
        let until = watch::channel(None).1;
        (Grant(grant), Leadership { until, granted })
    }

    /// Whether this process leads at this moment.
    pub fn leads(&self) -> bool {
        *self.granted.borrow() || self.until.borrow().is_some_and(|until| until > Instant::now())
    }

    /// Waits until this process leads.
    pub async fn gained(&self) {
        let mut own = self.clone();
        while !own.leads() {
            own.changed().await;
        }
    }

    /// Waits until this process does not lead. The clock is asked on every poll: put first into a biased `select!`, no
    /// other branch runs when the right to lead has ended, however long the process stood still in between.
    pub async fn lapsed(&self) {
        let mut own = self.clone();
        let mut lapse = pin!(async {
            loop {
                let until = *own.until.borrow_and_update();
                let granted = *own.granted.borrow();
                tokio::select! {
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if !granted => return,
                    () = own.changed() => {}
                }
            }
        });
        poll_fn(|context| {
            if self.leads() {
                lapse.as_mut().poll(context)
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    async fn changed(&mut self) {
        // Nobody may be left who could change it.
        tokio::select! {
            Ok(()) = self.until.changed() => {}
            Ok(()) = self.granted.changed() => {}
            else => pending().await,
        }
    }
}

/// The name of this process in an election: of its pod, if it is told which, else of its host.
pub fn identity(pod: Option<&str>) -> Identity {
    let run = format!("{:08x}", (random_fraction() * f64::from(u32::MAX)) as u32);
    match pod {
        Some(pod) => Identity::of_pod(pod, &run),
        None => {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            Identity::of_host(host.trim(), &run)
        }
    }
}

/// Takes part in an election.
#[derive(Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    manager: &'static str,
    elector: Elector,
    start: Instant,
    told: Standing,
    until: watch::Sender<Option<Instant>>,
    gauge: Gauge,
    reads: WriteHealth,
    writes: WriteHealth,
}

/// The gauge of who leads, registered; it shows 1 while this process does.
pub fn gauge(registry: &mut Registry) -> Gauge {
    let gauge = Gauge::default();
    registry.register(
        "ferrolb_leader",
        "1 while this replica leads, 0 while it stands by",
        gauge.clone(),
    );
    gauge
}

impl Candidate {
    /// A candidate for the Lease `name`, which is made when it is missing.
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        identity: Identity,
        manager: &'static str,
        readiness: &Readiness,
        gauge: Gauge,
    ) -> Self {
        info!(lease = name, identity = identity.as_str(), "standing for election");
        Candidate {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            manager,
            elector: Elector::new(identity, TIMING),
            start: Instant::now(),
            told: Standing::Following(None),
            until: watch::Sender::new(None),
            gauge,
            reads: WriteHealth::new(readiness, "get leases"),
            writes: WriteHealth::new(readiness, "create and patch leases"),
        }
    }

    /// What tells others whether this process leads.
    pub fn leadership(&self) -> Leadership {
        Leadership {
            until: self.until.subscribe(),
            granted: watch::channel(false).1,
        }
    }

    /// Takes part until `stop` is cancelled, then waits until nobody holds a [`Leadership`] and gives the Lease back.
    ///
    /// # Errors
    /// When this process led and somebody else does now.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), LeaseLost> {
        loop {
            self.tell()?;
            let asked = self.start.elapsed();
            match self.elector.step(asked) {
                Step::WaitUntil(due) => tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = sleep_until(self.start + due) => {}
                },
                Step::Read => {
                    let answer = self.read().await;
                    self.elector.read(answer, asked, self.start.elapsed());
                }
                Step::Write(write) => {
                    let outcome = self.write(&write).await;
                    self.elector.written(outcome, asked, self.start.elapsed());
                }
            }
        }
        self.until.send_replace(None);
        self.gauge.set(0);
        if timeout(RELEASE, self.release()).await.is_err() {
            warn!(lease = self.name, "cannot be released in time; it will run out");
        }
        Ok(())
    }

    /// Tells everybody where this process stands, and the log when that changes.
    fn tell(&mut self) -> Result<(), LeaseLost> {
        let standing = self.elector.standing(self.start.elapsed());
        let until = match standing {
            Standing::Leading(until) => Some(self.start + until),
            _ => None,
        };
        self.until
            .send_if_modified(|told| std::mem::replace(told, until) != until);
        self.gauge.set(until.is_some().into());
        let lease = &self.name;
        match (&self.told, &standing) {
            (Standing::Leading(_), Standing::Leading(_)) => {}
            (told, now) if told == now => return Ok(()),
            (Standing::Suspended, Standing::Leading(_)) => info!(lease, "leading again"),
            (_, Standing::Leading(_)) => info!(lease, "leading"),
            (_, Standing::Suspended) => {
                warn!(lease, "cannot be renewed: nothing is done until it can");
            }
            (_, Standing::Following(holder)) => info!(lease, holder, "standing by"),
            (_, Standing::Lost(holder)) => {
                return Err(LeaseLost {
                    lease: format!("{}/{lease}", self.namespace),
                    holder: holder.clone(),
                });
            }
        }
        self.told = standing;
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<Seen>, ()> {
        let answer = within(async { Ok(self.leases.get_opt(&self.name).await?) }).await;
        let result = answer.as_ref().map(drop).map_err(Clone::clone);
        self.reads.outcome(&result, &self.name, std::time::Instant::now());
        answer.map(|lease| lease.as_ref().map(seen)).map_err(drop)
    }

    async fn write(&mut self, write: &Write) -> Result<Seen, NotWritten> {
        let answer = within(self.request(write)).await;
        let result = answer.as_ref().map(drop).map_err(Clone::clone);
        self.writes.outcome(&result, &self.name, std::time::Instant::now());
        answer.map(|lease| seen(&lease)).map_err(|failure| match failure {
            Failure::Conflict | Failure::Gone => NotWritten::Conflict,
            _ => NotWritten::Unknown,
        })
    }

    async fn request(&self, write: &Write) -> Result<Lease, Failure> {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: write.holder.clone(),
            lease_duration_seconds: i32::try_from(write.lease.as_secs()).ok(),
            lease_transitions: Some(write.transitions),
            acquire_time: write.acquires.then(|| now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let Some(version) = &write.over else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            let params = PostParams {
                field_manager: Some(self.manager.to_owned()),
                ..PostParams::default()
            };
            return Ok(self.leases.create(&params, &lease).await?);
        };
        let mut body = json!({ "spec": spec });
        // Without a holder it has to be taken away.
        body["spec"]["holderIdentity"] = json!(write.holder);
        apply::merge(&self.leases, &self.name, version, self.manager, body).await
    }

    async fn release(&mut self) {
        self.until.closed().await;
        if let Some(write) = self.elector.release()
            && self.write(&write).await.is_ok()
        {
            info!(lease = self.name, "released");
        }
    }
}

async fn within<T>(request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(REQUEST, request).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Unavailable(format!(
            "no answer within {} s",
            REQUEST.as_secs()
        ))),
    }
}

/// What the elector wants to know of a Lease. One that does not say how long to wait is waited for as ours are.
fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|n| u64::try_from(n).ok());
    Seen {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        lease: seconds.map_or(TIMING.lease, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.resource_version().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::thread;

    fn leading_for(time: Duration) -> (watch::Sender<Option<Instant>>, Leadership) {
        let (sender, until) = watch::channel(Some(Instant::now() + time));
        let granted = watch::channel(false).1;
        (sender, Leadership { until, granted })
    }

    #[tokio::test(start_paused = true)]
    async fn a_lead_ends_in_time_unless_it_is_renewed() {
        let (sender, leadership) = leading_for(Duration::from_secs(8));
        let begin = Instant::now();
        let mut lapsed = pin!(leadership.lapsed());
        assert!(timeout(Duration::from_secs(7), &mut lapsed).await.is_err());
        sender.send_replace(Some(begin + Duration::from_secs(15)));
        lapsed.await;
        assert_eq!(begin.elapsed().as_secs(), 15);
        assert!(!leadership.leads());

        let mut gained = pin!(leadership.gained());
        assert!(poll!(&mut gained).is_pending());
        sender.send_replace(Some(begin + Duration::from_secs(30)));
        gained.await;
    }

    #[tokio::test]
    async fn one_that_stood_still_knows_at_the_first_poll() {
        let (_sender, leadership) = leading_for(Duration::from_millis(30));
        let mut lapsed = pin!(leadership.lapsed());
        assert!(poll!(&mut lapsed).is_pending());
        // The whole process stands still: no timer fires, and nobody is woken.
        thread::sleep(Duration::from_millis(40));
        assert!(poll!(&mut lapsed).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lease_it_always_leads() {
        let (grant, leadership) = Leadership::granted();
        let mut gained = pin!(leadership.gained());
        assert!(poll!(&mut gained).is_pending());
        grant.give();
        gained.await;
        assert!(leadership.leads());
        assert!(timeout(Duration::from_secs(3600), leadership.lapsed()).await.is_err());
    }
}
