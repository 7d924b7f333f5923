//! Runs: a request to a definition, its leash, its end.

use super::Api;
use super::auth::Caller;
use super::descriptors::DescriptorSet;
use super::environment::check_value;
use super::error::ApiError;
use super::input::{Body, Segments};
use super::workspaces::define;
use crate::config::yaml::nearest;
use crate::model::id::RunId;
use crate::model::names::check_text;
use crate::sandbox::layer::LayerName;
use crate::sandbox::limits::{Bounds, Limit};
use crate::wire::run::{Argument, Receipt, RunRequest, RunStarted, SignalRequest};
use crate::workspace::{Actor, CommandDefinition, RunDefinition};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// What `--expose` must not cover: the sandbox makes these itself.
const RESERVED: [&str; 5] = ["/proc", "/sys", "/dev", "/workspace", "/run/belljar"];

pub async fn start(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<RunRequest>,
) -> Result<(StatusCode, Json<RunStarted>), ApiError> {
    let mut set = api.tokens.claim(caller.actor.uid, &request.descriptors)?;
    let mut definition = define_run(request, &caller.actor, &mut set, api.drain_timeout)?;
    definition.workspace.backend = caller.backend;
    let mut leash = set.leash;
    // A task of its own: when the client goes away this handler is dropped half-way, and a run that had just started
    // would have nobody to end it.
    let starting = tokio::spawn(async move {
        let actor = caller.actor;
        let started =
            api.blocking(move |workspaces| workspaces.start_run(&actor, definition)).await??;
        let run = started.run_id;
        tokio::spawn(async move {
            leash.broken().await;
            // Does nothing when the run has ended, as after every run that went well.
            let _ = api.blocking(move |workspaces| workspaces.cancel(run)).await;
        });
        Ok::<_, ApiError>(started)
    });
    let started = starting
        .await
        .map_err(|error| ApiError::busy(format!("the daemon is stopping: {error}")))??;
    Ok((StatusCode::CREATED, Json(started)))
}

/// Answers when the run has ended and its artifacts are registered, or are known not to be.
pub async fn receipt(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<RunId>,
) -> Result<Json<Receipt>, ApiError> {
    Ok(Json(api.wait(move |workspaces| workspaces.receipt(&caller.actor, id)).await??))
}

pub async fn signal(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<RunId>,
    Body(request): Body<SignalRequest>,
) -> Result<StatusCode, ApiError> {
    let number = request.signal;
    if Signal::try_from(number).is_err() {
        return Err(ApiError::invalid(format!(
            "{number} is no signal: use a number from signal(7), such as 15"
        )));
    }
    api.blocking(move |workspaces| workspaces.signal(&caller.actor, id, number)).await??;
    Ok(StatusCode::NO_CONTENT)
}

fn define_run(
    request: RunRequest,
    actor: &Actor,
    set: &mut DescriptorSet,
    drain_timeout: Duration,
) -> Result<RunDefinition, ApiError> {
    if request.workspace.lease {
        return Err(ApiError::invalid(
            "a run takes no lease: make the workspace with one first, and name it in the run",
        ));
    }
    let command = arguments(&request.command)?;
    let (may_miss, allow_unenforced) = may_miss(&request.allow_unenforced)?;
    let limits = Bounds::check(&request.limits, may_miss)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    if let Some(user) = request.user.filter(|user| actor.uid != 0 && user.uid != actor.uid) {
        return Err(ApiError::forbidden(format!(
            "only root may run as another user, and you are uid {}: leave out --user {}",
            actor.uid, user.uid
        )));
    }
    let workdir = match request.workdir {
        Some(path) => Some(inside("the working directory", &path)?),
        None => None,
    };
    if request.timeout_ms == Some(0) {
        return Err(ApiError::invalid(
            "a timeout of 0 would end the run before it starts: give it time, or leave the timeout out",
        ));
    }
    for (name, text) in [("graph_id", &request.graph_id), ("node_id", &request.node_id)] {
        let checked = text.as_ref().map_or(Ok(()), |text| check_text(name, text));
        checked.map_err(ApiError::invalid)?;
    }
    for (name, value) in &request.env {
        check_value(name, value)?;
    }
    for name in &request.secret_env {
        if request.secret_env.iter().filter(|other| *other == name).count() > 1 {
            return Err(ApiError::invalid(format!(
                "secret {name} is asked for twice as a variable: name it once"
            )));
        }
    }
    let stdio = [
        set.take(0, "standard input")?,
        set.take(1, "standard output")?,
        set.take(2, "standard error")?,
    ];
    let mut expose = Vec::with_capacity(request.expose.len());
    for exposed in request.expose {
        let path = inside("an exposed path", &exposed.path)?;
        if path == Path::new("/") || RESERVED.iter().any(|reserved| path.starts_with(reserved)) {
            return Err(ApiError::invalid(format!(
                "{} cannot be exposed: the sandbox has its own; expose what you need below another path",
                path.display()
            )));
        }
        let descriptor = set.take(exposed.descriptor, path.display())?;
        expose.push((path, descriptor));
    }
    let rootfs = match request.rootfs {
        Some(given) => {
            let path = inside("the root file system", &given.path)?;
            let descriptor = set.take(given.descriptor, path.display())?;
            Some((path, descriptor))
        }
        None => None,
    };
    Ok(RunDefinition {
        workspace: define(request.workspace, Some(set))?,
        keep: request.keep,
        expose,
        rootfs,
        stdio,
        command: CommandDefinition {
            argv: command,
            workdir,
            secret_env: request.secret_env,
            env: request.env,
            graph_id: request.graph_id,
            node_id: request.node_id,
            timeout: request.timeout_ms.map(Duration::from_millis),
            network: request.network,
            user: request.user,
            wait_children: request.wait_children,
            drain_timeout: request.drain_timeout_ms.map_or(drain_timeout, Duration::from_millis),
            wait_upload: request.wait_upload,
            terminal: request.terminal,
            term: request.term,
            limits,
            allow_unenforced,
        },
    })
}

fn arguments(command: &[Argument]) -> Result<Vec<OsString>, ApiError> {
    let mut arguments = Vec::with_capacity(command.len());
    for (position, argument) in command.iter().enumerate() {
        let bytes = match argument {
            Argument::Text(text) => text.clone().into_bytes(),
            Argument::Bytes { base64 } => STANDARD.decode(base64).map_err(|error| {
                ApiError::invalid(format!(
                    "argument {position} of the command is not base64: {error}"
                ))
            })?,
        };
        if bytes.contains(&0) {
            return Err(ApiError::invalid(format!(
                "argument {position} of the command has a zero byte, which no argument can hold (execve(2))"
            )));
        }
        arguments.push(OsString::from_vec(bytes));
    }
    if arguments.first().is_none_or(|program| program.is_empty()) {
        return Err(ApiError::invalid("there is no command: name the program to run"));
    }
    Ok(arguments)
}

/// A path as seen in the sandbox: absolute and without `..`, so that it means what it says.
fn inside(what: &str, path: &str) -> Result<PathBuf, ApiError> {
    let parsed = PathBuf::from(path);
    let plain =
        parsed.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !parsed.is_absolute() || !plain || path.contains('\0') {
        return Err(ApiError::invalid(format!(
            "{what} {path:?} must be absolute and without `..`: write it from the root, starting with /"
        )));
    }
    Ok(parsed)
}

/// The limits and the layers that may be missing, by their names.
fn may_miss(names: &[String]) -> Result<(BTreeSet<Limit>, Vec<LayerName>), ApiError> {
    let known = || {
        Limit::ALL.map(Limit::name).into_iter().chain(LayerName::OPTIONAL.map(LayerName::as_str))
    };
    let (mut limits, mut layers) = (BTreeSet::new(), Vec::new());
    for name in names {
        if let Some(limit) = Limit::ALL.into_iter().find(|limit| limit.name() == name) {
            limits.insert(limit);
        } else if let Some(layer) =
            LayerName::OPTIONAL.into_iter().find(|layer| layer.as_str() == name)
        {
            layers.push(layer);
        } else {
            let hint = match nearest(name, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it can be {}", known().collect::<Vec<_>>().join(", ")),
            };
            return Err(ApiError::invalid(format!(
                "--allow-unenforced: there is no layer {name:?} that may be missing; {hint}"
            )));
        }
    }
    Ok((limits, layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_may_be_missing_is_named() {
        let accepted = may_miss(&["pids".to_owned(), "memory".to_owned()]).expect("known");
        assert_eq!(accepted, (BTreeSet::from([Limit::Memory, Limit::Pids]), Vec::new()));
        let (_, layers) = may_miss(&["landlock".to_owned()]).expect("known");
        assert_eq!(layers.len(), 1);
        let error = may_miss(&["memori".to_owned()]).expect_err("unknown").detail;
        assert!(error.contains("did you mean `memory`?"), "{error}");
        let error = may_miss(&["devices".to_owned()]).expect_err("no option").detail;
        assert!(error.contains("it can be memory, cpus, pids, landlock, seccomp"), "{error}");
    }

    #[test]
    fn arguments_may_be_any_bytes_but_zero() {
        let text = |text: &str| Argument::Text(text.to_owned());
        let bytes = Argument::Bytes { base64: STANDARD.encode(b"\xff") };
        let command = arguments(&[text("ls"), bytes]).expect("legal");
        assert_eq!(command[1].as_encoded_bytes(), b"\xff");
        assert!(arguments(&[]).is_err());
        assert!(arguments(&[text("")]).is_err());
        assert!(
            arguments(&[text("a"), text("b\0c")]).expect_err("zero").detail.contains("argument 1")
        );
    }

    #[test]
    fn paths_inside_are_absolute_and_do_not_climb() {
        for bad in ["", "a", "/a/../b", "../a", "/a\0"] {
            assert!(inside("x", bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(inside("x", "/opt/venv").expect("legal"), Path::new("/opt/venv"));
    }
}
