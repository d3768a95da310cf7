//! The kinds of Service, one after the other, as the Kubernetes documentation shows them.

use anyhow::{Result, ensure};

use crate::manifests::{deployment, endpoint_slice, service, without_selector};
use crate::scene::Scene;

/// A ClusterIP Service is reachable inside, has no EXTERNAL-IP, and FerroLB writes nothing to it.
pub(crate) async fn cluster_ip(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service("web", "web", "type: ClusterIP")).await?;
    s.ready("web", 3).await?;
    let cluster_ip = s.cluster_ips("web").await?[0];
    s.page_from_node(0, cluster_ip, 80).await?;
    s.untouched("web").await
}

/// NodePorts, chosen by the user, answer on every node; there is no EXTERNAL-IP.
pub(crate) async fn node_port(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    for (name, ports) in [
        ("chosen", "- { port: 80, targetPort: 8080, nodePort: 30080 }"),
        ("low", "- { port: 80, targetPort: 8080, nodePort: 30011 }"),
        ("named", "- { port: 80, targetPort: http, nodePort: 32138 }"),
    ] {
        let manifest = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec:\n  type: NodePort\n  \
             selector: {{ app: web }}\n  ports:\n    {ports}\n"
        );
        s.apply(&manifest).await?;
    }
    s.ready("web", 2).await?;
    for (name, port) in [("chosen", 30080), ("low", 30011), ("named", 32138)] {
        for address in s.node_addresses() {
            s.page(address, port).await?;
        }
        s.untouched(name).await?;
    }
    Ok(())
}

/// A LoadBalancer Service shows its EXTERNAL-IP in `kubectl get svc`, is reached from outside on its port, and its
/// NodePort and ClusterIP keep working.
pub(crate) async fn load_balancer(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 3).await?;
    let address = s.addresses("web", 1).await?[0];
    let table = s.kubectl(&["get", "svc", "web"]).await?;
    ensure!(
        table.contains("EXTERNAL-IP") && table.contains(&address.to_string()),
        "kubectl shows:\n{table}"
    );
    s.page(address, 80).await?;

    let json = s.json("svc/web").await?;
    ensure!(
        json["status"]["loadBalancer"]["ingress"][0]["ipMode"] == "VIP",
        "ipMode is not VIP: {json}"
    );
    ensure!(
        json["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"] == s.namespace(),
        "the pool annotation is missing: {json}"
    );
    ensure!(
        json["metadata"]["finalizers"].is_null(),
        "a finalizer was added: {json}"
    );
    let node_port = json["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default() as u16;
    for node in s.node_addresses() {
        s.page(node, node_port).await?;
    }
    s.page_from_node(0, s.cluster_ips("web").await?[0], 80).await?;
    s.event("web", "IPAllocated", &address.to_string()).await?;

    let owner = s.owner(address).await?;
    let macs = s.who_answers(address).await?;
    ensure!(
        macs == [s.node_mac(&owner)],
        "{address} is answered by {macs:?}, its owner is {owner}"
    );
    Ok(())
}

/// `kubectl patch` through the types: the address is taken and freed each time.
pub(crate) async fn type_changes(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service("web", "web", "type: ClusterIP")).await?;
    s.ready("web", 1).await?;
    let turn = async |patch: &str| s.kubectl(&["patch", "svc", "web", "--type=merge", "-p", patch]).await;

    turn(r#"{"spec":{"type":"NodePort"}}"#).await?;
    s.untouched("web").await?;
    turn(r#"{"spec":{"type":"LoadBalancer"}}"#).await?;
    let first = s.addresses("web", 1).await?[0];
    s.page(first, 80).await?;
    turn(r#"{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":"","clusterIPs":null}}"#).await?;
    s.released("web", first).await?;
    turn(r#"{"spec":{"type":"LoadBalancer","externalName":null}}"#).await?;
    let second = s.addresses("web", 1).await?[0];
    ensure!(
        first == second,
        "within the cool-down the Service gets its address back: {first}, then {second}"
    );
    s.page(second, 80).await?;
    turn(r#"{"spec":{"type":"ClusterIP"}}"#).await?;
    s.released("web", second).await
}

/// ExternalName and headless Services never get an address.
pub(crate) async fn never_addressed(s: Scene) -> Result<()> {
    s.apply("apiVersion: v1\nkind: Service\nmetadata: { name: alias }\nspec: { type: ExternalName, externalName: example.com }\n")
        .await?;
    s.apply(&service("headless", "web", "clusterIP: None")).await?;
    s.untouched("alias").await?;
    s.untouched("headless").await
}

/// A Service without a selector, served by an EndpointSlice made by hand, and one by the old Endpoints object.
pub(crate) async fn selectorless(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let pod = s
        .pod_addresses("web")
        .await?
        .into_iter()
        .find(|a| a.is_ipv4())
        .expect("pods have IPv4");
    s.apply(&without_selector("by-slice")).await?;
    s.apply(&endpoint_slice("by-slice", pod)).await?;
    s.apply(&without_selector("by-endpoints")).await?;
    s.apply(&format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{ name: by-endpoints }}\nsubsets:\n  - addresses: [{{ ip: {pod} }}]\n    \
         ports: [{{ name: http, port: 8080, protocol: TCP }}]\n"
    ))
    .await?;
    for name in ["by-slice", "by-endpoints"] {
        let address = s.addresses(name, 1).await?[0];
        s.page(address, 80).await?;
    }
    Ok(())
}

/// `loadBalancerClass` set on a Service: not ours unless configured, and nothing is written to it.
pub(crate) async fn foreign_class(s: Scene) -> Result<()> {
    s.apply(&service(
        "theirs",
        "web",
        "type: LoadBalancer\nloadBalancerClass: example.com/other",
    ))
    .await?;
    s.untouched("theirs").await
}
