//! Who may talk to the API server, and the files that let them.
//!
//! Static tokens: they need no signing round trip, and RBAC treats their users like any other.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

/// A user of the API server with a static token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// May do everything (`system:masters`).
    Admin,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// Every kube-proxy.
    Proxy,
    /// The kubelet of the node of that name: what the Node authorizer lets it do.
    Node(String),
}

impl User {
    /// The name that the API server knows.
    pub fn name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::ControllerManager => "system:kube-controller-manager".to_owned(),
            Self::Scheduler => "system:kube-scheduler".to_owned(),
            Self::Proxy => "system:kube-proxy".to_owned(),
            Self::Node(name) => format!("system:node:{name}"),
        }
    }

    fn group(&self) -> Option<&'static str> {
        match self {
            Self::Admin => Some("system:masters"),
            Self::Node(_) => Some("system:nodes"),
            Self::ControllerManager | Self::Scheduler | Self::Proxy => None,
        }
    }

    /// The base name of the user's kubeconfig file.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.kubeconfig", self.name().replace(':', "-"))
    }
}

/// Lines for `--token-auth-file`: token, name, id, groups.
pub(crate) fn token_file(users: &[(User, String)]) -> String {
    let mut lines = String::new();
    for (user, token) in users {
        let name = user.name();
        let group = user.group().map(|group| format!(",{group}")).unwrap_or_default();
        writeln!(lines, "{token},{name},{name}{group}").expect("write to a string");
    }
    lines
}

/// A kubeconfig for `server` with the authority's certificate and a token; JSON, which is YAML too.
pub(crate) fn kubeconfig(server: &str, authority: &Path, user: &str, token: &str) -> String {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    });
    format!("{value:#}\n")
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| format!("protect {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_follow_the_user() {
        let users = [
            (User::Admin, "a".to_owned()),
            (User::Node("n".into()), "b".to_owned()),
            (User::Proxy, "c".into()),
        ];
        let expected = "a,admin,admin,system:masters\nb,system:node:n,system:node:n,system:nodes\n\
                        c,system:kube-proxy,system:kube-proxy\n";
        assert_eq!(token_file(&users), expected);
    }
}
