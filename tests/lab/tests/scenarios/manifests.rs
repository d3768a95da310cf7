//! Manifests as a user would write them; only the image is the lab's.

use std::net::IpAddr;

/// A Deployment of the lab's web server, called `name`, with `replicas` pods that listen on 8080 (HTTP, a port named
/// `http`), 9000 (TCP echo) and 5353 (UDP echo).
pub(crate) fn deployment(name: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{ app: {name} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata:
      labels: {{ app: {name} }}
    spec:
      containers:
        - name: web
          image: ferrolb.lab/web:1
          args: ["--http", "8080", "--tcp", "9000", "--udp", "5353"]
          ports:
            - {{ name: http, containerPort: 8080 }}
          env:
            - {{ name: NODE_NAME, valueFrom: {{ fieldRef: {{ fieldPath: spec.nodeName }} }} }}
          # For a receive queue of seconds: beyond it a busy machine would lose what is counted.
          securityContext: {{ runAsUser: 0, capabilities: {{ add: [NET_ADMIN] }} }}
          readinessProbe:
            httpGet: {{ path: /healthz, port: http }}
            periodSeconds: 1
"#
    )
}

/// A Service called `name` for the pods of the Deployment `app`, port 80 to 8080, with further lines of its spec.
pub(crate) fn service(name: &str, app: &str, spec: &str) -> String {
    let more = spec
        .trim()
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect::<String>();
    format!(
        r#"
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  selector: {{ app: {app} }}
  ports:
    - {{ name: http, port: 80, targetPort: 8080 }}
{more}"#
    )
}

/// A Service as [`service`] makes it, with annotations (`key: value` lines).
pub(crate) fn annotated(name: &str, app: &str, annotations: &str, spec: &str) -> String {
    let lines = annotations
        .trim()
        .lines()
        .map(|line| format!("    {}\n", line.trim()))
        .collect::<String>();
    service(name, app, spec).replacen("spec:\n", &format!("  annotations:\n{lines}spec:\n"), 1)
}

/// A LoadBalancer Service without a selector, port 80, called `name`.
pub(crate) fn without_selector(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  type: LoadBalancer
  ports:
    - {{ name: http, port: 80, targetPort: 8080 }}
"#
    )
}

/// The one endpoint, on port 8080, of the Service of that name.
pub(crate) fn endpoint_slice(service: &str, pod: IpAddr) -> String {
    let family = if pod.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-1
  labels: {{ kubernetes.io/service-name: {service} }}
addressType: {family}
ports:
  - {{ name: http, port: 8080, protocol: TCP }}
endpoints:
  - addresses: ["{pod}"]
"#
    )
}

/// A pool in FerroLB's namespace that only the Services of `namespace` may use.
pub(crate) fn pool(name: &str, namespace: &str, addresses: &[&str]) -> String {
    let list = addresses
        .iter()
        .map(|a| format!("{a:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        r#"
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: {name}
  namespace: ferrolb-system
spec:
  addresses: [{list}]
  serviceAllocation:
    namespaces: [{namespace}]
"#
    )
}

/// A pool as [`pool`] makes it, with further lines of its `serviceAllocation` and of its spec. Without a namespace it is
/// open to all that `allocation` admits.
pub(crate) fn pool_with(name: &str, namespace: &str, addresses: &[&str], allocation: &str, spec: &str) -> String {
    let indented = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let mut yaml = pool(name, namespace, addresses);
    if namespace.is_empty() {
        yaml = yaml.replacen("    namespaces: []\n", "", 1);
    }
    yaml + &indented(allocation, "    ") + &indented(spec, "  ")
}

/// An L2Advertisement of these pools on all nodes, called like the first.
pub(crate) fn advertisement(pools: &[String]) -> String {
    let (name, list) = (&pools[0], pools.join(", "));
    format!(
        r#"
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: {name}
  namespace: ferrolb-system
spec:
  ipAddressPools: [{list}]
"#
    )
}
