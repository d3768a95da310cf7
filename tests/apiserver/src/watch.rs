//! One watch: what happened since a version, then what happens, as lines of JSON.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::faults::{Ending, Fault, Verb};
use crate::refusal::Refusal;
use crate::resource::Place;
use crate::select::Selection;
use crate::server::Shared;
use crate::store::Change;

/// A bookmark is told after a change of another resource, but not more often than this.
const BOOKMARKS_EVERY: Duration = Duration::from_millis(500);

/// A watch that was asked for.
pub(crate) struct Watch {
    pub(crate) place: Place,
    pub(crate) selection: Selection,
    /// Changes up to here are known; 0 is for those who want to be told of everything that exists.
    pub(crate) version: u64,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
}

/// Pieces of the answer; an error breaks the connection off.
pub(crate) type Lines = mpsc::Sender<Result<Bytes, io::Error>>;

/// Why a watch is over.
enum Over {
    /// The client is gone.
    Left,
    Ends(Ending),
}

impl From<mpsc::error::SendError<Result<Bytes, io::Error>>> for Over {
    fn from(_: mpsc::error::SendError<Result<Bytes, io::Error>>) -> Self {
        Over::Left
    }
}

impl Watch {
    /// Tells until the time is over, the client leaves, or somebody ends it.
    pub(crate) async fn run(mut self, shared: Shared, lines: Lines) {
        let mut ticks = shared.ticks();
        let ended = shared.endings();
        let told = tokio::time::timeout(self.timeout, self.tell(&shared, &mut ticks, ended, &lines)).await;
        match told {
            Ok(Err(Over::Ends(Ending::Cut))) => {
                let _ = lines.send(Err(io::ErrorKind::ConnectionReset.into())).await;
            }
            Ok(Err(Over::Ends(Ending::Gone))) => {
                let _ = self.gone(&shared, &lines).await;
            }
            Ok(Err(Over::Ends(Ending::Closed) | Over::Left)) => {}
            // A watch that ends in its time says how far it came.
            Err(_) => {
                let _ = self.bookmark(&shared, &lines).await;
            }
        }
    }

    async fn tell(
        &mut self,
        shared: &Shared,
        ticks: &mut watch::Receiver<()>,
        ended: usize,
        lines: &Lines,
    ) -> Result<Infallible, Over> {
        if self.version == 0 {
            let (version, objects) = shared.snapshot(&self.place, &self.selection);
            for object in objects {
                self.event(shared, lines, "ADDED", &object).await?;
            }
            self.version = version;
        }
        let mut marked = Instant::now();
        loop {
            if let Some(ending) = shared.ending(ended, &self.place) {
                return Err(Over::Ends(ending));
            }
            match shared.since(&self.place, self.version) {
                Err(_) => return Err(Over::Ends(Ending::Gone)),
                Ok((now, changes)) => {
                    for change in &changes {
                        if let Some((kind, object)) = self.seen(change) {
                            self.event(shared, lines, kind, &object).await?;
                        }
                        self.version = change.version;
                    }
                    let behind = now > self.version;
                    self.version = now;
                    if behind && marked.elapsed() >= BOOKMARKS_EVERY {
                        marked = Instant::now();
                        self.bookmark(shared, lines).await?;
                    }
                }
            }
            tokio::select! {
                _ = ticks.changed() => {}
                () = lines.closed() => return Err(Over::Left),
            }
        }
    }

    /// A change as this watch sees it: an object may come into its selection and leave it.
    fn seen(&self, change: &Change) -> Option<(&'static str, Value)> {
        let admitted = |object: &Option<std::sync::Arc<Value>>| {
            object.as_ref().filter(|object| self.selection.admits(object)).cloned()
        };
        match (admitted(&change.old), admitted(&change.new)) {
            (None, Some(new)) => Some(("ADDED", new.as_ref().clone())),
            (Some(_), Some(new)) => Some(("MODIFIED", new.as_ref().clone())),
            (Some(old), None) => {
                let mut last = old.as_ref().clone();
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(("DELETED", last))
            }
            (None, None) => None,
        }
    }

    async fn event(&self, shared: &Shared, lines: &Lines, kind: &str, object: &Value) -> Result<(), Over> {
        let line = line(kind, &self.typed(object.clone()));
        match shared.draw(Verb::Watch, &self.place, true) {
            Some(Fault::EndWatch(ending)) => return Err(Over::Ends(ending)),
            Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::Duplicate) => lines.send(Ok(line.clone())).await?,
            _ => {}
        }
        Ok(lines.send(Ok(line)).await?)
    }

    async fn bookmark(&self, shared: &Shared, lines: &Lines) -> Result<(), Over> {
        if !self.bookmarks || shared.draw(Verb::Watch, &self.place, true) == Some(Fault::NoBookmarks) {
            return Ok(());
        }
        let metadata = json!({ "resourceVersion": self.version.to_string(), "creationTimestamp": null });
        let mark = self.typed(json!({ "metadata": metadata }));
        Ok(lines.send(Ok(line("BOOKMARK", &mark))).await?)
    }

    async fn gone(&self, shared: &Shared, lines: &Lines) -> Result<(), Over> {
        let refusal = Refusal::expired(self.version, shared.version());
        Ok(lines.send(Ok(line("ERROR", &refusal.status()))).await?)
    }

    fn typed(&self, mut object: Value) -> Value {
        object["kind"] = json!(self.place.resource.kind);
        object["apiVersion"] = json!(self.place.api_version());
        object
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": kind, "object": object }).to_string();
    text.push('\n');
    text.into()
}
