//! Asks the segments of this node whether other machines use addresses (`ferrolb_speaker_core::Probes` says which, and
//! `ferrolb_l2::probe` how), many at a time and a few questions side by side, so that a burst of new Services waits no longer
//! than one. Nothing is spawned but the closing of sockets: the owner task waits for the answers among its other news.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_l2::{InterfaceChoice, InterfaceState, NamePattern, Wanted, probe};
use ferrolb_model::Stranger;
use ferrolb_speaker_core::{Finding, Probes, Where};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

/// Questions under way at once. What comes meanwhile waits, and is asked in one go.
const QUESTIONS: usize = 4;

/// Addresses in one question: their probes fit into a kernel's send buffer.
const ADDRESSES: usize = 128;

/// What came of a question, by address, with where it was asked.
pub(crate) type Found = BTreeMap<IpAddr, (Where, Finding)>;

/// See the module.
pub(crate) struct Prober {
    /// What to ask, and what is known.
    pub(crate) probes: Probes,
    /// Who belongs to FerroLB, as layer 2 is told.
    members: watch::Receiver<Arc<Wanted>>,
    running: FuturesUnordered<BoxFuture<'static, Found>>,
}

impl Prober {
    /// For the speaker of `node`.
    pub(crate) fn new(node: &str, members: watch::Receiver<Arc<Wanted>>) -> Self {
        Prober {
            probes: Probes::new(node),
            members,
            running: FuturesUnordered::new(),
        }
    }

    /// Begins what is to be asked, as far as there is room.
    pub(crate) fn ask(&mut self, links: &[InterfaceState], exclude: &[NamePattern]) {
        while self.running.len() < QUESTIONS && self.probes.has_questions() {
            let asked = self.probes.take(ADDRESSES);
            let members = self.members.borrow().members.clone();
            let (links, exclude) = (links.to_vec(), exclude.to_vec());
            self.running.push(
                async move {
                    let choice = |on: &Where| on.clone().map_or(InterfaceChoice::All, InterfaceChoice::Named);
                    let addresses = asked.iter().map(|(address, on)| (*address, choice(on))).collect();
                    let mut findings = probe(&addresses, &links, &exclude, &members).await;
                    let answer = |(address, on): (IpAddr, Where)| {
                        let finding = findings.remove(&address).map_or(Finding::NotAsked, finding);
                        (address, (on, finding))
                    };
                    asked.into_iter().map(answer).collect()
                }
                .boxed(),
            );
        }
    }

    /// The next answers; never, while nothing is asked.
    pub(crate) async fn next(&mut self) -> Found {
        match self.running.next().await {
            Some(answers) => answers,
            None => std::future::pending().await,
        }
    }
}

fn finding(finding: ferrolb_l2::Finding) -> Finding {
    match finding {
        ferrolb_l2::Finding::Clear => Finding::Clear,
        ferrolb_l2::Finding::Occupied { interface, mac } => Finding::Occupied(Stranger { mac, interface }),
        ferrolb_l2::Finding::NotAsked => Finding::NotAsked,
    }
}
