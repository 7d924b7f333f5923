//! The end of a setup: the last layers are closed, and each layer is proven by trying what it forbids.
//!
//! Fails closed: a layer that cannot be had, or whose proof fails, ends the run by its name before a command exists. Only the layers of
//! [`LayerName::OPTIONAL`] may be missing, when this kernel does not have them and the user named them.

use super::layer::{Finding, LayerName, Proof, State};
use super::namespaces::Membership;
use super::plan::SandboxPlan;
use super::protocol::SetupFailure;
use super::rootfs::MountTable;
use super::seccomp::Filter;
use super::{capabilities, credentials, landlock, namespaces, rlimits, rootfs, seccomp};
use crate::wire::run::Network;

/// Closes Landlock and the system call filter, in this order, and returns what was found out about every layer.
///
/// Called when the process has no privilege. `before` are the namespaces that it was started in.
pub fn close(
    plan: &SandboxPlan,
    before: &Membership,
    filter: &Filter,
) -> Result<Vec<Finding>, SetupFailure> {
    let mut findings = Findings { plan, list: Vec::new() };
    findings.before_filters(before)?;
    let landlock = findings.optional(
        LayerName::Landlock,
        "; it takes Linux 5.19 or later with landlock among its security modules (lsm= on the kernel's command line)",
        || landlock::restrict(plan),
    )?;
    if let Some(abi) = landlock {
        findings.prove(LayerName::Landlock, || landlock::prove(abi))?;
    }
    let filter = findings.optional(
        LayerName::Seccomp,
        "; it takes a kernel with CONFIG_SECCOMP_FILTER, and a container whose own filter lets seccomp(2) through",
        || seccomp::install(filter),
    )?;
    if let Some(()) = filter {
        findings.prove(LayerName::Seccomp, seccomp::prove)?;
    }
    Ok(findings.list)
}

struct Findings<'a> {
    plan: &'a SandboxPlan,
    list: Vec<Finding>,
}

impl Findings<'_> {
    /// Everything that can be proven while every system call is still answered by its own layer.
    fn before_filters(&mut self, before: &Membership) -> Result<(), SetupFailure> {
        let plan = self.plan;
        let table = MountTable::read().map_err(|why| refused(LayerName::RootFilesystem, &why))?;
        self.prove(LayerName::Namespaces, || namespaces::prove(plan, before))?;
        self.prove(LayerName::RootFilesystem, || rootfs::prove_root(plan, &table))?;
        self.prove(LayerName::ReadOnlyMounts, || rootfs::prove_read_only_mounts(plan, &table))?;
        self.prove(LayerName::Devices, || rootfs::prove_devices(plan, &table))?;
        match plan.network {
            Network::None => {
                self.prove(LayerName::Network, || namespaces::prove_network(before))?;
            }
            Network::Host => {}
        }
        // In this order: with a capability, who the process is would mean nothing.
        self.prove(LayerName::Capabilities, capabilities::prove)?;
        self.prove(LayerName::Credentials, || credentials::prove(plan))?;
        self.prove(LayerName::NoNewPrivileges, capabilities::prove_no_new_privileges)?;
        self.prove(LayerName::CoreDumps, rlimits::prove_no_core_dumps)?;
        // Of the command's own process, which proves them itself before it becomes the command (command.rs).
        self.prove(LayerName::Descriptors, || {
            Ok(Proof::of("the command's process read /proc/self/fd before execve(2): all but 0, 1 and 2 close"))
        })?;
        self.prove(LayerName::Session, || {
            Ok(Proof::of(match plan.terminal {
                true => "the command's process leads a session of its own, whose terminal is the run's own; both read before execve(2)",
                false => "the command's process leads a session of its own, read before execve(2); it tried /dev/tty: ENXIO",
            }))
        })
    }

    /// A layer of which a kernel may have nothing; `None` when it is missing, which is then noted.
    fn optional<T: Default>(
        &mut self,
        layer: LayerName,
        takes: &str,
        close: impl FnOnce() -> Result<T, String>,
    ) -> Result<Option<T>, SetupFailure> {
        if !self.plan.builds(layer) {
            // Its proof must notice.
            return Ok(Some(T::default()));
        }
        match close() {
            Ok(value) => Ok(Some(value)),
            Err(why) if self.plan.allow_unenforced.contains(&layer) => {
                self.list.push(Finding { layer, state: State::Missing { why } });
                Ok(None)
            }
            Err(why) => {
                let name = layer.as_str();
                let message = format!(
                    "{why}{takes}; nothing was run. To run without this layer, add --allow-unenforced {name}"
                );
                Err(SetupFailure::setup(name, message))
            }
        }
    }

    fn prove(
        &mut self,
        layer: LayerName,
        prove: impl FnOnce() -> Result<Proof, String>,
    ) -> Result<(), SetupFailure> {
        if !self.plan.proves(layer) {
            self.note_absence(layer);
            return Ok(());
        }
        let proof = prove().map_err(|why| refused(layer, &why))?;
        self.list.push(Finding { layer, state: State::InForce(proof) });
        Ok(())
    }

    fn note_absence(&mut self, layer: LayerName) {
        let why = "a test left it out".to_owned();
        self.list.push(Finding { layer, state: State::Missing { why } });
    }
}

/// A proof failed: this is a mistake of ours or of the kernel's, which no option mends.
fn refused(layer: LayerName, why: &str) -> SetupFailure {
    SetupFailure::setup(layer.as_str(), format_args!("not in force: {why}; nothing was run"))
}
