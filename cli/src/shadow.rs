//! Looks at a cluster again and again, and tells what is news. All it sends are lists.

use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::args::{Cli, Output};
use crate::cluster::Cluster;
use crate::migrate::{self, Change, Report, Shadow};

/// For how long, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks.
    pub every: Duration,
    /// In all; `None`: until Ctrl-C.
    pub span: Option<Duration>,
}

/// Tells what would become of the Services of MetalLB in `namespace`, line by line, until the time is over, and returns
/// the exit code. A look that fails is told and tried again, but for the first.
///
/// # Errors
/// When the cluster cannot be read at the first look.
pub async fn shadow(
    cli: &Cli,
    cluster: &Cluster,
    namespace: &str,
    pace: Pace,
    mut tell: impl FnMut(String),
) -> Result<u8, String> {
    let mut shadow = Shadow::default();
    let wide = cli.output == Output::Wide;
    let begin = Instant::now();
    let end = pace.span.map(|span| begin + span);
    let mut next = begin;
    let mut stopped = pin!(tokio::signal::ctrl_c());
    loop {
        let first = next == begin;
        let looked = tokio::select! {
            looked = look(cli, cluster, namespace) => looked,
            _ = &mut stopped => break,
        };
        match looked {
            Ok(report) => {
                for change in shadow.take(report, wide) {
                    tell(line(cli.output, &change));
                }
            }
            Err(text) if first => return Err(text),
            Err(text) => tell(line(cli.output, &Change::Unread { text })),
        }
        next = (next + pace.every).max(Instant::now());
        let wake = end.map_or(next, |end| end.min(next));
        tokio::select! {
            () = sleep_until(wake) => if wake < next { break },
            _ = &mut stopped => break,
        }
    }
    let (summary, code) = shadow.end();
    if let Some(summary) = summary {
        tell(line(cli.output, &summary));
    }
    Ok(code)
}

async fn look(cli: &Cli, cluster: &Cluster, namespace: &str) -> Result<Report, String> {
    let world = cluster.list(cli).await.map_err(|e| e.to_string())?;
    let class = cli.load_balancer_class.as_deref();
    migrate::check(&world, namespace, class).map_err(|e| e.to_string())
}

/// One change with its time: JSON in one line, a document of YAML, or words.
fn line(output: Output, change: &Change) -> String {
    let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if matches!(output, Output::Table | Output::Wide) {
        return format!("{time} {}\n", change.text());
    }
    let mut object = json!(change);
    object["time"] = Value::from(time);
    match output {
        Output::Yaml => {
            serde_saphyr::to_string(&object).map_or_else(|e| format!("# {e}\n"), |yaml| format!("---\n{yaml}"))
        }
        _ => format!("{object}\n"),
    }
}
