//! docs/browsers.md shows the examples as they are. `make e2e` runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the paths and contents of the code blocks that show a file: they start with "```<language> check file=<path>".
fn shown_files(document: &str) -> Vec<(&str, &str)> {
    document
        .split("\n```")
        .filter_map(|block| {
            let (info, content) = block.split_once('\n')?;
            let (_, path) = info.split_once(" check file=")?;
            Some((path, content))
        })
        .collect()
}

/// Returns the files of the examples that users copy.
fn examples(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "node_modules" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("form/index.html") || !["index.html", "README.md", "serve.mjs"].contains(&name) {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn browsers_document_shows_every_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/browsers.md")).unwrap();
    let shown = shown_files(&document);
    for (path, content) in &shown {
        let file = fs::read_to_string(root.join(path)).unwrap();
        assert!(
            file == format!("{content}\n"),
            "docs/browsers.md does not show {path} as it is: copy the file into it"
        );
    }
    let shown: BTreeSet<String> = shown.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(shown, examples(root));
}
