//! The scenarios: each a short story about a real cluster, told from outside.

use anyhow::{Result, ensure};
use ferrolb_lab::{Group, Harness, Setup, Story};

fn main() -> std::process::ExitCode {
    let bare = Setup {
        ferrolb: false,
        ..Setup::named("bare")
    };
    Harness::new()
        .group(Group::new(bare).scenario("three_nodes_are_ready", three_nodes_are_ready))
        .run()
}

/// The ground under every other scenario: the cluster is up without FerroLB in it.
async fn three_nodes_are_ready(story: Story) -> Result<()> {
    let nodes = story.kubectl(&["get", "nodes", "--no-headers"]).await?;
    ensure!(
        nodes.lines().filter(|line| line.contains(" Ready ")).count() == 3,
        "{nodes}"
    );
    Ok(())
}
