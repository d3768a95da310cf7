//! The alerts, checked and tried out by promtool.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::output;

const ALERTS: &str = "deploy/components/prometheus/alerts.yaml";
const CASES: &str = "xtask/tests/alerts.yaml";

/// Checks the rules, plays the cases, and says how many alerts there are.
pub(super) fn run(root: &Path) -> Result<usize> {
    let text = fs::read_to_string(root.join(ALERTS)).with_context(|| format!("read {ALERTS}"))?;
    let object: Value = serde_saphyr::from_str(&text).with_context(|| format!("read {ALERTS}"))?;
    // promtool knows nothing of the object around the rules, and finds them beside its cases.
    let folder = std::env::temp_dir().join(format!("ferrolb-alerts-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let checked = check(root, &object, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    checked.with_context(|| format!("check {ALERTS}"))
}

fn check(root: &Path, object: &Value, folder: &Path) -> Result<usize> {
    let rules = folder.join("rules.yaml");
    fs::write(
        &rules,
        serde_saphyr::to_string(&object["spec"]).context("write the rules")?,
    )
    .context("write the rules")?;
    let cases = folder.join("cases.yaml");
    fs::copy(root.join(CASES), &cases).with_context(|| format!("copy {CASES}"))?;
    let promtool = |arguments: [&str; 2], file: &Path| {
        let mut command = Command::new("promtool");
        command.current_dir(folder).args(arguments).arg(file);
        output(&mut command, "promtool")
            .context("promtool comes with Debian's package prometheus: scripts/prepare installs it")
    };
    promtool(["check", "rules"], &rules)?;
    promtool(["test", "rules"], &cases)?;
    let groups = object["spec"]["groups"].as_array();
    let alerts = groups
        .into_iter()
        .flatten()
        .filter_map(|group| group["rules"].as_array());
    let alerts = alerts.map(Vec::len).sum();
    ensure!(alerts > 0, "there is no alert");
    Ok(alerts)
}
