//! Workspaces: a request with its descriptors to a definition.

use super::Api;
use super::auth::Caller;
use super::descriptors::DescriptorSet;
use super::environment::check_value;
use super::error::ApiError;
use super::input::{Body, Segments};
use super::secrets::decode;
use crate::model::id::WorkspaceId;
use crate::wire::workspace::{Workspace, WorkspaceList, WorkspaceRequest};
use crate::workspace::{Definition, MountDefinition};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use nix::sys::stat::{SFlag, fstat, stat};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<WorkspaceRequest>,
) -> Result<(StatusCode, Json<Workspace>), ApiError> {
    let mut set = match &request.descriptors {
        Some(token) => Some(api.tokens.claim(caller.actor.uid, token)?),
        None => None,
    };
    let definition = define(request, set.as_mut())?;
    let workspace =
        api.blocking(move |workspaces| workspaces.create(&caller.actor, definition)).await??;
    Ok((StatusCode::CREATED, Json(workspace)))
}

pub async fn list(State(api): State<Api>, caller: Caller) -> Result<Json<WorkspaceList>, ApiError> {
    let workspaces = api.blocking(move |workspaces| workspaces.list(&caller.actor)).await?;
    Ok(Json(WorkspaceList { workspaces }))
}

pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<WorkspaceId>,
) -> Result<Json<Workspace>, ApiError> {
    Ok(Json(api.blocking(move |workspaces| workspaces.show(&caller.actor, &id)).await??))
}

pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<WorkspaceId>,
) -> Result<StatusCode, ApiError> {
    api.blocking(move |workspaces| workspaces.remove(&caller.actor, &id)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks a request and joins it with its descriptors.
pub fn define(
    request: WorkspaceRequest,
    mut set: Option<&mut DescriptorSet>,
) -> Result<Definition, ApiError> {
    let mut mounts: Vec<MountDefinition> = Vec::with_capacity(request.mounts.len());
    for mount in request.mounts {
        let name = mount.name;
        if mounts.iter().any(|other| other.name == name) {
            return Err(ApiError::invalid(format!(
                "mount name {name} is used twice: give each mount point a name of its own"
            )));
        }
        let what = format!("mount {name}");
        let set = set.as_deref_mut().ok_or_else(|| {
            ApiError::invalid(format!("{what}: its directory's descriptor was not sent; send it over the companion socket and name the token"))
        })?;
        let directory = set.take(mount.descriptor, &what)?;
        let host_path = directory_path(&directory, &what, mount.path)?;
        mounts.push(MountDefinition {
            name,
            access: mount.mode,
            directory,
            host_path,
            artifacts: mount.artifacts,
            cache: mount.cache,
            suid: mount.suid,
        });
    }
    let mut secrets = BTreeMap::new();
    for (name, secret) in &request.secrets {
        secrets.insert(name.clone(), (decode(name, secret)?, secret.sensitive));
    }
    for (name, value) in &request.env {
        check_value(name, value)?;
    }
    Ok(Definition { id: request.id, mounts, secrets, env: request.env })
}

/// The directory's true name. The kernel's is preferred, for it is the same whatever links the client went through and
/// whatever the client says; one that leads elsewhere here (the client lives in another mount namespace, the directory
/// was removed) gives way to the client's.
fn directory_path(directory: &OwnedFd, what: &str, claimed: String) -> Result<PathBuf, ApiError> {
    let claimed = PathBuf::from(claimed);
    if !claimed.is_absolute() {
        return Err(ApiError::invalid(format!(
            "{what}: path {claimed:?} is relative, and the daemon has no directory of yours to start from: write it from the root, starting with /"
        )));
    }
    let found = fstat(directory.as_fd())
        .map_err(|errno| ApiError::invalid(format!("{what}: look at its descriptor: {errno}")))?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
        return Err(ApiError::invalid(format!("{what}: {claimed:?} is not a directory")));
    }
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let known = std::fs::read_link(link).ok().filter(|path| {
        stat(path).is_ok_and(|there| (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino))
    });
    Ok(known.unwrap_or(claimed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn request(json: &str) -> WorkspaceRequest {
        serde_json::from_str(json).expect("legal")
    }

    #[test]
    fn a_mount_without_a_descriptor_or_with_a_name_used_twice_is_refused() {
        let one = r#"{"mounts":[{"name":"a","path":"/x","descriptor":0}]}"#;
        let error = define(request(one), None).expect_err("nothing sent").detail;
        assert!(error.contains("mount a") && error.contains("companion"), "{error}");
    }

    #[test]
    fn a_directory_is_known_by_its_true_path_whatever_the_client_claims() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let real = directory.path().canonicalize().expect("exists");
        let fd = OwnedFd::from(File::open(&real).expect("open"));
        let path = directory_path(&fd, "mount a", "/elsewhere".to_owned()).expect("a directory");
        assert_eq!(path, real);
        drop(directory);
        let path = directory_path(&fd, "mount a", "/elsewhere".to_owned()).expect("a directory");
        assert_eq!(path, PathBuf::from("/elsewhere"));
    }

    #[test]
    fn a_relative_path_and_a_file_are_refused() {
        let fd = OwnedFd::from(File::open("/dev/null").expect("open"));
        let error = directory_path(&fd, "mount a", "data".to_owned()).expect_err("relative").detail;
        assert!(error.contains("\"data\" is relative"), "{error}");
        let error = directory_path(&fd, "mount a", "/d".to_owned()).expect_err("a file").detail;
        assert!(error.contains("not a directory"), "{error}");
    }
}
