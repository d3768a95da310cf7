//! What to do, in which order.

use ferrolb_model::Config;
use serde::Serialize;

use super::Found;

/// One thing to do.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// What, in words.
    pub what: String,
    /// As one types it.
    pub commands: Vec<String>,
    /// What clients see of it.
    pub gap: String,
}

/// The way from what was found to FerroLB in `own`.
pub(super) fn procedure(found: &Found, config: &Config, own: &str) -> Vec<Stage> {
    let of = &found.namespace;
    let stage = |what: &str, commands: Vec<String>, gap: &str| Stage {
        what: what.to_owned(),
        commands,
        gap: gap.to_owned(),
    };
    let programs = &found.programs;
    let controllers = names(&programs.controllers, "controller");
    let speakers = names(&programs.speakers, "speaker");
    let none = "none";
    let mut stages = vec![stage(
        "Look on while MetalLB works, for a day say: what FerroLB would do, whenever something changes. It only reads",
        vec![format!("kubectl ferrolb migrate --metallb-namespace {of} shadow")],
        none,
    )];
    stages.push(stage(
        "Write down what is there: the objects for FerroLB, and who has which address",
        vec![
            format!("kubectl ferrolb migrate --metallb-namespace {of} objects > ferrolb-objects.yaml"),
            "kubectl get services -A -o yaml > services-before.yaml".to_owned(),
        ],
        none,
    ));
    stages.push(stage(
        "Have FerroLB's images on the nodes, so that no step waits for them",
        Vec::new(),
        none,
    ));
    stages.push(stage(
        "Stop MetalLB's controller; nobody gives or takes addresses, and its speakers go on announcing. A controller that \
         runs without pools would clear the addresses of Services",
        vec![format!("kubectl -n {of} scale deployment {controllers} --replicas=0")],
        "none for clients; new Services wait",
    ));
    if !found.webhooks.is_empty() {
        stages.push(stage(
            "Delete MetalLB's webhook configuration, which has nobody to ask now and so refuses every pool",
            found
                .webhooks
                .iter()
                .map(|name| format!("kubectl delete validatingwebhookconfiguration {name}"))
                .collect(),
            none,
        ));
    }
    if !found.conversions.is_empty() {
        let commands = found.conversions.iter().map(|definition| {
            let plural = definition.split('.').next().unwrap_or_default();
            format!("kubectl replace -f deploy/crds/metallb.io_{plural}.yaml")
        });
        stages.push(stage(
            "Replace the definitions that MetalLB's webhook converts; an apply may leave the webhook where it is",
            commands.collect(),
            none,
        ));
    }
    let gap = match (
        config.l2_advertisements.is_empty(),
        config.bgp_advertisements.is_empty(),
    ) {
        (false, true) => "until the first of FerroLB's speakers runs and has announced: the time of a container start",
        (true, false) => "until FerroLB's sessions stand; routers drop MetalLB's routes when its sessions end",
        _ => "until FerroLB's speakers run, and by BGP until their sessions stand",
    };
    stages.push(stage(
        "Stop MetalLB's speakers and start FerroLB, which takes over the addresses in the status of Services before it \
         gives new ones",
        vec![
            format!("kubectl -n {of} delete daemonset {speakers}"),
            "kubectl apply --server-side --force-conflicts -f deploy/manifests/ferrolb.yaml".to_owned(),
            "kubectl apply -f ferrolb-objects.yaml".to_owned(),
        ],
        gap,
    ));
    stages.push(stage(
        "Look at it",
        vec!["kubectl ferrolb status".to_owned(), "kubectl ferrolb why -A".to_owned()],
        none,
    ));
    stages.push(stage(
        &format!("Remove what is left of MetalLB. Not its definitions, which FerroLB in {own} uses, and not with a tool that deletes them"),
        vec![format!("kubectl -n {of} delete deployment {controllers}")],
        none,
    ));
    stages
}

/// As arguments of a command; those of MetalLB's manifest where none were found.
fn names(found: &[String], of_manifest: &str) -> String {
    match found {
        [] => of_manifest.to_owned(),
        found => found.join(" "),
    }
}
