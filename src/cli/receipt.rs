//! The receipt: the file that `--receipt` names, and the summary on a terminal.

use super::exit::Failure;
use super::output;
use crate::model::id::WorkspaceId;
use crate::wire::run::{Reason, Receipt, Usage};
use anyhow::Context;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Lines of the summary; the rest is in the receipt and in `artifact ls`.
const SUMMARY_LINES_MAX: usize = 20;

/// Opened before the run, so that a path that cannot be written is refused before anything happens.
#[derive(Debug)]
pub struct ReceiptFile {
    path: PathBuf,
    file: File,
}

impl ReceiptFile {
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        // The command and the names of its files are the caller's own affair.
        let file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
        let file = file.with_context(|| {
            format!("receipt {}: it cannot be written; correct --receipt", path.display())
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub fn write(&mut self, receipt: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(receipt).context("render the receipt")?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .with_context(|| format!("write the receipt {}", self.path.display()))
    }

    /// For a run that never became one: the same fields, as far as they mean anything.
    pub fn write_failure(
        &mut self,
        workspace: Option<&WorkspaceId>,
        failure: &Failure,
    ) -> anyhow::Result<()> {
        self.write(&serde_json::json!({
            "run_id": null,
            "workspace_id": workspace,
            "exit_code": failure.exit_of_run(),
            "reason": Reason::SetupFailed,
            "message": failure.text(),
            "run_as_root": false,
            "enforcement": [],
            "usage": Usage::default(),
            "artifacts": [],
            "complete": true,
            "incomplete": [],
        }))
    }
}

/// What a person wants to know: always what went wrong, and on a terminal what was made.
pub fn summarise(receipt: &Receipt, quiet: bool) {
    if quiet {
        return;
    }
    if receipt.reason != Reason::Exited {
        output::remark(&receipt.message);
    }
    if !receipt.complete {
        output::remark(
            "not every artifact of this run is registered yet; `belljar artifact sync` waits for the rest:",
        );
        for line in receipt.incomplete.iter().take(SUMMARY_LINES_MAX) {
            output::remark(&format!("  {line}"));
        }
    }
    if receipt.uploaded == Some(false) {
        output::remark(
            "not every content of this run is uploaded yet; `belljar storage status` says what it waits for",
        );
    }
    if !output::is_terminal() {
        return;
    }
    let seconds = receipt.usage.wall_ms as f64 / 1_000.0;
    let count = receipt.artifacts.len();
    let noun = if count == 1 { "artifact" } else { "artifacts" };
    let code = receipt.exit_code;
    output::remark(&format!("exit code {code} after {seconds:.1} s, {count} {noun}"));
    for artifact in receipt.artifacts.iter().take(SUMMARY_LINES_MAX) {
        let (kind, size, version) =
            (artifact.artifact_type.as_str(), output::size(artifact.size), artifact.version);
        output::remark(&format!("  {kind:<7} {size:>10}  {} @{version}", artifact.path));
    }
    if count > SUMMARY_LINES_MAX {
        let more = count - SUMMARY_LINES_MAX;
        output::remark(&format!(
            "  … and {more} more: belljar artifact ls --run {}",
            receipt.run_id
        ));
    }
}
