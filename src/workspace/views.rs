//! A workspace's artifacts as files: served once for the workspace, mounted at `.belljar/artifacts` on the host and in
//! every sandbox.

use super::{Actor, Error};
use crate::artifact::Artifacts;
use crate::fuse::session::{Mounted, Purpose, Session, SessionError};
use crate::fuse::views::ViewFilesystem;
use crate::model::id::WorkspaceId;
use crate::vfs::CONTROL_NAME;
use crate::vfs::control::ARTIFACTS_NAME;
use crate::vfs::views::ViewTree;
use std::path::Path;

/// One that waits for the catalog leaves another. Chosen, not measured.
const THREADS: usize = 2;

/// Mounts and serves the views of a workspace whose files are mounted at `root`.
///
/// The way to the mount's place leads through the workspace's own file system, which answers for `.belljar` without
/// looking at the host, and which nobody else uses yet.
pub fn serve(
    artifacts: &Artifacts,
    owner: &Actor,
    id: &WorkspaceId,
    root: &Path,
) -> Result<Session, Error> {
    let source = artifacts.views(owner.uid, id.clone());
    let tree = ViewTree::new(source, (owner.uid, owner.gid));
    let unavailable = |error: SessionError| Error::Unavailable {
        message: format!(
            "show the artifacts of workspace {id} as files: {}",
            crate::telemetry::sentence(&error)
        ),
    };
    let mounted = Mounted::new(Purpose::Views).and_then(Mounted::read_only).map_err(unavailable)?;
    let passthrough = mounted.passthrough();
    let session = mounted
        .serve(ViewFilesystem::new(tree, passthrough), THREADS, "artifacts")
        .map_err(unavailable)?;
    match session.attach_within(&root.join(CONTROL_NAME).join(ARTIFACTS_NAME)) {
        Ok(()) => Ok(session),
        Err(error) => {
            session.end();
            Err(unavailable(error))
        }
    }
}
