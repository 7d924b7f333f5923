//! `belljar env`.

use super::connect::Context;
use super::exit::{DONE, Failure};
use super::{Outcome, output};
use crate::model::id::{VariableName, WorkspaceId};
use anyhow::anyhow;
use clap::Subcommand;
use std::ffi::{OsStr, OsString};

const NEEDS: &str = "the environment of a workspace lives";

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Set variables of a workspace.
    Set {
        #[arg(short = 'w', long = "workspace", value_name = "ID")]
        workspace: WorkspaceId,
        /// NAME=VALUE, or NAME for your own.
        #[arg(required = true, value_name = "NAME[=VALUE]")]
        variable: Vec<OsString>,
    },
    /// List variables.
    #[command(alias = "list")]
    Ls {
        #[arg(short = 'w', long = "workspace", value_name = "ID")]
        workspace: WorkspaceId,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove variables.
    Rm {
        #[arg(short = 'w', long = "workspace", value_name = "ID")]
        workspace: WorkspaceId,
        #[arg(required = true)]
        name: Vec<VariableName>,
    },
}

/// `NAME=VALUE`, or `NAME` for the caller's own.
pub fn parse_variable(text: &OsStr) -> anyhow::Result<(VariableName, String)> {
    let text = text.to_str().ok_or_else(|| {
        anyhow!("variable {text:?} is not UTF-8: use a secret, which holds any bytes")
    })?;
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.parse::<VariableName>()?, value.to_owned()),
        None => {
            let name = text.parse::<VariableName>()?;
            let value = std::env::var(text).map_err(|error| match error {
                std::env::VarError::NotPresent => {
                    anyhow!("your variable {name} is not set: set it, or write {name}=VALUE")
                }
                std::env::VarError::NotUnicode(_) => {
                    anyhow!(
                        "your variable {name} is not UTF-8: use a secret, which holds any bytes"
                    )
                }
            })?;
            (name, value)
        }
    };
    Ok((name, value))
}

pub fn run(context: &Context, command: EnvCommand) -> Outcome {
    match command {
        EnvCommand::Set { workspace, variable } => {
            let mut variables = Vec::with_capacity(variable.len());
            for text in &variable {
                let parsed = parse_variable(text);
                variables.push(parsed.map_err(|error| Failure::usage(error.to_string()))?);
            }
            let connection = context.running(NEEDS)?;
            for (name, value) in variables {
                let setting = connection.client.set_variable(&workspace, &name, value);
                connection.block_on(setting)?;
            }
            Ok(DONE)
        }
        EnvCommand::Ls { workspace, json } => {
            let connection = context.running(NEEDS)?;
            let environment = connection.block_on(connection.client.environment(&workspace))?;
            if json {
                output::print_json(&environment);
                return Ok(DONE);
            }
            for (name, value) in &environment.env {
                output::print(&format!("{name}={}\n", output::plain(value)));
            }
            Ok(DONE)
        }
        EnvCommand::Rm { workspace, name } => {
            let connection = context.running(NEEDS)?;
            for name in &name {
                connection.block_on(connection.client.remove_variable(&workspace, name))?;
            }
            Ok(DONE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_taken_from_the_caller() {
        let parse = |text: &str| parse_variable(OsStr::new(text));
        assert_eq!(parse("A=b=c").expect("legal").1, "b=c");
        assert_eq!(
            parse("PATH").expect("set in every test").1,
            std::env::var("PATH").expect("set")
        );
        let error = parse("BELLJAR_TEST_NOT_SET").expect_err("not set").to_string();
        assert!(error.contains("BELLJAR_TEST_NOT_SET is not set"), "{error}");
        assert!(parse("A-B=c").expect_err("illegal").to_string().contains("letters, digits and _"));
    }
}
