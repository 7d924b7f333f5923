//! `belljar artifact verify`: asks part by part, and says at the end whether all is well.

use super::connect::Connection;
use super::exit::{DONE, FAILED};
use super::{Outcome, output};
use crate::config::units::parse_size;
use crate::wire::verify::{Finding, VerifyReport, VerifyRequest};
use clap::Args;
use std::io::{self, Write};

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// Only this artifact, or this version.
    #[arg(value_name = "ID[@VERSION]")]
    reference: Option<String>,
    /// Mend what can be mended: take contents again, note what is lost, remove what nobody names.
    #[arg(long)]
    repair: bool,
    /// Read at most so much in a second [default: 256MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    rate: Option<u64>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub fn verify(connection: &Connection, arguments: VerifyArguments) -> Outcome {
    let mut request = VerifyRequest {
        reference: arguments.reference,
        repair: arguments.repair,
        bytes_per_second: arguments.rate,
        cursor: None,
    };
    let mut whole = VerifyReport::default();
    loop {
        let part = connection.block_on(connection.client.verify(&request))?;
        whole.contents += part.contents;
        whole.bytes += part.bytes;
        whole.files += part.files;
        whole.lost += part.lost;
        if !arguments.json {
            part.findings.iter().for_each(print_finding);
        }
        whole.findings.extend(part.findings);
        if part.next.is_none() {
            break;
        }
        request.cursor = part.next;
        progress(&whole);
    }
    if output::is_terminal() {
        let _ = write!(io::stderr().lock(), "\r\x1b[K");
    }
    let wrong = whole.findings.iter().filter(|finding| !finding.mended).count();
    let mended = whole.findings.len() - wrong;
    if arguments.json {
        output::print_json(&whole);
    }
    output::remark(&format!(
        "{} contents with {} read, {} names looked at; {wrong} things are wrong, {mended} were mended",
        whole.contents,
        output::size(whole.bytes),
        whole.files
    ));
    if whole.lost > 0 {
        output::remark(&format!("the content of {} versions is known to be lost", whole.lost));
    }
    if wrong > 0 && !arguments.repair {
        output::remark("--repair mends what can be mended");
    }
    Ok(if wrong > 0 { FAILED } else { DONE })
}

fn print_finding(finding: &Finding) {
    let mut text = format!("{}: ", finding.kind.as_str());
    if let Some(digest) = &finding.digest {
        text.push_str(&format!("{digest}: "));
    }
    text.push_str(&finding.detail);
    if let Some(repaired) = &finding.repaired {
        text.push_str(&format!("; {repaired}"));
    }
    for version in &finding.versions {
        text.push_str(&format!("\n    {version}"));
    }
    output::print(&format!("{}\n", output::plain(&text)));
}

fn progress(report: &VerifyReport) {
    if output::is_terminal() {
        let (contents, bytes) = (report.contents, output::size(report.bytes));
        let _ = write!(io::stderr().lock(), "\r\x1b[K{contents} contents, {bytes}");
    }
}
