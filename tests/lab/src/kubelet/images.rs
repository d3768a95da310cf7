//! What an image name means here: a program of this machine, with the files its image would bring.
//!
//! | image | what runs |
//! | --- | --- |
//! | `ferrolb.lab/web` | `lab_pod web`; arguments replace `--http 8080` |
//! | `nginx` | the machine's `/usr/sbin/nginx`, serving its page on port 80 unless a ConfigMap says otherwise |
//!
//! A registry, a tag and a digest before and after these names mean nothing, so that manifests from elsewhere work.
//! `command` replaces the program, as in Kubernetes; it may be any program of the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

/// An image: what a container made from it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The program and its fixed arguments; `command` replaces it.
    pub entrypoint: Vec<String>,
    /// The arguments after it; `args` replaces them, and `command` drops them.
    pub arguments: Vec<String>,
    /// What asks the program to end.
    pub stop_signal: Signal,
    /// Files over the machine's: absolute path and content.
    pub files: Vec<(PathBuf, String)>,
}

impl Image {
    /// An image without files whose program ends on SIGTERM.
    pub fn new<S: Into<String>>(entrypoint: impl IntoIterator<Item = S>) -> Self {
        Self {
            entrypoint: entrypoint.into_iter().map(Into::into).collect(),
            arguments: Vec::new(),
            stop_signal: Signal::SIGTERM,
            files: Vec::new(),
        }
    }

    /// Sets the arguments that `args` replaces.
    pub fn arguments<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }
}

/// All the images a node can run.
#[derive(Debug, Clone)]
pub struct Images {
    lab_pod: PathBuf,
    table: BTreeMap<String, Image>,
}

impl Images {
    /// The images of the lab, run by the `lab_pod` executable at the given path.
    pub fn new(lab_pod: impl Into<PathBuf>) -> Self {
        let lab_pod = lab_pod.into();
        let web = Image::new([lab_pod.to_string_lossy().as_ref(), "web"]).arguments(["--http", "8080"]);
        let table = [("ferrolb.lab/web".to_owned(), web), ("nginx".to_owned(), nginx())].into();
        Self { lab_pod, table }
    }

    /// The images of the lab, run by the `lab_pod` that was built together with this program.
    ///
    /// # Errors
    /// When there is none.
    pub fn built() -> Result<Self> {
        Ok(Self::new(built_lab_pod()?))
    }

    /// Adds an image, or replaces one.
    pub fn with(mut self, name: impl Into<String>, image: Image) -> Self {
        self.table.insert(name.into(), image);
        self
    }

    /// The executable that makes containers.
    pub(super) fn lab_pod(&self) -> &std::path::Path {
        &self.lab_pod
    }

    /// What `reference` means, if anything.
    pub fn resolve(&self, reference: &str) -> Option<&Image> {
        let name = repository(reference);
        let without_registry = name.strip_prefix("docker.io/").unwrap_or(name);
        let short = without_registry.strip_prefix("library/").unwrap_or(without_registry);
        self.table.get(short)
    }
}

/// A reference without tag and digest. A colon in the first part is a registry's port.
fn repository(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// The executable that was built together with this program.
pub(crate) fn built_lab_pod() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERROLB_LAB_POD") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // A test executable lies one directory below the programs.
    let candidates = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("lab_pod"));
    match candidates.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no lab_pod beside {}: cargo build -p ferrolb-lab --bins", own.display()),
    }
}

/// Debian's nginx, set out as in the image: `nginx.conf` includes `conf.d`, whose default serves a page on port 80.
fn nginx() -> Image {
    let files = [
        (
            "/etc/nginx/nginx.conf",
            "user root;\nworker_processes 1;\nerror_log /dev/stderr notice;\npid /run/nginx.pid;\n\
             events { worker_connections 1024; }\n\
             http {\n    access_log /dev/stdout;\n    keepalive_timeout 65;\n    include /etc/nginx/conf.d/*.conf;\n}\n",
        ),
        (
            "/etc/nginx/conf.d/default.conf",
            "server {\n    listen 80;\n    listen [::]:80;\n    \
             location / { root /usr/share/nginx/html; index index.html; }\n}\n",
        ),
        (
            "/usr/share/nginx/html/index.html",
            "<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>nginx</h1>\n",
        ),
    ];
    Image {
        entrypoint: vec!["/usr/sbin/nginx".into()],
        arguments: vec!["-g".into(), "daemon off;".into()],
        // nginx finishes its requests on SIGQUIT and drops them on SIGTERM; its image says so.
        stop_signal: Signal::SIGQUIT,
        files: files
            .into_iter()
            .map(|(path, content)| (path.into(), content.to_owned()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_find_their_program() {
        let images = Images::new("/x/lab_pod");
        for (reference, program) in [
            ("nginx", Some("/usr/sbin/nginx")),
            ("nginx:1.25-alpine", Some("/usr/sbin/nginx")),
            ("docker.io/library/nginx@sha256:abc", Some("/usr/sbin/nginx")),
            ("library/nginx:latest@sha256:abc", Some("/usr/sbin/nginx")),
            ("ferrolb.lab/web", Some("/x/lab_pod")),
            ("ferrolb.lab/web:v2", Some("/x/lab_pod")),
            ("nginxinc/nginx-unprivileged", None),
            ("registry:5000/nginx", None),
            ("", None),
        ] {
            let found = images.resolve(reference).map(|image| image.entrypoint[0].as_str());
            assert_eq!(found, program, "{reference}");
        }
    }

    #[test]
    fn an_image_of_ones_own_can_be_added() {
        let images = Images::new("/x/lab_pod").with("example/app", Image::new(["/bin/true"]));
        assert_eq!(images.resolve("example/app:7").unwrap().entrypoint, ["/bin/true"]);
    }
}
