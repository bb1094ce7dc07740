//! Who may import whom (the table in `ARCHITECTURE.md`), and how files are laid out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A part, what it must never name, by the beginning of a path, and why.
const NEVER: &[(&str, &[&str], &str)] = &[
    (
        "core",
        &[
            "tokio",
            "futures",
            "hyper",
            "rustls",
            "tracing",
            "rand",
            "fastrand",
            "getrandom",
            "std::fs",
            "std::env",
            "std::thread",
            "std::process",
            "std::io",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::net::TcpStream",
            "std::net::TcpListener",
            "std::net::UdpSocket",
            "std::net::ToSocketAddrs",
            "std::hash::RandomState",
            "std::collections::hash_map::RandomState",
            "jiff::Timestamp::now",
            "jiff::Zoned",
            "kube::Client",
            "kube::Api",
            "kube::api",
            "kube::client",
            "kube::config",
            "kube::runtime",
        ],
        "core decides; it neither waits nor looks at the world",
    ),
    ("host", &["kube", "k8s_openapi", "oci_client"], "modules know nothing of Kubernetes or registries"),
    (
        "controller",
        &[
            "crate::prober",
            "crate::artifact",
            "crate::admin",
            "crate::app",
            "crate::cepctl",
            "cep_host",
            "wasmtime",
        ],
        "the controller learns of health through `HealthSource` alone",
    ),
    (
        "prober",
        &[
            "kube",
            "k8s_openapi",
            "crate::controller",
            "crate::artifact",
            "crate::admin",
            "crate::lease",
            "crate::app",
            "crate::cepctl",
        ],
        "probing goes on without an API server",
    ),
    (
        "artifact",
        &["kube", "k8s_openapi", "crate::controller", "crate::prober", "crate::app"],
        "pull secrets come in as values",
    ),
    (
        "admin",
        &[
            "kube",
            "k8s_openapi",
            "crate::controller",
            "crate::prober",
            "crate::lease",
            "crate::app",
            "crate::cepctl",
        ],
        "it shows what others publish",
    ),
    (
        "lease",
        &["crate::controller", "crate::prober", "crate::admin", "crate::app"],
        "it knows who leads, not what for",
    ),
    (
        "metrics",
        &["kube", "crate::controller", "crate::prober", "crate::admin", "crate::lease", "crate::app"],
        "everybody counts, so counting depends on nobody",
    ),
    (
        "telemetry",
        &["kube", "crate::controller", "crate::prober", "crate::admin", "crate::app"],
        "as metrics",
    ),
];

/// The parts that only wiring may bring together.
const PARTS: &[&str] = &["controller", "prober", "artifact", "admin", "lease"];
/// What may: the operator's own wiring, the programs, and the command line tool, which is another wiring.
const WIRING: &[&str] = &["app", "bin", "cepctl", "lib"];

/// A source file of the operator.
struct Source {
    path: PathBuf,
    part: String,
    /// Of the module within its crate.
    module: Vec<String>,
    code: String,
}

fn operator() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn workspace() -> &'static Path {
    operator().parent().unwrap()
}

fn rust_files(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(below) else { return files };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(rust_files(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let crates = [
        ("", operator().join("src")),
        ("core", operator().join("core/src")),
        ("host", operator().join("host/src")),
    ];
    let mut sources = Vec::new();
    for (part, root) in crates {
        for path in rust_files(&root) {
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let mut module: Vec<String> = relative.iter().map(|s| s.to_string_lossy().into_owned()).collect();
            module.pop_if(|last| *last == "mod");
            let part = if part.is_empty() { module[0].clone() } else { part.to_owned() };
            let code = without_comments_and_strings(&fs::read_to_string(&path).unwrap());
            sources.push(Source { path, part, module, code });
        }
    }
    sources
}

/// Good enough for code that rustfmt has been over.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("r#\"") {
            rest = rest[3..].find("\"#").map_or("", |end| &rest[3 + end + 2..]);
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest = &rest[rest.find("\"'").unwrap() + 2..];
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = end.map_or("", |end| &rest[1 + end + 1..]);
            code.push_str("\"\"");
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// Every path that a file names: those of `use`, spelt out, and those in expressions.
fn paths(source: &Source) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut rest = source.code.as_str();
    while let Some(start) = rest.find("use ") {
        let begins = rest[..start].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let tree = &rest[start + 4..];
        let end = tree.find(';').unwrap_or(tree.len());
        if begins {
            spell_out("", &tree[..end], &mut paths);
        }
        rest = &tree[end..];
    }
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for path in source.code.split(|c| !word(c)).filter(|path| path.contains("::")) {
        paths.insert(path.trim_matches(':').to_owned());
    }
    paths.iter().map(|path| absolute(path, &source.module)).collect()
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn spell_out(prefix: &str, tree: &str, paths: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        if !name.is_empty() {
            paths.insert(format!("{prefix}{name}"));
        }
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spell_out(&prefix, &inner[start..i], paths);
                start = i + 1;
            }
            _ => {}
        }
    }
}

/// `super::` and `self::` resolved.
fn absolute(path: &str, module: &[String]) -> String {
    let mut at = module.to_vec();
    let mut rest = path;
    while let Some(after) = rest.strip_prefix("super::") {
        at.pop();
        rest = after;
    }
    let relative = rest.len() != path.len() || rest.starts_with("self::");
    rest = rest.strip_prefix("self::").unwrap_or(rest);
    if relative {
        let base: Vec<&str> = std::iter::once("crate").chain(at.iter().map(String::as_str)).collect();
        return format!("{}::{rest}", base.join("::"));
    }
    rest.to_owned()
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "samples.rs")
}

#[test]
fn no_part_imports_what_it_must_not() {
    let mut faults = Vec::new();
    for source in sources() {
        let paths = paths(&source);
        for (part, never, why) in NEVER.iter().filter(|(part, ..)| *part == source.part) {
            for path in paths.iter().filter(|path| never.iter().any(|banned| is_below(path, banned))) {
                faults.push(format!("{}: {part} must not use {path}: {why}", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_wiring_brings_parts_together() {
    let mut faults = Vec::new();
    for source in sources().into_iter().filter(|s| !WIRING.contains(&s.part.as_str())) {
        let paths = paths(&source);
        let others = PARTS.iter().filter(|part| **part != source.part);
        for part in others.filter(|part| paths.iter().any(|p| is_below(p, &format!("crate::{part}")))) {
            faults.push(format!("{}: only {WIRING:?} may use {part}", source.path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A scanner that sees nothing finds no fault: it must see what is known to be there.
#[test]
fn the_scanner_sees_what_is_there() {
    let source = |module: &[&str], text: &str| Source {
        path: PathBuf::new(),
        part: String::new(),
        module: module.iter().map(|m| (*m).to_owned()).collect(),
        code: without_comments_and_strings(text),
    };
    let seen = paths(&source(
        &["prober", "http"],
        "// use kube::Client;\nuse std::{fs, time::{Duration, Instant as Now}};\npub(super) use super::tls::Session;\n\
         use super::super::controller::{self, run};\nlet x = jiff::Timestamp::now(); \"use rand::Rng;\"; reuse; \
         fn f() -> kube::Result<()> {}",
    ));
    for path in [
        "std::fs",
        "std::time::Instant",
        "crate::prober::tls::Session",
        "crate::controller::run",
        "jiff::Timestamp::now",
        "kube::Result",
    ] {
        assert!(seen.contains(path), "{path} not in {seen:?}");
    }
    assert!(!seen.iter().any(|path| path.starts_with("rand") || path == "kube::Client"), "{seen:?}");

    let parts: BTreeSet<String> = sources().into_iter().map(|source| source.part).collect();
    for part in ["core", "controller", "prober", "admin", "app", "lease"] {
        assert!(parts.contains(part), "{part} not in {parts:?}");
    }
    let uses = |part: &str, path: &str| {
        sources().iter().filter(|s| s.part == part).any(|s| paths(s).iter().any(|p| is_below(p, path)))
    };
    assert!(
        uses("controller", "kube::Client") && uses("app", "crate::prober") && uses("core", "k8s_openapi")
    );
}

#[test]
fn files_are_short() {
    let long =
        rust_files(workspace()).into_iter().filter(|path| !is_test(path.strip_prefix(workspace()).unwrap()));
    let long: Vec<String> = long
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > 600)
        .map(|(lines, path)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "more than 600 lines:\n{}", long.join("\n"));
}

#[test]
fn modules_are_named_for_what_they_are_about() {
    let vague = ["util", "utils", "helper", "helpers", "common", "manager", "misc"];
    for path in rust_files(workspace()) {
        let relative = path.strip_prefix(workspace()).unwrap().with_extension("");
        let found = relative.iter().find(|part| vague.iter().any(|name| part == name));
        assert!(found.is_none(), "{}: {found:?} says nothing", path.display());
    }
}

/// A file that is in no `mod` list is never compiled, and a test in it never run.
#[test]
fn every_file_is_in_a_mod_list() {
    let roots = source_roots();
    let mut stray = Vec::new();
    for path in rust_files(workspace()) {
        let root = roots.iter().filter(|root| path.starts_with(root)).max_by_key(|root| root.iter().count());
        if root.is_some_and(|root| !is_declared(&path, root)) {
            stray.push(path.display().to_string());
        }
    }
    assert!(stray.is_empty(), "in no mod list:\n{}", stray.join("\n"));
}

/// The directories in which modules are declared by their parents: of libraries, and of programs that
/// have a directory of their own.
fn source_roots() -> Vec<PathBuf> {
    let mut roots = BTreeSet::from([workspace().join("tests/e2e")]);
    for path in rust_files(workspace()) {
        roots.extend(path.ancestors().filter(|dir| dir.ends_with("src")).map(Path::to_owned));
        roots.extend(path.ancestors().filter(|dir| dir.join("main.rs").is_file()).map(Path::to_owned));
    }
    roots.into_iter().collect()
}

fn is_declared(path: &Path, root: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let dir = path.parent().unwrap();
    let is_target = ["lib", "main", "build"].contains(&stem) && dir == root || dir == root.join("bin");
    if is_target {
        return true;
    }
    let (name, home) = match stem {
        "mod" => (dir.file_name().unwrap().to_str().unwrap(), dir.parent().unwrap()),
        _ => (stem, dir),
    };
    let parents = if home == root {
        let bins = rust_files(&root.join("bin"));
        [vec![root.join("lib.rs"), root.join("main.rs")], bins].concat()
    } else {
        vec![home.join("mod.rs"), home.with_extension("rs")]
    };
    parents.iter().filter_map(|parent| fs::read_to_string(parent).ok()).any(|text| {
        let code = without_comments_and_strings(&text);
        code.lines().any(|line| line.trim_end().ends_with(&format!("mod {name};")))
    })
}

/// `cargo clippy -- -D warnings` fails when core reads a clock; this holds what makes it so.
#[test]
fn clocks_randomness_and_waiting_are_banned_from_core() {
    let banned = fs::read_to_string(operator().join("core/clippy.toml")).unwrap();
    for path in [
        "std::time::Instant::now",
        "std::time::SystemTime::now",
        "jiff::Timestamp::now",
        "jiff::Zoned::now",
        "std::thread::sleep",
        "std::thread::spawn",
        "std::hash::RandomState::new",
        "std::time::Instant\"",
        "std::time::SystemTime\"",
    ] {
        assert!(banned.contains(&format!("path = \"{path}")), "core/clippy.toml does not ban {path}");
    }
    for path in rust_files(&operator().join("core/src")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("clippy::disallowed"), "{} lifts the ban", path.display());
    }
    let manifest = fs::read_to_string(operator().join("core/Cargo.toml")).unwrap();
    assert!(manifest.contains("[lints]\nworkspace = true"), "core is under the lints of the workspace");
    // Until there is one, nobody runs it.
    if let Ok(makefile) = fs::read_to_string(workspace().join("Makefile")) {
        let lint = makefile.lines().find(|line| line.contains("cargo clippy")).unwrap_or_default();
        assert!(lint.contains("--workspace") && lint.contains("-D warnings"), "Makefile: {lint:?}");
    }
}
