//! What clients see: several ports, affinity, rolling updates, a proxy in front of two applications.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::manifests::{deployment, service};
use crate::scene::Scene;

/// Several ports, TCP and UDP, in one Service.
pub(crate) async fn several_ports(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: many }\nspec:\n  type: LoadBalancer\n  selector: { app: web }\n  ports:\n    \
         - { name: http, port: 80, targetPort: http }\n    - { name: echo, port: 9000 }\n    \
         - { name: dns, port: 53, targetPort: 5353, protocol: UDP }\n",
    )
    .await?;
    s.ready("web", 2).await?;
    let address = s.addresses("many", 1).await?[0];
    s.page(address, 80).await?;
    s.tcp_echo(address, 9000).await?;
    s.udp_echo(address, 53).await
}

/// `sessionAffinity: ClientIP` keeps a client on one pod; without it, it is spread.
pub(crate) async fn session_affinity(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service(
        "sticky",
        "web",
        "type: LoadBalancer\nsessionAffinity: ClientIP",
    ))
    .await?;
    s.apply(&service("spread", "web", "type: LoadBalancer")).await?;
    s.ready("web", 3).await?;
    let pods = async |name: &str| -> Result<BTreeSet<String>> {
        let address = s.addresses(name, 1).await?[0];
        let mut seen = BTreeSet::new();
        for _ in 0..24 {
            seen.insert(s.page(address, 80).await?.pod);
        }
        Ok(seen)
    };
    let (sticky, spread) = (pods("sticky").await?, pods("spread").await?);
    ensure!(sticky.len() == 1, "with affinity, one client met {sticky:?}");
    ensure!(
        spread.len() > 1,
        "without affinity, 24 connections met {spread:?} alone"
    );
    Ok(())
}

/// `externalTrafficPolicy: Local` keeps the client's address, and a node with an endpoint announces.
pub(crate) async fn local_traffic_policy(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.apply(&service(
        "local",
        "web",
        "type: LoadBalancer\nexternalTrafficPolicy: Local",
    ))
    .await?;
    s.ready("web", 1).await?;
    let address = s.addresses("local", 1).await?[0];
    let page = s.page(address, 80).await?;
    ensure!(
        s.client_addresses().contains(&page.client),
        "the pod saw {}, not the client",
        page.client
    );
    ensure!(
        page.node == s.owner(address).await?,
        "the pod runs on {}, which does not announce",
        page.node
    );
    Ok(())
}

/// A rolling update under a steady client: no failed request beyond those that it retries once.
pub(crate) async fn rolling_update(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 3)).await?;
    s.apply(&service("web", "web", "type: LoadBalancer")).await?;
    s.ready("web", 3).await?;
    let address = s.addresses("web", 1).await?[0];
    s.page(address, 80).await?;

    let client = s.steady_client(address, 80, Duration::from_millis(2))?;
    s.kubectl(&["set", "env", "deployment/web", "RELEASE=2"]).await?;
    s.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])
        .await?;
    // Until the last old pod is gone, not only until the last new one is there.
    s.ready("web", 3).await?;
    let seen = client.stop()?;
    ensure!(seen.requests > 50, "too few requests to tell: {seen:?}");
    ensure!(seen.failed == 0, "requests failed twice in a row: {seen:?}");
    Ok(())
}

/// A real nginx as an Ingress-style proxy behind one LoadBalancer Service, routing two host names to two ClusterIP
/// Services.
pub(crate) async fn proxy_for_two_hosts(s: Scene) -> Result<()> {
    for app in ["shop", "blog"] {
        s.apply(&deployment(app, 1)).await?;
        s.apply(&service(app, app, "type: ClusterIP")).await?;
    }
    let (shop, blog) = (s.cluster_ips("shop").await?[0], s.cluster_ips("blog").await?[0]);
    let server = |host: &str, upstream| {
        format!(
            "      server {{\n        listen 80;\n        listen [::]:80;\n        server_name {host};\n        location / {{\n          \
             proxy_pass http://{upstream};\n          proxy_set_header Host $host;\n        }}\n      }}\n"
        )
    };
    s.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: routes }}\ndata:\n  default.conf: |\n{}{}",
        server("shop.example", shop),
        server("blog.example", blog)
    ))
    .await?;
    s.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: proxy }
spec:
  selector: { matchLabels: { app: proxy } }
  template:
    metadata: { labels: { app: proxy } }
    spec:
      containers:
        - name: nginx
          image: nginx:1.27
          ports: [{ containerPort: 80 }]
          readinessProbe: { tcpSocket: { port: 80 }, periodSeconds: 1 }
          volumeMounts: [{ name: routes, mountPath: /etc/nginx/conf.d }]
      volumes:
        - name: routes
          configMap: { name: routes }
---
apiVersion: v1
kind: Service
metadata: { name: proxy }
spec:
  type: LoadBalancer
  selector: { app: proxy }
  ports: [{ port: 80 }]
"#,
    )
    .await?;
    for app in ["shop", "blog", "proxy"] {
        s.ready(app, 1).await?;
    }
    let address = s.addresses("proxy", 1).await?[0];
    for app in ["shop", "blog"] {
        let page = s.page_of_host(address, 80, &format!("{app}.example")).await?;
        ensure!(page.pod.starts_with(app), "{app}.example was answered by {}", page.pod);
    }
    Ok(())
}
