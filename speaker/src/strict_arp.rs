//! Whether this node's kernel answers ARP for the addresses of Services by itself. In its IPVS mode kube-proxy binds them to
//! the interface `kube-ipvs0` of every node, and Linux answers for an address on whatever interface the question comes in on,
//! unless `arp_ignore` forbids it (strict ARP in kube-proxy's configuration). Then every node answers, and no speaker can do
//! anything about it but say so.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ferrolb_runtime::readiness::{Check, Readiness};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// The settings of IPv4, by interface (<https://docs.kernel.org/networking/ip-sysctl.html>).
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";

/// Where kube-proxy binds addresses in its IPVS mode.
const INTERFACE: &str = "kube-ipvs0";

/// Looks from time to time until `stop` is cancelled.
pub(crate) fn watch(
    readiness: &Readiness,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
    let check = readiness.sound_check("strict ARP");
    async move {
        let mut said = false;
        loop {
            look(Path::new(SETTINGS), &check, &mut said);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }
}

fn look(settings: &Path, check: &Check, said: &mut bool) {
    match trouble(settings) {
        Some(why) => {
            if !std::mem::replace(said, true) {
                warn!("{why}");
            }
            check.warn(why);
        }
        None if std::mem::take(said) => {
            info!("this node answers ARP for the addresses of Services only where they are announced again");
            check.ready();
        }
        None => {}
    }
}

/// What is wrong with the settings.
fn trouble(settings: &Path) -> Option<String> {
    settings.join(INTERFACE).is_dir().then_some(())?;
    let ignore = fs::read_to_string(settings.join("all/arp_ignore")).ok()?;
    (ignore.trim() == "0").then(|| {
        format!(
            "kube-proxy runs in IPVS mode without strict ARP: this node answers ARP for every address that it has bound to {INTERFACE}, \
             whoever announces it. Set ipvs.strictARP: true in kube-proxy's configuration and restart it (net.ipv4.conf.all.arp_ignore \
             is 0)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_bound_everywhere_without_strict_arp_are_told() {
        let settings = std::env::temp_dir().join(format!("ferrolb-arp-{}", std::process::id()));
        fs::create_dir_all(settings.join("all")).unwrap();
        let set = |value: &str| fs::write(settings.join("all/arp_ignore"), value).unwrap();
        let readiness = Readiness::default();
        let check = readiness.sound_check("strict ARP");
        let mut said = false;
        let mut look = || {
            look(&settings, &check, &mut said);
            readiness.troubles().warnings.join("")
        };
        set("0\n");
        assert_eq!(look(), "", "another mode of kube-proxy");
        fs::create_dir_all(settings.join(INTERFACE)).unwrap();
        assert!(look().contains("strictARP: true"));
        set("1\n");
        assert_eq!(look(), "");
        fs::remove_dir_all(&settings).unwrap();
    }
}
