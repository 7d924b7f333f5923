//! Holds the source tree to the rules that `ARCHITECTURE.md` states.
//!
//! The rungs are read from the table in that document, so the document cannot drift from what is checked. Sources are
//! read as tokens, not as syntax trees: a path inside a macro call counts like any other, comments and strings do not.
//! The second half of this file feeds each rule a violation and asserts that it is reported.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// More code than this in one file hides a second noun. Chosen, not measured.
const CODE_LINES_MAX: usize = 600;

/// Modules that serve the kernel or build a sandbox: synchronous by design, so that a file operation never waits for a
/// runtime.
const DATA_PLANE: &[&str] = &["model", "policy", "secret", "vfs", "fuse", "sandbox"];

// ---- What is checked --------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Imports go downward only.
    Direction,
    /// A module that the table does not name.
    UnknownModule,
    /// The crate root under another name, or all of it at once: the direction could not be seen.
    HiddenRoot,
    /// `fuser` outside `fuse`.
    Fuser,
    /// `unsafe`, or permission for it, outside `sys`.
    Unsafe,
    /// `libc` outside `sys`.
    Libc,
    /// `anyhow` outside `bin`, `cli` and tests.
    Anyhow,
    /// `tokio` in the data plane.
    Tokio,
    /// `rusqlite` outside `storage`.
    Rusqlite,
    /// No module documentation that begins with a sentence.
    Undocumented,
    /// Too much code in one file.
    TooLong,
    /// Not Rust.
    Unreadable,
}

#[derive(Debug)]
struct Finding {
    file: String,
    line: usize,
    rule: Rule,
    detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {:?}: {}", self.file, self.line, self.rule, self.detail)
    }
}

/// Module name to rung.
type Rungs = BTreeMap<String, u32>;

/// Reads the rows `| 3 | `artifact` `fuse` | … |` of the table of rungs.
fn rungs_of(document: &str) -> Rungs {
    let mut rungs = Rungs::new();
    for line in document.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(number), Some(modules)) = (cells.next(), cells.next()) else { continue };
        let Ok(rung) = number.parse() else { continue };
        for name in modules.split('`').skip(1).step_by(2) {
            let before = rungs.insert(name.to_owned(), rung);
            assert!(before.is_none(), "ARCHITECTURE.md puts {name} on two rungs");
        }
    }
    rungs
}

/// Checks one file; `path` is relative to the package, such as `src/vfs/inode.rs`.
fn check(rungs: &Rungs, path: &str, source: &str) -> Vec<Finding> {
    let place = Place::of(path);
    let mut checker = Checker { rungs, path, place: &place, findings: Vec::new() };
    checker.documentation(source);
    checker.length(source);
    match source.parse::<TokenStream>() {
        Ok(tokens) => {
            if let Some(module) = place.module()
                && !rungs.contains_key(module)
            {
                checker.report(1, Rule::UnknownModule, format!("{module} is on no rung"));
            }
            let scope = Scope { modules: place.modules.clone(), test: place.test };
            checker.tokens(tokens, &scope);
        }
        Err(error) => {
            checker.report(error.span().start().line, Rule::Unreadable, error.to_string());
        }
    }
    checker.findings
}

/// Where a file stands in the crate.
struct Place {
    /// Module path, without `crate`: `["vfs", "inode"]`. Empty for the crate root and for binaries.
    modules: Vec<String>,
    binary: bool,
    /// The file is a test module of its own (`tests.rs`).
    test: bool,
}

impl Place {
    fn of(path: &str) -> Place {
        let below = path.strip_prefix("src/").expect("only files below src are checked");
        let mut modules: Vec<String> =
            below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let binary = modules[0] == "bin" || below == "main.rs";
        if binary || below == "lib.rs" {
            modules.clear();
        }
        if modules.last().is_some_and(|last| last == "mod") {
            modules.pop();
        }
        let test = modules.last().is_some_and(|last| last == "tests");
        Place { modules, binary, test }
    }

    /// The top module; `None` for the crate root and for binaries, which are above all rungs.
    fn module(&self) -> Option<&str> {
        self.modules.first().map(String::as_str)
    }

    fn is(&self, module: &str) -> bool {
        self.module() == Some(module)
    }

    fn is_crate_root(&self) -> bool {
        self.modules.is_empty() && !self.binary
    }
}

/// Where a token stands: inline modules add to the path of the file.
#[derive(Clone)]
struct Scope {
    modules: Vec<String>,
    test: bool,
}

struct Checker<'a> {
    rungs: &'a Rungs,
    path: &'a str,
    place: &'a Place,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn report(&mut self, line: usize, rule: Rule, detail: impl Into<String>) {
        let detail = detail.into();
        self.findings.push(Finding { file: self.path.to_owned(), line, rule, detail });
    }

    fn documentation(&mut self, source: &str) {
        let paragraph: Vec<&str> = source
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .map(str::trim)
            .take_while(|line| !line.is_empty())
            .collect();
        let sentence = paragraph.join(" ");
        // A sentence may begin with the name of a system call, such as `openat2(2)`.
        let first_word = sentence.split_whitespace().next().unwrap_or_default();
        let opens = first_word.contains(|c: char| !c.is_lowercase());
        if !opens || !sentence.ends_with(['.', ':', '!', '?']) {
            self.report(1, Rule::Undocumented, "the file must begin with a sentence after `//!`");
        }
    }

    fn length(&mut self, source: &str) {
        let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let lines = source.lines().filter(code).count();
        if lines > CODE_LINES_MAX {
            let detail = format!("{lines} lines of code, more than {CODE_LINES_MAX}");
            self.report(1, Rule::TooLong, detail);
        }
    }

    fn tokens(&mut self, stream: TokenStream, scope: &Scope) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut test_next = false;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(_) => {
                    let name = name_of(token).expect("an identifier has a name");
                    self.name(&name, &tokens, at, scope);
                }
                TokenTree::Group(group) => {
                    let mut inner = scope.clone();
                    if let Some(module) = inline_module(&tokens, at) {
                        inner.modules.push(module);
                    }
                    if group.delimiter() == Delimiter::Brace {
                        inner.test |= std::mem::take(&mut test_next);
                    }
                    test_next |= is_cfg_test(&tokens, at);
                    self.tokens(group.stream(), &inner);
                }
                // `#[cfg(test)] use …;` and `#[cfg(test)] mod tests;` end here.
                TokenTree::Punct(punct) if punct.as_char() == ';' => test_next = false,
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn name(&mut self, name: &str, tokens: &[TokenTree], at: usize, scope: &Scope) {
        let line = tokens[at].span().start().line;
        match name {
            "fuser" if !self.place.is("fuse") => {
                self.report(line, Rule::Fuser, "only src/fuse may name fuser");
            }
            "libc" if !self.place.is("sys") => {
                self.report(line, Rule::Libc, "only src/sys may name libc");
            }
            "unsafe" if !self.place.is("sys") => {
                self.report(line, Rule::Unsafe, "only src/sys may use unsafe code");
            }
            // The crate root forbids it for all and allows it for sys; `the_crate_root_denies_unsafe_code` looks there.
            "unsafe_code" if !self.place.is("sys") && !self.place.is_crate_root() => {
                self.report(line, Rule::Unsafe, "only the crate root may speak about unsafe_code");
            }
            "anyhow" if !(self.place.is("cli") || self.place.binary || scope.test) => {
                self.report(line, Rule::Anyhow, "a library module has an error enum of its own");
            }
            "tokio" if self.place.module().is_some_and(|module| DATA_PLANE.contains(&module)) => {
                self.report(line, Rule::Tokio, "the data plane is synchronous");
            }
            "rusqlite" if !self.place.is("storage") => {
                self.report(line, Rule::Rusqlite, "only src/storage may name rusqlite");
            }
            "crate" if !follows_path_separator(tokens, at) => self.root_path(tokens, at),
            "super" if !follows_path_separator(tokens, at) => self.super_path(tokens, at, scope),
            _ => {}
        }
    }

    /// `crate` at the start of a path.
    fn root_path(&mut self, tokens: &[TokenTree], at: usize) {
        let visibility = tokens.len() == 1;
        let declaration = at > 0 && name_of(&tokens[at - 1]).as_deref() == Some("extern");
        let line = tokens[at].span().start().line;
        if declaration {
            if tokens.get(at + 1).and_then(name_of).as_deref() == Some("self") {
                self.report(line, Rule::HiddenRoot, "`extern crate self` renames the crate root");
            }
        } else if is_path_separator(tokens, at + 1) {
            self.segment(tokens, at + 3, &[]);
        } else if !visibility {
            self.report(line, Rule::HiddenRoot, "the crate root must not be imported or renamed");
        }
    }

    /// `super`, `super::super`, … at the start of a path: matters when it climbs up to the crate root.
    fn super_path(&mut self, tokens: &[TokenTree], at: usize, scope: &Scope) {
        let mut modules = scope.modules.clone();
        let mut next = at;
        while tokens.get(next).and_then(name_of).as_deref() == Some("super") {
            modules.pop();
            if !is_path_separator(tokens, next + 1) {
                // `pub(super)`, or the name of the parent itself.
                return;
            }
            next += 3;
        }
        self.segment(tokens, next, &modules);
    }

    /// The path segment at `at`, below the module path `above`.
    fn segment(&mut self, tokens: &[TokenTree], at: usize, above: &[String]) {
        if !above.is_empty() || self.place.module().is_none() {
            // Within one top module everything may see everything; crate root and binaries may see all.
            return;
        }
        match tokens.get(at) {
            Some(TokenTree::Ident(ident)) => {
                let line = ident.span().start().line;
                match name_of(&tokens[at]).expect("an identifier has a name").as_str() {
                    "self" => self.report(line, Rule::HiddenRoot, "the crate root is not a name"),
                    name => self.direction(name, line),
                }
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                self.use_group(group);
            }
            Some(other) => {
                let line = other.span().start().line;
                self.report(line, Rule::HiddenRoot, "the crate root must not be imported whole");
            }
            None => {}
        }
    }

    /// `crate::{model::id, wire}`.
    fn use_group(&mut self, group: &Group) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
        for item in tokens.split(comma).filter(|item| !item.is_empty()) {
            self.segment(item, 0, &[]);
        }
    }

    fn direction(&mut self, target: &str, line: usize) {
        let own = self.place.module().expect("crate root and binaries returned before");
        if target == own {
            return;
        }
        let Some(target_rung) = self.rungs.get(target).copied() else {
            let detail = format!("crate::{target} is on no rung of ARCHITECTURE.md");
            return self.report(line, Rule::UnknownModule, detail);
        };
        let own_rung = self.rungs.get(own).copied().unwrap_or(0);
        if target_rung >= own_rung {
            let detail = format!("{own} (rung {own_rung}) uses {target} (rung {target_rung})");
            self.report(line, Rule::Direction, detail);
        }
    }
}

/// The identifier's text, raw or not.
fn name_of(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(ident) => {
            let text = ident.to_string();
            Some(text.strip_prefix("r#").map(str::to_owned).unwrap_or(text))
        }
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    }
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':')
}

fn follows_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_path_separator(tokens, at - 2)
}

/// The name in `mod name { … }` when the group at `at` is its body.
fn inline_module(tokens: &[TokenTree], at: usize) -> Option<String> {
    let keyword = at.checked_sub(2).and_then(|before| name_of(&tokens[before]))?;
    if keyword == "mod" { name_of(&tokens[at - 1]) } else { None }
}

/// Whether the group at `at` is `[cfg(test)]` of an outer attribute.
fn is_cfg_test(tokens: &[TokenTree], at: usize) -> bool {
    let TokenTree::Group(group) = &tokens[at] else { return false };
    at > 0
        && is_punct(tokens, at - 1, '#')
        && group.delimiter() == Delimiter::Bracket
        && group.stream().to_string().replace(' ', "") == "cfg(test)"
}

// ---- The project is checked -------------------------------------------------------------------------------------

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn project_rungs() -> Rungs {
    let document = fs::read_to_string(package().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    rungs_of(&document)
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a source directory can be listed") {
        let path = entry.expect("a directory entry can be read").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn sources_keep_to_the_architecture() {
    let rungs = project_rungs();
    let mut files = Vec::new();
    rust_files(&package().join("src"), &mut files);
    assert!(files.len() > 10, "the checker lost the sources: found only {}", files.len());

    let mut report = String::new();
    for file in &files {
        let source = fs::read_to_string(file).expect("a source file is UTF-8");
        let relative = file.strip_prefix(package()).expect("files are below the package");
        let relative = relative.to_str().expect("source names are UTF-8");
        for finding in check(&rungs, relative, &source) {
            report.push_str(&format!("\n{finding}"));
        }
    }
    assert!(report.is_empty(), "see ARCHITECTURE.md, Rungs and Invariants:{report}");
}

#[test]
fn the_document_names_every_rung() {
    let rungs = project_rungs();
    for (module, rung) in [("daemon", 6), ("workspace", 4), ("vfs", 2), ("model", 0)] {
        assert_eq!(rungs.get(module), Some(&rung), "rung of {module} in ARCHITECTURE.md");
    }
    let used: std::collections::BTreeSet<u32> = rungs.values().copied().collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), (0..=6).collect::<Vec<_>>());
}

#[test]
fn the_crate_root_denies_unsafe_code() {
    let root = fs::read_to_string(package().join("src/lib.rs")).expect("src/lib.rs");
    let code: String = root.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.split_whitespace().collect::<String>();
    assert!(code.contains("#![deny(unsafe_code)]") || code.contains("#![deny(unsafe_code,"));
    assert_eq!(code.matches("allow(unsafe_code").count(), 1, "one module may have unsafe code");
    assert!(code.contains("#[allow(unsafe_code)]pubmodsys;"), "and that module is sys");
}

// ---- The checker is checked -------------------------------------------------------------------------------------

fn sample_rungs() -> Rungs {
    let table = "
        | rung | modules | what they are |
        | --- | --- | --- |
        | 6 | `daemon` | composition |
        | 5 | `api` | HTTP |
        | 4 | `workspace` | lifecycle |
        | 3 | `artifact` `fuse` `cli` | registry, kernel, commands |
        | 2 | `storage` `vfs` `sandbox` `client` | catalog, files, isolation |
        | 1 | `policy` `secret` `config` `wire` | rules, values, settings, HTTP types |
        | 0 | `model` `sys` | nouns, system calls |";
    rungs_of(table)
}

/// Rules that `code`, documented and placed at `path`, breaks.
fn broken(path: &str, code: &str) -> Vec<Rule> {
    let source = format!("//! A sample.\n{code}\n");
    check(&sample_rungs(), path, &source).into_iter().map(|finding| finding.rule).collect()
}

#[track_caller]
fn refused(path: &str, code: &str, rule: Rule) {
    assert_eq!(broken(path, code), [rule], "{path}: {code}");
}

#[track_caller]
fn accepted(path: &str, code: &str) {
    assert_eq!(broken(path, code), [], "{path}: {code}");
}

#[test]
fn an_import_from_above_is_reported() {
    refused("src/vfs/mod.rs", "use crate::artifact::registry::Registry;", Rule::Direction);
    refused("src/model/id.rs", "use crate::{daemon};", Rule::Direction);
    refused("src/config.rs", "pub(in crate::api) fn f() {}", Rule::Direction);
}

#[test]
fn an_import_from_the_same_rung_is_reported() {
    refused("src/fuse/adapter.rs", "use crate::artifact::Artifacts;", Rule::Direction);
    refused("src/sys/mount.rs", "use crate::model::id::RunId;", Rule::Direction);
}

#[test]
fn a_path_in_the_middle_of_code_is_reported() {
    refused("src/vfs/mod.rs", "fn f() -> crate::fuse::Session { todo() }", Rule::Direction);
    refused("src/vfs/mod.rs", "fn f() { let x = crate::api::router(); }", Rule::Direction);
    refused("src/vfs/mod.rs", "fn f() { log!(\"{}\", crate::api::NAME); }", Rule::Direction);
    refused("src/vfs/mod.rs", "#[derive(X)] #[x(with = crate::api::y)] struct S;", Rule::Direction);
    refused("src/vfs/mod.rs", "macro_rules! m { () => { $crate::api::f() } }", Rule::Direction);
}

#[test]
fn a_path_that_climbs_over_the_root_is_reported() {
    refused("src/config.rs", "use super::api::Router;", Rule::Direction);
    refused("src/vfs/inode.rs", "use super::super::api::Router;", Rule::Direction);
    refused(
        "src/vfs/mod.rs",
        "mod a { mod b { use super::super::super::api::R; } }",
        Rule::Direction,
    );
    refused("src/vfs/inode.rs", "use super::super::{model::id, api::Router};", Rule::Direction);
    accepted("src/vfs/inode.rs", "use super::api::Router;");
    accepted("src/vfs/mod.rs", "mod api {} mod a { use super::api; }");
}

#[test]
fn each_member_of_a_group_is_reported() {
    let code = "use crate::{model::id, artifact::{self, rules}, api};";
    assert_eq!(broken("src/vfs/mod.rs", code), [Rule::Direction, Rule::Direction]);
}

#[test]
fn test_modules_obey_the_rungs_too() {
    let code = "#[cfg(test)] mod tests { use crate::api::Router; }";
    refused("src/vfs/mod.rs", code, Rule::Direction);
    refused("src/vfs/tests.rs", "use crate::api::Router;", Rule::Direction);
}

#[test]
fn a_hidden_crate_root_is_reported() {
    refused("src/vfs/mod.rs", "use crate as belljar;", Rule::HiddenRoot);
    refused("src/vfs/mod.rs", "use crate::*;", Rule::HiddenRoot);
    refused("src/vfs/mod.rs", "use crate::{self as root};", Rule::HiddenRoot);
    refused("src/lib.rs", "extern crate self as belljar;", Rule::HiddenRoot);
}

#[test]
fn a_module_without_a_rung_is_reported() {
    refused("src/utils.rs", "fn f() {}", Rule::UnknownModule);
    refused("src/vfs/mod.rs", "use crate::helpers::f;", Rule::UnknownModule);
}

#[test]
fn fuser_outside_fuse_is_reported() {
    refused("src/vfs/mod.rs", "use fuser::FileAttr;", Rule::Fuser);
    refused("src/workspace/run.rs", "fn f(e: ::fuser::Errno) {}", Rule::Fuser);
    refused("src/bin/belljard.rs", "use fuser as f;", Rule::Fuser);
    accepted("src/fuse/adapter.rs", "use fuser::Filesystem;");
}

#[test]
fn unsafe_code_outside_sys_is_reported() {
    refused("src/fuse/session.rs", "fn f() { unsafe { g() } }", Rule::Unsafe);
    refused("src/fuse/session.rs", "unsafe impl Send for S {}", Rule::Unsafe);
    refused("src/fuse/session.rs", "#![allow(unsafe_code)]", Rule::Unsafe);
    refused("src/fuse/session.rs", "fn f() { x!(unsafe { g() }) }", Rule::Unsafe);
    refused("src/bin/belljar.rs", "fn main() { unsafe { g() } }", Rule::Unsafe);
    accepted("src/sys/mount.rs", "fn f() { unsafe { g() } }");
}

#[test]
fn libc_outside_sys_is_reported() {
    refused("src/vfs/error.rs", "const E: i32 = libc::EROFS;", Rule::Libc);
    refused("src/vfs/error.rs", "const E: i32 = nix::libc::EROFS;", Rule::Libc);
    accepted("src/sys/peer.rs", "const E: i32 = libc::EROFS;");
}

#[test]
fn anyhow_is_for_commands_and_tests() {
    refused("src/vfs/mod.rs", "fn f() -> anyhow::Result<()> { Ok(()) }", Rule::Anyhow);
    let after_the_tests = "#[cfg(test)] mod tests { use anyhow::Result; } use anyhow::Result;";
    refused("src/vfs/mod.rs", after_the_tests, Rule::Anyhow);
    refused(
        "src/vfs/mod.rs",
        "#[cfg(test)] mod tests; mod a { use anyhow::Result; }",
        Rule::Anyhow,
    );
    refused("src/vfs/mod.rs", "#[cfg(not(test))] mod a { use anyhow::Result; }", Rule::Anyhow);
    accepted("src/vfs/mod.rs", "#[cfg(test)] mod tests { fn f() -> anyhow::Result<()> { g() } }");
    accepted("src/vfs/tests.rs", "use anyhow::Result;");
    accepted("src/cli/run.rs", "use anyhow::Context;");
    accepted("src/bin/belljar.rs", "fn main() -> anyhow::Result<()> { Ok(()) }");
}

#[test]
fn a_runtime_in_the_data_plane_is_reported() {
    refused("src/vfs/mod.rs", "use tokio::sync::Mutex;", Rule::Tokio);
    refused("src/sandbox/spawn.rs", "fn f() { tokio::spawn(g()); }", Rule::Tokio);
    accepted("src/api/mod.rs", "use tokio::net::UnixListener;");
}

#[test]
fn sql_outside_storage_is_reported() {
    refused("src/artifact/registry.rs", "use rusqlite::Connection;", Rule::Rusqlite);
    accepted("src/storage/catalog/sqlite.rs", "use rusqlite::Connection;");
}

#[test]
fn a_file_without_a_sentence_is_reported() {
    let rules = |source: &str| -> Vec<Rule> {
        check(&sample_rungs(), "src/vfs/mod.rs", source).into_iter().map(|f| f.rule).collect()
    };
    assert_eq!(rules("fn f() {}\n"), [Rule::Undocumented]);
    assert_eq!(rules("/// Not of the module.\nfn f() {}\n"), [Rule::Undocumented]);
    assert_eq!(rules("use std::io;\n//! Too late.\n"), [Rule::Undocumented, Rule::Unreadable][..1]);
    assert_eq!(rules("//!\nfn f() {}\n"), [Rule::Undocumented]);
    assert_eq!(rules("//! files and handles\nfn f() {}\n"), [Rule::Undocumented]);
    assert_eq!(rules("//! Files of one\n//! workspace.\nfn f() {}\n"), []);
    assert_eq!(rules("//! openat2(2), which resolves beneath a directory.\nfn f() {}\n"), []);
    assert_eq!(rules("//! Files.\n//!\n//! and more\nfn f() {}\n"), []);
}

#[test]
fn a_long_file_is_reported() {
    let long = "const A: u8 = 0;\n".repeat(CODE_LINES_MAX + 1);
    refused("src/vfs/mod.rs", &long, Rule::TooLong);
    let commented = "// A remark.\n\n".repeat(CODE_LINES_MAX + 1);
    accepted("src/vfs/mod.rs", &commented);
}

#[test]
fn text_that_is_not_rust_is_reported() {
    refused("src/vfs/mod.rs", "fn f( {", Rule::Unreadable);
}

#[test]
fn what_is_allowed_is_accepted() {
    accepted("src/vfs/mod.rs", "use crate::{model::{id, path}, policy, sys::openat2};");
    accepted("src/vfs/mod.rs", "use crate::vfs::inode::Inode;");
    accepted("src/vfs/mod.rs", "pub(crate) fn f() {} pub(super) fn g() {}");
    accepted("src/vfs/mod.rs", "// crate::api\n/// See [`crate::api`], unsafe, fuser.\nfn f() {}");
    accepted("src/vfs/mod.rs", "const NAMES: &str = \"crate::api fuser libc unsafe\";");
    accepted("src/lib.rs", "pub mod api; pub use crate::model::id;");
    accepted("src/bin/belljard.rs", "use belljar::daemon; fn main() { daemon::main() }");
}
