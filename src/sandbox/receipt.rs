//! What a sandbox enforces, for the run's receipt.
//!
//! Setup is all or nothing: a first process that reported itself ready has every layer of its plan in force, so that this is a
//! function of the plan. A layer that this version does not have is not listed.

use super::plan::SandboxPlan;
use crate::model::access::Access;
use crate::wire::run::{Layer, Network};

/// The layers of a sandbox that is ready.
pub fn layers(plan: &SandboxPlan) -> Vec<Layer> {
    let isolated = match plan.network {
        Network::None => true,
        Network::Host => false,
    };
    let mut namespaces = vec!["mount", "pid", "ipc", "uts"];
    if isolated {
        namespaces.push("network");
    }
    if plan.user_namespace {
        namespaces.push("user");
    }
    let read_only: Vec<&str> = plan
        .mounts
        .iter()
        .filter(|(_, access)| *access == Access::ReadOnly)
        .map(|(name, _)| name.as_str())
        .collect();
    let groups = if plan.user_namespace {
        "; the user's supplementary groups stay"
    } else {
        "; no supplementary groups"
    };
    vec![
        in_force("namespaces", namespaces.join(", ")),
        in_force(
            "credentials",
            format!("uid {} gid {}{groups}", plan.user.uid, plan.user.gid),
        ),
        in_force("capabilities", "none, in all five sets".to_owned()),
        in_force("no_new_privs", "no program can gain a privilege".to_owned()),
        in_force(
            "root-filesystem",
            "a read-only root of its own; only read-write mounts, /tmp, /dev/shm and HOME can be written".to_owned(),
        ),
        Layer {
            name: "read-only-mounts".to_owned(),
            requested: !read_only.is_empty(),
            in_force: true,
            detail: if read_only.is_empty() {
                "none was asked for".to_owned()
            } else {
                read_only.join(", ")
            },
        },
        Layer {
            name: "network".to_owned(),
            requested: isolated,
            in_force: isolated,
            detail: if isolated {
                "a network of its own with nothing but loopback"
            } else {
                "the host's network, as asked for"
            }
            .to_owned(),
        },
    ]
}

fn in_force(name: &str, detail: String) -> Layer {
    Layer { name: name.to_owned(), requested: true, in_force: true, detail }
}
