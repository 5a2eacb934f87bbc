//! Imports only go downwards through the layers, and no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules. Each imports only from itself and from the modules after it in this list.
const LAYERS: [&str; 17] = [
    "cli",
    "commands",
    "transport",
    "server",
    "direct",
    "resumable",
    "upload",
    "ingest",
    "config",
    "store",
    "auth",
    "policy",
    "error",
    "format",
    "crc64",
    "telemetry",
    "tasks",
];

/// A path that a file names, such as `crate::store::ObjectName`.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    /// The path from the crate root.
    path: Vec<String>,
}

/// Returns the source files below `src`, by module path. `main.rs` is another crate, above all of them.
fn modules() -> BTreeMap<Vec<String>, PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut modules) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let module = path.strip_prefix(&root).unwrap().with_extension("");
            let module: Vec<String> = module.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            let is_test = module.iter().any(|name| name == "tests");
            if path.extension().is_some_and(|extension| extension == "rs") && !is_test && module != ["main"] {
                modules.insert(if module == ["lib"] { Vec::new() } else { module }, path);
            }
        }
    }
    assert!(modules.len() > 100, "{} modules", modules.len());
    modules
}

/// Returns the paths in `source`, the file of `module`, that start with `crate`, `super` or `self`. Tests and comments
/// are ignored.
fn imports(module: &[String], source: &str) -> Vec<Import> {
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut code = String::new();
    for line in source.lines() {
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    let starts = ["crate::", "super::", "self::"];
    let mut imports = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = starts.iter().filter_map(|start| rest.find(start)).min() {
        let is_whole_word = !rest[..at].ends_with(|before: char| before.is_alphanumeric() || "_$:".contains(before));
        let line = 1 + code[..code.len() - rest.len() + at].matches('\n').count();
        let (tree, after) = rest[at..].split_at(tree_length(&rest[at..]));
        if is_whole_word {
            let paths = expand(tree).into_iter().map(|path| absolute(module, &path));
            imports.extend(paths.map(|path| Import { line, path }));
        }
        rest = after;
    }
    imports
}

/// Returns the length of the path at the start of `text`, including groups in braces.
fn tree_length(text: &str) -> usize {
    let mut depth = 0;
    let end = text.find(|character: char| {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            other => return depth == 0 && !(other.is_alphanumeric() || "_:}".contains(other)),
        }
        false
    });
    end.unwrap_or(text.len())
}

/// Expands `a::{b, c::d}` to `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let mut depth = 0;
    let branches = group.split(|character: char| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    let branches = branches.map(str::trim).filter(|branch| !branch.is_empty());
    branches.flat_map(expand).map(|branch| format!("{prefix}{branch}")).collect()
}

fn absolute(module: &[String], path: &str) -> Vec<String> {
    let mut names = path.split("::").map(str::trim).peekable();
    let mut base = module.to_vec();
    while let Some(name) = names.next_if(|name| ["crate", "super", "self"].contains(name)) {
        match name {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            _ => {}
        }
    }
    base.extend(names.map(str::to_owned));
    base
}

#[test]
fn imports_only_go_downwards() {
    let position = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let mut wrong = Vec::new();
    for (module, file) in modules() {
        let Some(own) = module.first() else { continue };
        let own = position(own).unwrap_or_else(|| panic!("{own} is in no layer"));
        for import in imports(&module, &fs::read_to_string(&file).unwrap()) {
            if import.path.first().and_then(|name| position(name)).is_some_and(|layer| layer < own) {
                let path = import.path.join("::");
                wrong.push(format!("{}:{}: {} may not import {path}", file.display(), import.line, LAYERS[own]));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go upwards:\n{}", wrong.join("\n"));
}

/// Imports from the ancestors of a module are allowed, because the module is part of them.
#[test]
fn files_do_not_import_each_other_in_circles() {
    let modules = modules();
    let mut edges: BTreeMap<&[String], BTreeMap<&[String], usize>> = BTreeMap::new();
    for (module, file) in &modules {
        for import in imports(module, &fs::read_to_string(file).unwrap()) {
            let target = (0..=import.path.len()).rev().find_map(|length| modules.get_key_value(&import.path[..length]));
            let (target, _) = target.expect("the root is a module");
            if !module.starts_with(target) {
                edges.entry(module).or_default().entry(target).or_insert(import.line);
            }
        }
    }
    let circles: BTreeSet<String> = edges.keys().filter_map(|start| circle(start, &edges)).collect();
    assert!(circles.is_empty(), "{}", circles.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Returns the shortest import path from a file back to itself, if there is one.
fn circle(start: &[String], edges: &BTreeMap<&[String], BTreeMap<&[String], usize>>) -> Option<String> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let Some(targets) = edges.get(way[way.len() - 1]) else { continue };
            for target in targets.keys() {
                let way: Vec<&[String]> = way.iter().chain([target]).copied().collect();
                if *target == start {
                    let steps = way.windows(2).map(|step| {
                        let line = edges[step[0]][step[1]];
                        format!("src/{}.rs:{line} → {}", step[0].join("/"), step[1].join("::"))
                    });
                    return Some(format!("a circle: {}", steps.collect::<Vec<_>>().join(", ")));
                }
                if seen.insert(*target) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

#[test]
fn imports_are_found_in_every_syntax() {
    let source = "use super::b::{self, C, d::{E, F}};\n// use crate::no;\npub fn f() -> crate::g::H { self::i::j() }\n\
                  #[cfg(test)]\nmod tests {\n    use crate::no;\n}\n";
    let found = imports(&["a".to_owned(), "x".to_owned()], source);
    let found: Vec<(usize, String)> = found.iter().map(|import| (import.line, import.path.join("::"))).collect();
    let expected =
        [(1, "a::b::self"), (1, "a::b::C"), (1, "a::b::d::E"), (1, "a::b::d::F"), (3, "g::H"), (3, "a::x::i::j")];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}
