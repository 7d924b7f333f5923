//! What a sandbox enforces, for the run's receipt: what was asked for, from the plan, and what the first process found.
//!
//! Setup is all or nothing: a first process that reported itself ready has proven every layer of its plan, or noted one that the
//! user would go without.

use super::layer::{Finding, LayerName, State};
use super::plan::SandboxPlan;
use crate::model::access::Access;
use crate::wire::run::{Layer, Network};

/// The layers of a sandbox that is ready; none before that.
pub fn layers(plan: &SandboxPlan, findings: &[Finding]) -> Vec<Layer> {
    if findings.is_empty() {
        return Vec::new();
    }
    let layer = |name: LayerName| {
        let found = findings.iter().find(|finding| finding.layer == name);
        let (requested, detail) = asked(plan, name);
        match found.map(|finding| &finding.state) {
            Some(State::InForce(proof)) => {
                let mut detail = detail;
                if !proof.open.is_empty() {
                    detail.push_str(&format!("; this kernel leaves open: {}", proof.open));
                }
                Layer {
                    name: name.as_str().to_owned(),
                    requested,
                    in_force: true,
                    abi: proof.abi,
                    proof: Some(proof.text.clone()),
                    detail,
                }
            }
            Some(State::Missing { why }) => absent(name, requested, why.clone()),
            // Not asked for, so that there was nothing to prove.
            None => absent(name, requested, detail),
        }
    };
    LayerName::ALL.into_iter().map(layer).collect()
}

fn absent(name: LayerName, requested: bool, detail: String) -> Layer {
    let name = name.as_str().to_owned();
    Layer { name, requested, in_force: false, abi: None, proof: None, detail }
}

/// Whether the plan asks for a layer, and what the layer is then.
fn asked(plan: &SandboxPlan, layer: LayerName) -> (bool, String) {
    let isolated = match plan.network {
        Network::None => true,
        Network::Host => false,
    };
    let text = match layer {
        LayerName::Namespaces => return (true, namespaces(plan, isolated)),
        LayerName::RootFilesystem => return (true, root(plan)),
        LayerName::ReadOnlyMounts => return read_only_mounts(plan),
        LayerName::Devices => "null, zero, full, random, urandom, tty, and terminals of its own",
        LayerName::Network if isolated => "a network of its own with nothing but loopback",
        LayerName::Network => return (false, "the host's network, as asked for".to_owned()),
        LayerName::Credentials => return (true, credentials(plan)),
        LayerName::Capabilities => "none, in all five sets",
        LayerName::NoNewPrivileges => "no program can gain a privilege",
        LayerName::Landlock => {
            "writes only where the root lets, no device node made, controls of its own devices only, no signal and no abstract socket out of the sandbox"
        }
        LayerName::Seccomp => {
            "only the system calls of config/seccomp/default.json; no namespace can be made"
        }
        LayerName::Descriptors => "none inherited but standard input, output and error",
        LayerName::CoreDumps => "none is written",
        LayerName::Session => match plan.terminal {
            true => "a session of its own, with a terminal of its own in the place of the caller's",
            false => "a session of its own, without the caller's terminal",
        },
    };
    (true, text.to_owned())
}

fn root(plan: &SandboxPlan) -> String {
    let of = match &plan.rootfs {
        Some(given) => format!(" with what is in {given}"),
        None => String::new(),
    };
    format!(
        "a read-only root of its own{of}; only read-write mounts, /tmp, /dev/shm and HOME can be written"
    )
}

fn namespaces(plan: &SandboxPlan, isolated: bool) -> String {
    let mut names = vec!["mount", "pid", "ipc", "uts"];
    if isolated {
        names.push("network");
    }
    if plan.user_namespace {
        names.push("user");
    }
    names.join(", ")
}

fn credentials(plan: &SandboxPlan) -> String {
    let groups = if plan.user_namespace {
        "the user's supplementary groups stay"
    } else {
        "no supplementary groups"
    };
    format!("uid {} gid {}; {groups}", plan.user.uid, plan.user.gid)
}

fn read_only_mounts(plan: &SandboxPlan) -> (bool, String) {
    let read_only: Vec<&str> = plan
        .mounts
        .iter()
        .filter(|(_, access)| *access == Access::ReadOnly)
        .map(|(name, _)| name.as_str())
        .collect();
    if read_only.is_empty() {
        return (false, "none was asked for".to_owned());
    }
    (true, read_only.join(", "))
}
