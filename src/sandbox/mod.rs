//! One process in isolation.

/// The child half: `sandbox-init --plan-fd 3`.
pub fn init_main(_args: impl Iterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    unimplemented!()
}
