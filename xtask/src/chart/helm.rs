//! The Helm chart: lint, renderings, what is refused, and that its defaults are the manifest.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Golden, files, output, same, stem};
use crate::generate::documents;

const CHART: &str = "deploy/helm/ferrolb";
const CASES: &str = "xtask/tests/chart/cases";

/// Values that are refused, and what is said about them.
const REFUSED: [(&str, &str); 10] = [
    ("speaker.frr.enabled=true", "frr"),
    ("controller.replicas=0", "replicas"),
    ("controller.logLevel=verbose", "logLevel"),
    ("prometheus.metricsPort=70000", "metricsPort"),
    (
        "controller.readinessProbe.terminationGracePeriodSeconds=1",
        "terminationGracePeriodSeconds",
    ),
    ("speaker.image.digest=sha256:1234", "digest"),
    ("loadBalancerClass=a b", "loadBalancerClass"),
    ("speaker.bgpPort=179", "choose a higher port"),
    ("speaker.layer2Only=true,speaker.bgpPort=1179", "exclude each other"),
    ("networkpolicies.defaultDeny=true", "apiPorts"),
];

/// Renders all cases and says how many there are.
pub(super) fn run(root: &Path, manifest: &[Value], golden: &mut Golden<'_>) -> Result<usize> {
    let helm = Helm {
        program: ferrolb_controlplane::helm(&mut |line| println!("{line}"))?,
        root,
    };
    let defaults = documents(&helm.template(&[])?, "the chart with default values")?;
    same::assert("the chart with default values", &without_namespace(manifest), &defaults)?;
    let cases = files(&root.join(CASES), "yaml")?;
    ensure!(cases.len() > 3, "{CASES} has {} cases alone", cases.len());
    for case in &cases {
        let name = stem(case)?;
        let values = case
            .to_str()
            .with_context(|| format!("{} is no UTF-8", case.display()))?;
        helm.lint(values)?;
        let text = helm.template(&["--values", values])?;
        documents(&text, name)?;
        golden.compare(&format!("xtask/tests/chart/golden/{name}.yaml"), &short(&text))?;
    }
    for (set, says) in REFUSED {
        match helm.template(&["--set", set]) {
            Ok(_) => bail!("the chart takes {set}"),
            Err(error) => ensure!(
                error.to_string().contains(says),
                "{set}: nothing about {says} in: {error}"
            ),
        }
    }
    Ok(cases.len())
}

/// Helm makes the namespace, if it is told to; the chart does not.
fn without_namespace(manifest: &[Value]) -> Vec<Value> {
    let other = |document: &&Value| document["kind"] != "Namespace";
    manifest.iter().filter(other).cloned().collect()
}

/// Without the definitions, which are those of `deploy/crds`, and without the dashboard's panels.
fn short(text: &str) -> String {
    let mut kept = String::new();
    for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
        if document.contains("\nkind: CustomResourceDefinition\n") {
            continue;
        }
        let end = document
            .find("\n  ferrolb.json: |\n")
            .map_or(document.len(), |at| at + 1);
        kept.push_str("---\n");
        kept.push_str(document[..end].trim_end());
        kept.push('\n');
    }
    kept
}

struct Helm<'a> {
    program: PathBuf,
    root: &'a Path,
}

impl Helm<'_> {
    fn template(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .current_dir(self.root)
            .args(["template", "ferrolb", CHART, "--namespace", "ferrolb-system"])
            .args(["--kube-version", ferrolb_controlplane::KUBERNETES_VERSION])
            .args(arguments);
        output(&mut command, "helm template")
    }

    fn lint(&self, values: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.current_dir(self.root).args([
            "lint",
            CHART,
            "--strict",
            "--quiet",
            "--namespace",
            "ferrolb-system",
            "--values",
            values,
        ]);
        output(&mut command, "helm lint").map(drop)
    }
}
