//! The keys of the heartbeats change while speakers watch each other by them.

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::wait_until;
use serde_json::Value;

use crate::failover::{SILENCES, Served, V4};
use crate::scene::{PATIENCE, Scene};

const SECRET: &str = "ferrolb-liveness";
/// Datagrams that a speaker does not believe, with the reason as a label.
const DROPS: &str = "ferrolb_liveness_drops_total{";

/// What stands in the Secret: which key signs, and which are believed.
async fn keys(s: &Scene) -> Result<(String, Vec<String>)> {
    let text = s
        .lab()
        .kubectl(&["-n", NAMESPACE, "get", "secret", SECRET, "-o", "json"])
        .await?;
    let secret: Value = serde_json::from_str(&text)?;
    let data = secret["data"].as_object().context("no data")?;
    let signing = data["signing"].as_str().context("no key signs")?;
    let names = data.keys().filter(|name| name.starts_with("key-"));
    Ok((signing.to_owned(), names.cloned().collect()))
}

/// How many datagrams the speakers have refused, all in all.
async fn refused(s: &Scene) -> Result<u64> {
    let mut sum = 0;
    for node in s.nodes() {
        for line in s
            .metrics(node.host())
            .await?
            .lines()
            .filter(|line| line.starts_with(DROPS))
        {
            sum += line.rsplit(' ').next().context("no count")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// A new key is believed, then it signs, then the old one is forgotten: meanwhile no heartbeat is refused or missed.
///
/// The controller waits for long between two steps. Here the Secret says that the last step was long ago, and a
/// controller that begins to lead looks at once.
pub(crate) async fn changed(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let standby = &served.placement.standbys[0];
    let (old, old_names) = keys(&s).await?;
    ensure!(old_names.len() == 1, "a change is under way: {old_names:?}");
    let before = (refused(&s).await?, served.counted(standby, SILENCES).await?);
    let steps: [(&str, bool, usize); 3] = [
        ("the new key to be believed", false, 2),
        ("the new key to sign", true, 2),
        ("the old key to be forgotten", true, 1),
    ];
    for (what, new_signs, count) in steps {
        let long_ago = "ferrolb.io/changed=2020-01-01T00:00:00Z";
        let annotate = ["-n", NAMESPACE, "annotate", "--overwrite", "secret", SECRET, long_ago];
        s.lab().kubectl(&annotate).await?;
        s.controller().stop(PATIENCE).await?;
        s.controller().restart()?;
        wait_until(what, PATIENCE, async || {
            let (signing, names) = keys(&s).await?;
            ensure!(
                (signing != old, names.len()) == (new_signs, count),
                "{signing} of {names:?}"
            );
            Ok(())
        })
        .await?;
        served.watched().await?;
    }
    ensure!(keys(&s).await?.1 != old_names, "the key is the old one");
    let after = (refused(&s).await?, served.counted(standby, SILENCES).await?);
    ensure!(after == before, "(refused, silences) were {before:?}, are {after:?}");
    served.unmoved().await?;
    s.controller_ready().await
}
