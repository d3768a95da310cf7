//! How MetalLB was started, as far as its pods say.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};

use crate::world::World;

/// Which of MetalLB's programs speaks BGP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BgpMode {
    /// The speaker itself.
    Native,
    /// FRR, beside the speaker or by frr-k8s.
    Frr,
    /// That cannot be seen.
    Unknown,
}

/// How the speakers in `namespace` speak BGP.
pub(super) fn bgp_mode(world: &World, namespace: &str) -> BgpMode {
    let daemons = world.daemon_sets.iter();
    let here = daemons.filter(|d| d.metadata.namespace.as_deref() == Some(namespace));
    let templates = here.filter_map(|d| Some(&d.spec.as_ref()?.template));
    match templates.filter_map(|t| container(t, "speaker")).next() {
        Some(speaker) => mode_of(speaker),
        None => BgpMode::Unknown,
    }
}

/// `METALLB_BGP_TYPE`; a speaker without it is native.
fn mode_of(speaker: &Container) -> BgpMode {
    let mut env = speaker.env.iter().flatten();
    match env.find(|variable| variable.name == "METALLB_BGP_TYPE") {
        Some(variable) => match variable.value.as_deref() {
            Some("native" | "") => BgpMode::Native,
            Some("frr" | "frr-k8s") => BgpMode::Frr,
            _ => BgpMode::Unknown,
        },
        None if speaker.env_from.iter().flatten().next().is_some() => BgpMode::Unknown,
        None => BgpMode::Native,
    }
}

/// The class of `--lb-class` that MetalLB's controller in `namespace` serves; `None`: that cannot be seen.
pub(super) fn class(world: &World, namespace: &str) -> Option<Option<String>> {
    let deployments = world.deployments.iter();
    let here = deployments.filter(|d| d.metadata.namespace.as_deref() == Some(namespace));
    let templates = here.filter_map(|d| Some(&d.spec.as_ref()?.template));
    let controller = templates.filter_map(|t| container(t, "controller")).next()?;
    let mut args = controller.command.iter().chain(&controller.args).flatten();
    let mut class = None;
    while let Some(arg) = args.next() {
        // Go's flags begin with one hyphen or two.
        let flag = arg.trim_start_matches('-');
        if flag.len() == arg.len() {
            continue;
        }
        match flag.split_once('=') {
            Some(("lb-class", value)) => class = Some(value.to_owned()),
            None if flag == "lb-class" => class = args.next().cloned(),
            _ => {}
        }
    }
    Some(class.filter(|class| !class.is_empty()))
}

fn container<'a>(template: &'a PodTemplateSpec, name: &str) -> Option<&'a Container> {
    let mut containers = template.spec.iter().flat_map(|spec| &spec.containers);
    containers.find(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(kind: &str, name: &str, container: &str) -> World {
        let mut world = World::new("ferrolb-system");
        let object = format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: metallb-system }}\nspec:\n  \
             selector: {{}}\n  template: {{ metadata: {{}}, spec: {{ containers: [{{ name: sidecar }}, {container}] }} }}\n"
        );
        world.read(&object).unwrap();
        world
    }

    #[test]
    fn the_mode_is_that_of_the_speaker() {
        let mode = |more: &str| {
            let container = format!("{{ name: speaker, {more} }}");
            bgp_mode(&world("DaemonSet", "speaker", &container), "metallb-system")
        };
        let env = |value: &str| {
            mode(&format!(
                "env: [{{ name: A, value: b }}, {{ name: METALLB_BGP_TYPE, {value} }}]"
            ))
        };
        assert_eq!(mode("env: []"), BgpMode::Native);
        assert_eq!(env("value: native"), BgpMode::Native);
        assert_eq!(env("value: frr"), BgpMode::Frr);
        assert_eq!(env("value: frr-k8s"), BgpMode::Frr);
        let from = "valueFrom: { configMapKeyRef: { name: c, key: k } }";
        assert_eq!(env(from), BgpMode::Unknown);
        assert_eq!(mode("envFrom: [{ configMapRef: { name: c } }]"), BgpMode::Unknown);
        let other = world("DaemonSet", "speaker", "{ name: else }");
        assert_eq!(bgp_mode(&other, "metallb-system"), BgpMode::Unknown);
        let elsewhere = world("DaemonSet", "speaker", "{ name: speaker }");
        assert_eq!(bgp_mode(&elsewhere, "other"), BgpMode::Unknown);
    }

    #[test]
    fn the_class_is_that_of_the_flag() {
        let class = |args: &str| {
            let container = format!("{{ name: controller, args: {args} }}");
            class(&world("Deployment", "controller", &container), "metallb-system")
        };
        let named = Some(Some("example.com/lb".to_owned()));
        assert_eq!(class("[--port=7472]"), Some(None));
        assert_eq!(class("[--lb-class=]"), Some(None));
        assert_eq!(class("[--port=7472, --lb-class=example.com/lb]"), named);
        assert_eq!(class("[-lb-class, example.com/lb]"), named);
        assert_eq!(super::class(&World::new("ferrolb-system"), "metallb-system"), None);
    }
}
