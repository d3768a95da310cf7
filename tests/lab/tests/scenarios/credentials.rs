//! Tokens and certificates that change under a program that runs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ferrolb_controlplane::{Authority, Issued};
use ferrolb_lab::lab::NAMESPACE;
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::told::Teller;

/// A kubeconfig as the lab's programs have it, with other credentials; for everybody to read.
pub(crate) fn kubeconfig(s: &Scene, name: &str, credentials: Value) -> Result<String> {
    let path = s.run_dir().join(format!("{name}.kubeconfig"));
    let text = fs::read_to_string(s.run_dir().join("ferrolb-controller.kubeconfig"))?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["users"][0]["user"] = credentials;
    write_for_all(&path, &config.to_string())?;
    Ok(path.display().to_string())
}

fn write_for_all(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // As the kubelet does it: nobody sees half a file.
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))?;
    fs::rename(&temporary, path).with_context(|| format!("write {}", path.display()))
}

/// A service account token that is not good any more: not ready, with a reason; the program goes on with the next one that
/// stands in the file, without a restart. The API server gives no token for less than ten minutes: this one is bound to a
/// Secret that is deleted, which the API server answers as it does one that has expired.
pub(crate) async fn token_renewed(s: Scene) -> Result<()> {
    let controller = Teller::controller(&s);
    let kubectl = async |args: &[&str]| s.lab().kubectl(&[&["-n", NAMESPACE], args].concat()).await;
    kubectl(&["create", "secret", "generic", "bound"]).await?;
    let bound = [
        "create",
        "token",
        "ferrolb-controller",
        "--bound-object-kind=Secret",
        "--bound-object-name=bound",
    ];
    let file = s.run_dir().join("token");
    write_for_all(&file, &kubectl(&bound).await?)?;
    let config = kubeconfig(&s, "bound", json!({ "tokenFile": file }))?;
    let own = s.controller().spec();
    let mut spec = own.clone();
    let at = spec
        .args
        .iter()
        .position(|arg| arg == "--kubeconfig")
        .context("--kubeconfig")?;
    spec.args[at + 1] = config.into();
    s.controller().restart_with(spec)?;
    let told = async {
        controller.well().await?;
        let pid = s.controller().pid();
        kubectl(&["delete", "secret", "bound"]).await?;
        controller
            .shows(503, "does not accept this program's token (401)")
            .await?;
        controller.logged("does not accept this program's token (401)")?;
        write_for_all(&file, &kubectl(&["create", "token", "ferrolb-controller"]).await?)?;
        controller.well().await?;
        controller
            .event("ferrolbNotReady", "does not accept this program's token (401)")
            .await?;
        s.fence().await?;
        ensure!(s.controller().pid() == pid, "it was restarted");
        anyhow::Ok(())
    }
    .await;
    s.controller().restart_with(own)?;
    told?;
    controller.well().await
}

/// The API server's certificate is renewed by the same authority: nobody notices. By another authority: the program says that it
/// does not trust it (an event would have nowhere to go), and trusts it as soon as the file with the authorities has the new one beside the
/// old; without a restart.
pub(crate) async fn certificate_renewed(s: Scene) -> Result<()> {
    let controller = Teller::controller(&s);
    let file = |name: &str| s.run_dir().join("kubernetes").join(name);
    let read = |name: &str| fs::read_to_string(file(name)).with_context(|| format!("read {name}"));
    let before = ["apiserver.crt", "apiserver.key", "ca.crt"];
    let before = before.map(|name| read(name).map(|text| (name, text)));
    let before = before.into_iter().collect::<Result<Vec<_>>>()?;
    let pid = s.controller().pid();
    let told = async {
        serve(&s, &certificate(&s, s.authority())?)?;
        s.wait_api_ready().await?;
        controller.well().await?;
        s.fence().await?;

        let authority = Authority::new()?;
        serve(&s, &certificate(&s, &authority)?)?;
        let unknown = "signed by none of the authorities in";
        controller.shows(503, unknown).await?;
        controller.logged(unknown)?;
        let both = read("ca.crt")? + &authority.certificate();
        fs::write(file("ca.crt"), both)?;
        controller.well().await?;
        ensure!(s.controller().pid() == pid, "it was restarted");
        anyhow::Ok(())
    }
    .await;
    for (name, text) in before {
        fs::write(file(name), text)?;
    }
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    told?;
    s.wait_ferrolb_ready().await?;
    s.fence().await
}

/// A certificate for the API server.
fn certificate(s: &Scene, authority: &Authority) -> Result<Issued> {
    let mut addresses = s.control_plane().addresses();
    addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let names = ["kubernetes", "kubernetes.default.svc", "localhost"];
    authority.server("kube-apiserver", &names, &addresses)
}

/// Has the API server show this certificate from now on, to everybody.
fn serve(s: &Scene, issued: &Issued) -> Result<()> {
    let folder = s.run_dir().join("kubernetes");
    s.api_server().kill();
    fs::write(folder.join("apiserver.crt"), &issued.certificate)?;
    fs::write(folder.join("apiserver.key"), &issued.key)?;
    s.api_server().restart()
}
