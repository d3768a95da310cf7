//! The scenarios: each a short story about a real cluster, told from outside.
//!
//! Read `scene.rs` for the words they are told in. A group shares a cluster; what breaks a cluster's programs stands in
//! a group of its own, so that the others need not mend it.

mod allocation;
mod availability;
mod bad_input;
mod bgp;
mod bgp_changes;
mod bgp_nodes;
mod bgp_peers;
mod chart;
mod cli;
mod conflicts;
mod contract;
mod credentials;
mod data_path;
mod drains;
mod failover;
mod families;
mod ground;
mod hand_over;
mod hostile;
mod install;
mod install_bgp;
mod keys;
mod manifests;
mod migration;
mod mistakes;
mod monitoring;
mod nodes;
mod other_routers;
mod outages;
mod partitions;
mod pools;
mod rights;
mod rivals;
mod router;
mod scene;
mod services;
mod shell;
mod speakers;
mod told;
mod traffic;
/// What the tests of one session say to it, too.
#[path = "../../../../speaker/bgp/tests/model/wrong.rs"]
mod wrong;

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use ferrolb_lab::{Families, Group, Harness, NodeKind, ProxyMode, Setup, Story};

use scene::Scene;

fn main() -> std::process::ExitCode {
    let bare = Setup {
        ferrolb: false,
        ..Setup::named("bare")
    };
    let allocation = Setup {
        nodes: 2,
        ..Setup::named("allocation")
    };
    let iptables = Setup {
        nodes: 2,
        proxy: ProxyMode::Iptables,
        ..Setup::named("iptables")
    };
    let ipv6 = Setup {
        nodes: 4,
        families: Families::V6,
        ..Setup::named("ipv6")
    };
    let availability = Setup {
        nodes: 1,
        controllers: 2,
        ..Setup::named("availability")
    };
    let failover = Setup {
        nodes: 4,
        ..Setup::named("failover")
    };
    // As by default in Kubernetes: with less, a slow start of the API server costs Services their endpoints.
    let bgp_outages = Setup {
        node_monitor_grace: Duration::from_secs(40),
        ..Setup::named("bgp-outages")
    };
    // Speakers run as nobody, and listen for routers nevertheless.
    let bgp_peers = Setup {
        speaker_args: vec![format!("--bgp-port={}", bgp_peers::PORT)],
        ..Setup::named("bgp-peers")
    };
    // One node, which announces whatever there is.
    let rights = Setup {
        nodes: 1,
        ..Setup::named("rights")
    };
    let mistakes = Setup {
        nodes: 2,
        ..Setup::named("mistakes")
    };
    // What a backend runs on, and three candidates for its address.
    let install = Setup {
        nodes: 4,
        kind: NodeKind::Real,
        ferrolb: false,
        ..Setup::named("install")
    };
    Harness::new()
        .group(
            Group::new(bare)
                .scenario("three_nodes_are_ready", ground::three_nodes_are_ready)
                .scenario("confined_program", ground::confined_program)
                .scenario("node_without_api_server", ground::node_without_api_server)
                .scenario("node_without_link", ground::node_without_link)
                .scenario("node_without_kubelet_or_power", ground::node_without_kubelet_or_power)
                .scenario("killed_lab_is_swept", ground::killed_lab_is_swept),
        )
        .group(
            Group::new(Setup::named("nftables"))
                .scenario("cluster_ip", with_pool(services::cluster_ip))
                .scenario("node_port", with_pool(services::node_port))
                .scenario("load_balancer", with_pool(services::load_balancer))
                .scenario("type_changes", with_pool(services::type_changes))
                .scenario("never_addressed", with_pool(services::never_addressed))
                .scenario("selectorless", with_pool(services::selectorless))
                .scenario("foreign_class", with_pool(services::foreign_class))
                .scenario("several_ports", with_pool(traffic::several_ports))
                .scenario("session_affinity", with_pool(traffic::session_affinity))
                .scenario("local_traffic_policy", with_pool(traffic::local_traffic_policy))
                .scenario("rolling_update", with_pool(traffic::rolling_update))
                .scenario("proxy_for_two_hosts", with_pool(traffic::proxy_for_two_hosts))
                .scenario("ipv6_only", with_pool(families::ipv6_only))
                .scenario("dual_stack", with_pool(families::dual_stack))
                .scenario("second_family_later", with_pool(families::second_family_later))
                .scenario("bad_flags", without_pool(contract::bad_flags))
                .scenario("admin_endpoints", with_pool(contract::admin_endpoints))
                .scenario("capabilities", without_pool(contract::capabilities)),
        )
        .group(
            Group::new(Setup::named("bad-input"))
                .scenario("no_pool", without_pool(bad_input::no_pool))
                .scenario("exhausted_pool", without_pool(bad_input::exhausted_pool))
                .scenario("malformed_pools", with_pool(bad_input::malformed_pools))
                .scenario("malformed_requests", with_pool(bad_input::malformed_requests))
                .scenario("requests", with_pool(bad_input::requests))
                .scenario("reserved_and_blocked", with_pool(bad_input::reserved_and_blocked)),
        )
        .group(
            Group::new(allocation)
                .scenario("pools_by_priority", without_pool(allocation::pools_by_priority))
                .scenario("namespace_relabelled", without_pool(allocation::namespace_relabelled))
                .scenario("sharing", with_pool(allocation::sharing))
                .scenario(
                    "named_address_waits_in_line",
                    with_pool(allocation::named_address_waits_in_line),
                )
                .scenario("broadcast_address", without_pool(allocation::broadcast_address))
                .scenario(
                    "two_pools_for_two_families",
                    without_pool(allocation::two_pools_for_two_families),
                )
                .scenario("tenancy", with_pool(allocation::tenancy))
                .scenario(
                    "holder_keeps_its_address",
                    without_pool(pools::holder_keeps_its_address),
                )
                .scenario("renumbered", without_pool(pools::renumbered))
                .scenario("last_good_over_a_restart", with_pool(pools::last_good_over_a_restart)),
        )
        .group(
            Group::new(Setup::named("nodes"))
                .scenario("excluded_node", with_pool(nodes::excluded_node))
                .scenario("no_endpoint", with_pool(nodes::no_endpoint))
                .scenario("last_local_endpoint", with_pool(nodes::last_local_endpoint))
                .scenario("drained_node", with_pool(nodes::drained_node))
                .scenario("lost_node", with_pool(nodes::lost_node)),
        )
        .group(
            Group::new(failover)
                .scenario("planned_move", without_pool(failover::planned_move))
                .scenario("cordoned_node", without_pool(drains::cordoned_node))
                .scenario("tainted_node", without_pool(drains::tainted_node))
                .scenario("last_candidate", without_pool(drains::last_candidate))
                .scenario("last_resort", without_pool(drains::last_resort))
                .scenario("moved_on_request", without_pool(drains::moved_on_request))
                .scenario("spread_on_request", without_pool(drains::spread_on_request))
                .scenario("owner_without_interface", without_pool(drains::owner_without_interface))
                .scenario("speaker_killed", without_pool(failover::speaker_killed))
                .scenario("speaker_hangs", without_pool(failover::speaker_hangs))
                .scenario("clients_see_nothing", without_pool(hand_over::clients_see_nothing))
                .scenario("speaker_upgraded", without_pool(failover::speaker_upgraded))
                .scenario("speaker_stays_dead", without_pool(failover::speaker_stays_dead))
                .scenario(
                    "nobody_stands_in_by_policy",
                    without_pool(partitions::nobody_stands_in_by_policy),
                )
                .scenario("heartbeats_lost", without_pool(failover::heartbeats_lost))
                .scenario("two_sides", without_pool(partitions::two_sides))
                .scenario("deaf_pair", without_pool(failover::deaf_pair))
                .scenario("announcing_link_lost", without_pool(failover::announcing_link_lost))
                .scenario("segment_split", without_pool(failover::segment_split))
                .scenario("node_lost", without_pool(failover::node_lost))
                .scenario("key_changed", without_pool(keys::changed))
                .scenario("short_stalls", without_pool(partitions::short_stalls))
                .scenario("node_shuts_down", without_pool(partitions::node_shuts_down))
                .scenario("owner_and_heir_lost", without_pool(partitions::owner_and_heir_lost))
                .scenario("standbys_then_owner", without_pool(partitions::standbys_then_owner))
                .scenario("all_at_once", without_pool(partitions::all_at_once))
                .scenario(
                    "speakers_restart_without_api",
                    without_pool(failover::speakers_restart_without_api),
                ),
        )
        .group(
            Group::new(Setup::named("speakers"))
                .scenario("speaker_state", with_pool(speakers::speaker_state))
                .scenario("service_status", with_pool(speakers::service_status))
                .scenario("stranger", with_pool(speakers::stranger)),
        )
        .group(
            Group::new(Setup::named("conflicts"))
                .scenario("occupied_addresses", with_pool(conflicts::occupied_addresses))
                .scenario("requested", with_pool(conflicts::requested))
                .scenario("not_begun", with_pool(conflicts::not_begun))
                .scenario("while_announced", with_pool(conflicts::while_announced))
                .scenario("switched_off", with_pool(conflicts::switched_off))
                .scenario("burst", with_pool(conflicts::burst)),
        )
        .group(
            Group::new(Setup::named("data-path"))
                .scenario("first_question", without_pool(data_path::first_question))
                .scenario("hanging", without_pool(data_path::hanging))
                .scenario("hanging_for_long", without_pool(data_path::hanging_for_long))
                .scenario(
                    "restarted_while_it_hangs",
                    without_pool(data_path::restarted_while_it_hangs),
                )
                .scenario("absent", without_pool(data_path::absent))
                .scenario("last_local_endpoint", without_pool(data_path::last_local_endpoint))
                .scenario(
                    "last_local_endpoint_by_bgp",
                    without_pool(data_path::last_local_endpoint_by_bgp),
                )
                .scenario("hanging_by_bgp", without_pool(data_path::hanging_by_bgp)),
        )
        .group(
            Group::new(Setup::named("bgp"))
                .scenario("every_node_is_a_next_hop", without_pool(bgp::every_node_is_a_next_hop))
                .scenario("local_traffic_policy", without_pool(bgp::local_traffic_policy))
                .scenario("both_families", without_pool(bgp::both_families))
                .scenario("attributes", without_pool(bgp::attributes))
                .scenario("password", without_pool(bgp::password))
                .scenario("restart_keeps_routes", without_pool(bgp::restart_keeps_routes))
                .scenario("bfd", without_pool(bgp::bfd))
                .scenario("status", without_pool(bgp::status))
                .scenario("one_protocol_alone", without_pool(bgp_changes::one_protocol_alone))
                .scenario("cordoned_nodes", without_pool(bgp_changes::cordoned_nodes))
                .scenario("pod_moves", without_pool(bgp_changes::pod_moves))
                .scenario("policy_on_request", without_pool(bgp_changes::policy_on_request))
                .scenario("key_change", without_pool(bgp_changes::key_change))
                .scenario("dashboard_and_alerts", without_pool(monitoring::dashboard_and_alerts)),
        )
        .group(
            Group::new(bgp_outages)
                .scenario(
                    "restart_without_api_server",
                    without_pool(bgp_changes::restart_without_api_server),
                )
                .scenario(
                    "keys_without_api_server",
                    without_pool(bgp_changes::keys_without_api_server),
                )
                .scenario("lost_with_bfd", without_pool(bgp_nodes::lost_with_bfd))
                .scenario("lost_without_bfd", without_pool(bgp_nodes::lost_without_bfd))
                .scenario("unnumbered", without_pool(bgp_nodes::unnumbered)),
        )
        .group(
            Group::new(Setup::named("hand-over"))
                .scenario("routers_see_nothing", without_pool(hand_over::routers_see_nothing))
                .scenario("predecessor_goes_on", without_pool(hand_over::predecessor_goes_on))
                .scenario("told_to_end_meanwhile", without_pool(hand_over::told_to_end_meanwhile))
                .scenario(
                    "told_to_end_beside_silence",
                    without_pool(hand_over::told_to_end_beside_silence),
                )
                .scenario("successor_killed", without_pool(hand_over::successor_killed))
                .scenario("nothing_in_common", without_pool(hand_over::nothing_in_common)),
        )
        .group(
            Group::new(bgp_peers)
                .scenario("every_setting", without_pool(bgp_peers::every_setting))
                .scenario("one_peer_for_a_fleet", without_pool(bgp_peers::one_peer_for_a_fleet))
                .scenario("router_connects", without_pool(bgp_peers::router_connects))
                .scenario("ttl_security", without_pool(bgp_peers::ttl_security))
                .scenario("one_fault_each", without_pool(bgp_peers::one_fault_each)),
        )
        .group(
            Group::new(Setup::named("other-routers"))
                .scenario("bird_sees_nothing", without_pool(other_routers::bird_sees_nothing))
                .scenario("gobgp_sees_nothing", without_pool(other_routers::gobgp_sees_nothing)),
        )
        .group(
            Group::new(Setup::named("hostile")).scenario("everything_wrong", without_pool(hostile::everything_wrong)),
        )
        .group(
            Group::new(Setup::named("outages"))
                .scenario("clean_end", with_pool(contract::clean_end))
                .scenario("adoption", with_pool(outages::adoption))
                .scenario("migrate_shadow", without_pool(cli::migrate_shadow))
                .scenario("status_written_by_hand", with_pool(outages::status_written_by_hand))
                .scenario("controller_killed", without_pool(outages::controller_killed))
                .scenario(
                    "speaker_restarts_without_api",
                    with_pool(outages::speaker_restarts_without_api),
                )
                .scenario(
                    "owner_cut_off_from_the_api_server",
                    with_pool(outages::owner_cut_off_from_the_api_server),
                )
                .scenario("missing_rbac_rule", with_pool(outages::missing_rbac_rule))
                .scenario("missing_write_rule", with_pool(outages::missing_write_rule))
                .scenario("missing_crd", with_pool(outages::missing_crd))
                .scenario("api_server_gone", with_pool(outages::api_server_gone)),
        )
        .group(
            Group::new(availability)
                .scenario("leader_killed", with_pool(availability::leader_killed))
                .scenario("leader_stopped", with_pool(availability::leader_stopped))
                .scenario("leader_paused", without_pool(availability::leader_paused))
                .scenario("two_leaders", without_pool(availability::two_leaders))
                .scenario("outage", with_pool(availability::outage)),
        )
        .group(
            Group::new(rights)
                .scenario("controller", with_pool(rights::controller))
                .scenario("speaker", with_pool(rights::speaker))
                .scenario("layer2_only", with_pool(rights::layer2_only))
                .scenario("speaker_without_net_raw", without_pool(rights::speaker_without_net_raw)),
        )
        .group(
            Group::new(mistakes)
                .scenario("older_definitions", with_pool(mistakes::older_definitions))
                .scenario("restricted_namespace", without_pool(mistakes::restricted_namespace))
                .scenario("no_subnet", without_pool(mistakes::no_subnet))
                .scenario("no_speakers", with_pool(mistakes::no_speakers))
                .scenario("ipvs_without_strict_arp", with_pool(mistakes::ipvs_without_strict_arp))
                .scenario("metallb", with_pool(rivals::metallb))
                .scenario("metallb_of_any_name", with_pool(rivals::metallb_of_any_name))
                .scenario("second_installation", with_pool(rivals::second_installation))
                .scenario("second_without_election", with_pool(rivals::second_without_election))
                .scenario("wrong_clocks", with_pool(mistakes::wrong_clocks))
                .scenario("token_renewed", with_pool(credentials::token_renewed))
                .scenario("certificate_renewed", with_pool(credentials::certificate_renewed)),
        )
        .group(
            Group::new(iptables)
                .scenario("load_balancer", with_pool(services::load_balancer))
                .scenario("several_ports", with_pool(traffic::several_ports))
                .scenario("dual_stack", with_pool(families::dual_stack)),
        )
        .group(
            Group::new(Setup::named("cli"))
                .scenario("why", without_pool(cli::why))
                .scenario("moves", with_pool(cli::moves))
                .scenario("rebalances", with_pool(cli::rebalances))
                .scenario("renumbers", without_pool(cli::renumbers))
                .scenario("migrate_check", without_pool(cli::migrate_check)),
        )
        .group(
            Group::new(install)
                .scenario("first_page", without_pool(install::first_page))
                .scenario(
                    "upgraded_and_rolled_back",
                    without_pool(install::upgraded_and_rolled_back),
                )
                .scenario("routers_see_nothing", without_pool(install_bgp::routers_see_nothing))
                .scenario("hardened", without_pool(install::hardened))
                .scenario("speakers_refused", without_pool(mistakes::speakers_refused))
                .scenario("root_and_back", without_pool(install::root_and_back))
                .scenario("speaker_killed", without_pool(install::speaker_killed))
                .scenario("programs_hang", without_pool(install::programs_hang))
                .scenario(
                    "kubelet_and_runtime_restart",
                    without_pool(install::kubelet_and_runtime_restart),
                )
                .scenario("killed_lab_is_swept", without_pool(install::killed_lab_is_swept))
                .scenario("power_cut_and_reboot", without_pool(install::power_cut_and_reboot))
                .scenario(
                    "removed_and_installed_again",
                    without_pool(install::removed_and_installed_again),
                )
                .scenario("chart", without_pool(chart::chart))
                // Ends with a cluster that FerroLB was removed from.
                .scenario("in_and_out", without_pool(migration::in_and_out)),
        )
        .group(
            Group::new(ipv6)
                .scenario("ipv6_only", with_pool(families::ipv6_only))
                .scenario("node_lost", without_pool(failover::node_lost_ipv6))
                .scenario("speaker_hangs", without_pool(failover::speaker_hangs)),
        )
        .run()
}

/// The scenario gets a pool and an advertisement of its own before it begins.
fn with_pool<F, Told>(tell: F) -> impl Fn(Story) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>> + Send + Sync
where
    F: Fn(Scene) -> Told + Copy + Send + Sync + 'static,
    Told: Future<Output = Result<()>>,
{
    move |story| {
        Box::pin(async move {
            story.apply_pool().await?;
            tell(Scene(story)).await
        })
    }
}

/// The scenario makes its own pools, if any.
fn without_pool<F, Told>(tell: F) -> impl Fn(Story) -> Told + Send + Sync
where
    F: Fn(Scene) -> Told + Copy + Send + Sync + 'static,
    Told: Future<Output = Result<()>>,
{
    move |story| tell(Scene(story))
}
