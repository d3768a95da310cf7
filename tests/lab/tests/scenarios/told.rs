//! The three places where a program says what is wrong with it or around it: its log, `/readyz`, and an event on its pod or
//! its node.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::{ADMIN_PORT, NAMESPACE};
use ferrolb_lab::net::Host;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Program, wait_until};

use crate::scene::Scene;

/// How soon it has to be told everywhere, the start of the program included.
const TOLD: Duration = Duration::from_secs(30);

/// Events of a program about itself are at least so far apart.
const NEXT_EVENT: Duration = Duration::from_secs(30);

/// A program that says how it is.
#[derive(Clone)]
pub(crate) struct Teller {
    pub(crate) s: Scene,
    pub(crate) process: Process,
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// Namespace, kind and name of the object that its events are about.
    pub(crate) about: (String, &'static str, String),
}

impl Teller {
    /// The controller.
    pub(crate) fn controller(s: &Scene) -> Self {
        Teller {
            s: s.clone(),
            process: s.controller().clone(),
            host: s.control_plane().clone(),
            port: ADMIN_PORT,
            about: (NAMESPACE.to_owned(), "Pod", s.controller().name()),
        }
    }

    /// The speaker of a node.
    pub(crate) fn speaker(s: &Scene, node: &str) -> Result<Self> {
        Ok(Teller {
            s: s.clone(),
            process: s.node(node)?.program(Program::Speaker)?.clone(),
            host: s.node(node)?.host().clone(),
            port: ADMIN_PORT,
            about: ("default".to_owned(), "Node", node.to_owned()),
        })
    }

    /// What `/readyz` says.
    pub(crate) async fn readyz(&self) -> Result<(u16, String)> {
        self.s.admin(&self.host, self.port, "/readyz").await
    }

    /// It is not ready and says `part`, everywhere.
    pub(crate) async fn not_ready(&self, part: &str) -> Result<()> {
        self.shows(503, part).await?;
        self.logged(part)?;
        self.event("ferrolbNotReady", part).await
    }

    /// It is ready and warns of `part`, everywhere.
    pub(crate) async fn warns(&self, part: &str) -> Result<()> {
        self.shows(200, part).await?;
        self.logged(part)?;
        self.event("ferrolbWarning", part).await
    }

    /// `/readyz` has this status, and `part` in its text.
    pub(crate) async fn shows(&self, status: u16, part: &str) -> Result<()> {
        let what = format!("/readyz of {} to be {status} with {part:?}", self.process.name());
        wait_until(&what, TOLD, async || {
            let (seen, body) = self.readyz().await?;
            ensure!(seen == status && body.contains(part), "it says {seen} {body}");
            Ok(())
        })
        .await
    }

    /// It is ready and has nothing to complain about.
    pub(crate) async fn well(&self) -> Result<()> {
        let what = format!("/readyz of {} to be ok", self.process.name());
        wait_until(&what, TOLD, async || {
            let (status, body) = self.readyz().await?;
            ensure!(status == 200 && body == "ok\n", "it says {status} {body}");
            Ok(())
        })
        .await
    }

    /// `part` stands in a line of the log.
    pub(crate) fn logged(&self, part: &str) -> Result<()> {
        let path = self.process.log();
        let log = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // A text in quotes has them escaped there.
        let found = log.replace("\\\"", "\"").lines().any(|line| line.contains(part));
        ensure!(found, "the log does not have {part:?}: {}", self.process.log_tail(20));
        Ok(())
    }

    /// Waits for an event with this reason and `part` in its message.
    pub(crate) async fn event(&self, reason: &str, part: &str) -> Result<()> {
        let (namespace, kind, name) = &self.about;
        wait_until(
            &format!("event {reason} with {part:?} on {kind} {name}"),
            NEXT_EVENT,
            async || {
                let events = self.s.events(namespace, kind, name).await?;
                let found = events
                    .iter()
                    .any(|event| event.reason == reason && event.message.contains(part));
                ensure!(found, "{events:?}");
                Ok(())
            },
        )
        .await
    }
}
