//! What the command may ask of the kernel (seccomp(2)): the list in `config/seccomp/default.json` as a filter.
//!
//! A call that is named is allowed, or looks like one of an older kernel; a call with conditions is decided by those, and so is
//! every other one, which they refuse. Numbers from `unknown_from` on, which no list can name, look like an older kernel's too: calls that are
//! younger than the list, and those of the x32 ABI. A call of another architecture (`int 0x80`) ends the process: its numbers mean other
//! calls.
//!
//! The filter is made in the daemon, once, and travels with the plan. Numbers are searched for in halves: the kernel tries a new
//! filter on every number there is, which took a millisecond with one comparison after the other, a fifth of a start.

use super::layer::Proof;
use super::protocol::errno_text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use seccompiler::{BpfProgram, TargetArch, compile_from_json, sock_filter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// The list.
const PROFILE: &str = include_str!("../../config/seccomp/default.json");

/// Bytes of one instruction (`struct sock_filter`, linux/filter.h): code, two jumps, operand.
const INSTRUCTION: usize = 8;

#[derive(Debug, Deserialize)]
struct Profile {
    #[serde(rename = "about")]
    _about: Vec<String>,
    unknown_from: u32,
    absent: Vec<String>,
    allowed: Vec<String>,
    allowed_if: Vec<Value>,
    /// Every other key.
    #[serde(flatten)]
    architectures: BTreeMap<String, Own>,
}

/// What one architecture has besides.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    allowed: Vec<String>,
    allowed_if: Vec<Value>,
}

/// A filter, as its instructions in base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter(String);

/// Why there is no filter: the list was not written for this machine, or is wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("make the filter of system calls: {0}")]
pub struct NoFilter(String);

/// The filter for this machine.
pub fn filter() -> Result<&'static Filter, NoFilter> {
    static FILTER: OnceLock<Result<Filter, NoFilter>> = OnceLock::new();
    let made = FILTER.get_or_init(|| {
        let program = compile(PROFILE, std::env::consts::ARCH)?;
        Ok(Filter(STANDARD_NO_PAD.encode(bytes(&program))))
    });
    made.as_ref().map_err(Clone::clone)
}

/// What is done with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    /// ENOSYS.
    Absent,
    /// Whatever the conditions say.
    Ask,
}

fn compile(profile: &str, architecture: &str) -> Result<BpfProgram, NoFilter> {
    let wrong = |error: &dyn std::fmt::Display| NoFilter(error.to_string());
    let target = TargetArch::try_from(architecture).map_err(|e| wrong(&e))?;
    let profile: Profile = serde_json::from_str(profile).map_err(|e| wrong(&e))?;
    let Some(own) = profile.architectures.get(architecture) else {
        return Err(NoFilter(format!("there is no list for {architecture}")));
    };
    let allowed = numbers(profile.allowed.iter().chain(&own.allowed), target)?;
    let absent = numbers(profile.absent.iter(), target)?;
    let conditions: Vec<_> = profile.allowed_if.iter().chain(&own.allowed_if).cloned().collect();
    let asked = from_json(&conditions, target)?;
    let verdict = |number| {
        if number >= profile.unknown_from || absent.contains(&number) {
            Verdict::Absent
        } else if allowed.contains(&number) {
            Verdict::Allow
        } else {
            Verdict::Ask
        }
    };
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=profile.unknown_from {
        let verdict = verdict(number);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    }
    let mut search = halves(&ranges);
    let length = search.len();
    for (at, instruction) in search.iter_mut().enumerate() {
        if *instruction == ASK {
            instruction.k = u32::try_from(length - at - 1).expect("the kernel takes 4096");
        }
    }
    // What the compiler made begins with the check of the architecture, which must come first here too.
    let (architecture, conditions) = asked.split_at(3);
    Ok([architecture, &[one(code::LOAD_WORD, 0)], &search, conditions].concat())
}

/// Rules in the compiler's own language: what they do not allow is EPERM.
fn from_json(rules: &[Value], target: TargetArch) -> Result<BpfProgram, NoFilter> {
    let text = json!({ "filter": {
        "mismatch_action": { "errno": Errno::EPERM as i32 }, "match_action": "allow", "filter": rules,
    } });
    compile_from_json(text.to_string().as_bytes(), target)
        .map_err(|error| NoFilter(error.to_string()))?
        .remove("filter")
        .ok_or_else(|| NoFilter("nothing was made of the rules".to_owned()))
}

/// The numbers of calls. The compiler has them in a table of its own; in a filter of names alone, each is what one comparison compares
/// with, after the one with the architecture.
fn numbers<'a>(
    names: impl Iterator<Item = &'a String>,
    target: TargetArch,
) -> Result<BTreeSet<u32>, NoFilter> {
    let rules: Vec<Value> = names.map(|name| json!({ "syscall": name })).collect();
    let program = from_json(&rules, target)?;
    let compared = program.iter().filter(|instruction| instruction.code == code::JUMP_IF_EQUAL);
    let numbers: BTreeSet<u32> = compared.skip(1).map(|instruction| instruction.k).collect();
    if numbers.len() != rules.len() {
        let (rules, numbers) = (rules.len(), numbers.len());
        return Err(NoFilter(format!("{rules} names have {numbers} numbers: is one named twice?")));
    }
    Ok(numbers)
}

/// Codes of linux/bpf_common.h and answers of linux/seccomp.h.
mod code {
    pub const LOAD_WORD: u16 = 0x20;
    pub const JUMP: u16 = 0x05;
    pub const JUMP_IF_EQUAL: u16 = 0x15;
    pub const JUMP_IF_AT_LEAST: u16 = 0x35;
    pub const RETURN: u16 = 0x06;
    pub const ALLOW: u32 = 0x7fff_0000;
    pub const ERRNO: u32 = 0x0005_0000;
}

/// A jump behind the search, whose length is not known yet.
const ASK: sock_filter = one(code::JUMP, u32::MAX);

const fn one(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Finds the range that the number is in. Each begins with a number, the first with 0, and ends before the next.
fn halves(ranges: &[(u32, Verdict)]) -> BpfProgram {
    match ranges {
        [] => Vec::new(),
        [(_, Verdict::Allow)] => vec![one(code::RETURN, code::ALLOW)],
        [(_, Verdict::Absent)] => vec![one(code::RETURN, code::ERRNO | Errno::ENOSYS as u32)],
        [(_, Verdict::Ask)] => vec![ASK],
        _ => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let from = above.first().map_or(0, |(number, _)| *number);
            let (below, above) = (halves(below), halves(above));
            let over = u32::try_from(below.len()).expect("the kernel takes 4096");
            // Conditional jumps reach 255 instructions, plain ones everywhere.
            let choice = sock_filter { code: code::JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: from };
            [&[choice, one(code::JUMP, over)][..], &below, &above].concat()
        }
    }
}

fn bytes(program: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * INSTRUCTION);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

fn program(bytes: &[u8]) -> BpfProgram {
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION>();
    instructions
        .iter()
        .map(|&[code, code2, jt, jf, k, k2, k3, k4]| sock_filter {
            code: u16::from_ne_bytes([code, code2]),
            jt,
            jf,
            k: u32::from_ne_bytes([k, k2, k3, k4]),
        })
        .collect()
}

/// Installs the filter, for good, in a process that can gain no privilege.
pub fn install(filter: &Filter) -> Result<(), String> {
    let bytes = STANDARD_NO_PAD.decode(&filter.0).map_err(|e| format!("read the filter: {e}"))?;
    // An empty one is refused there.
    seccompiler::apply_filter(&program(&bytes)).map_err(|error| match error {
        seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error) => {
            format!("install the filter: {}", errno_text(&error))
        }
        other => format!("install the filter: {other}"),
    })
}

/// Tries what the filter refuses. Without it the answers would be others: a kernel without vsock says EAFNOSUPPORT.
pub fn prove() -> Result<Proof, String> {
    let mode = super::capabilities::own_status("Seccomp")?;
    if mode != "2" {
        return Err(format!("the kernel says that its mode is {mode}, not 2 (a filter)"));
    }
    match socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Err(Errno::EPERM) => {}
        Err(errno) => return Err(format!("a socket of AF_VSOCK was {errno:?}, not EPERM")),
        Ok(_) => return Err("a socket of AF_VSOCK could be made".to_owned()),
    }
    match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER) {
        Err(Errno::EPERM) => {}
        other => return Err(format!("a user namespace was not EPERM but {other:?}")),
    }
    Ok(Proof::of(
        "Seccomp is 2 in /proc/self/status; socket(AF_VSOCK) and unshare(CLONE_NEWUSER) were tried: EPERM",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL_PROCESS: u32 = 0x8000_0000;
    const EPERM: u32 = code::ERRNO | Errno::EPERM as u32;
    const ENOSYS: u32 = code::ERRNO | Errno::ENOSYS as u32;

    /// Runs a filter as the kernel does (net/core/filter.c), as far as these filters use the language.
    fn answer(program: &BpfProgram, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number, architecture, 0, 0].map(u32::to_ne_bytes).concat();
        data.extend(arguments.map(u64::to_ne_bytes).concat());
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                code::LOAD_WORD => {
                    let word = data[k as usize..].first_chunk().expect("inside");
                    accumulator = u32::from_ne_bytes(*word);
                }
                code::JUMP => at += k as usize,
                code::JUMP_IF_EQUAL => at += jump(accumulator == k),
                code::JUMP_IF_AT_LEAST => at += jump(accumulator >= k),
                0x25 => at += jump(accumulator > k),
                0x54 => accumulator &= k,
                code::RETURN => return k,
                other => panic!("the test does not know instruction {other:#x}"),
            }
        }
    }

    /// Name, number on both architectures (asm/unistd.h), arguments and answer.
    const CALLS: [(&str, [u32; 2], [u64; 6], u32); 14] = [
        ("read", [0, 63], [0; 6], code::ALLOW),
        ("futex_requeue", [456, 456], [0; 6], code::ALLOW),
        ("ptrace", [101, 117], [0; 6], EPERM),
        ("mount", [165, 40], [0; 6], EPERM),
        ("clone3", [435, 435], [0; 6], ENOSYS),
        ("the first that is younger", [463, 463], [0; 6], ENOSYS),
        ("read of x32", [0x4000_0000, 0x4000_0000], [0; 6], ENOSYS),
        ("clone of a thread", [56, 220], [0x003d_0f00, 0, 0, 0, 0, 0], code::ALLOW),
        ("clone with CLONE_NEWUSER", [56, 220], [0x1000_0011, 0, 0, 0, 0, 0], EPERM),
        ("socket of TCP", [41, 198], [2, 0x80801, 6, 0, 0, 0], code::ALLOW),
        ("socket of AF_VSOCK", [41, 198], [40, 1, 0, 0, 0, 0], EPERM),
        ("ioctl of TCGETS", [16, 29], [0, 0x5401, 0, 0, 0, 0], code::ALLOW),
        ("ioctl of TIOCSTI", [16, 29], [0, 0x5412, 0, 0, 0, 0], EPERM),
        // The kernel looks at 32 bits alone.
        ("ioctl of TIOCSTI in disguise", [16, 29], [0, 0x1_0000_5412, 0, 0, 0, 0], EPERM),
    ];

    #[test]
    fn the_filter_answers_what_the_list_says_on_each_architecture() {
        // AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h).
        for (index, (name, audit)) in
            [("x86_64", 0xc000_003e), ("aarch64", 0xc000_00b7)].into_iter().enumerate()
        {
            let filter = compile(PROFILE, name).expect("compiles");
            // BPF_MAXINSNS (linux/bpf_common.h).
            assert!(filter.len() < 4096, "{name}: {} instructions", filter.len());
            assert_eq!(program(&bytes(&filter)), filter);
            for (call, numbers, arguments, right) in CALLS {
                let found = answer(&filter, audit, numbers[index], arguments);
                assert_eq!(found, right, "{call} on {name}: {found:#x}");
                // AUDIT_ARCH_I386.
                assert_eq!(answer(&filter, 0x4000_0003, numbers[index], arguments), KILL_PROCESS);
            }
            let target = TargetArch::try_from(name).expect("known");
            let list: Profile = serde_json::from_str(PROFILE).expect("parses");
            let own = &list.architectures[name].allowed;
            let allowed = numbers(list.allowed.iter().chain(own), target).expect("known");
            for number in 0..600 {
                let found = answer(&filter, audit, number, [u64::MAX; 6]) == code::ALLOW;
                // With such arguments only these two calls with conditions are allowed: PER_LINUX's question, and an ioctl.
                let asked = [[135, 16], [92, 29]][index].contains(&number);
                assert_eq!(found, allowed.contains(&number) || asked, "{number} on {name}");
            }
        }
    }

    #[test]
    fn a_name_that_no_kernel_has_is_refused() {
        let wrong = PROFILE.replace("\"clone3\"", "\"clone4\"");
        let error = compile(&wrong, "x86_64").expect_err("refused").to_string();
        assert!(error.contains("clone4"), "{error}");
        let twice = PROFILE.replace("\"accept4\"", "\"accept\"");
        let error = compile(&twice, "x86_64").expect_err("refused").to_string();
        assert!(error.contains("named twice"), "{error}");
        let error = compile(PROFILE, "riscv64").expect_err("no list").to_string();
        assert!(error.contains("riscv64"), "{error}");
    }
}
