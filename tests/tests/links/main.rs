//! Every link leads somewhere. In Markdown: to a file of the repository, and where it names a
//! heading, to one that is there, as GitHub names it. In the documentation: to a page that `cargo
//! doc` has written and to what is on it, or to a host that is known. No network is asked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod documentation;
mod html;
mod markdown;
mod target;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the command prints.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A command of git, in the repository.
fn git(arguments: &[&str]) -> String {
    output(Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")))
}

fn root() -> PathBuf {
    PathBuf::from(git(&["rev-parse", "--show-toplevel"]).trim_end())
}

/// Every file that git tracks, or would, by its path from the root.
fn files(root: &Path) -> Vec<String> {
    let listed =
        git(&["-C", root.to_str().unwrap(), "ls-files", "--cached", "--others", "--exclude-standard"]);
    // One that was just deleted is still in the index.
    listed.lines().filter(|file| root.join(file).is_file()).map(str::to_owned).collect()
}

fn report(broken: &[String]) {
    assert!(broken.is_empty(), "{} links lead nowhere:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn links_of_the_markdown_files_lead_somewhere() {
    let root = root();
    let files = files(&root);
    let pages = markdown::Pages::read(&root, files);
    assert!(pages.links().count() > 50, "the pages were not read");
    report(&pages.broken());
}

/// The gate runs it after `cargo doc --workspace --all-features --no-deps`.
#[test]
#[ignore = "needs the documentation"]
fn links_of_the_documentation_lead_somewhere() {
    let metadata = output(
        Command::new(env!("CARGO"))
            .args(["metadata", "--locked", "--no-deps", "--format-version", "1"])
            .current_dir(root()),
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let folder = Path::new(metadata["target_directory"].as_str().unwrap()).join("doc");
    let crates = documentation::crates(&metadata);
    assert!(crates.len() > 5, "no crates in {metadata}");
    let root = root();
    let pages = markdown::Pages::read(&root, files(&root));
    let to_ours: Vec<_> =
        pages.links().filter(|(_, link)| documentation::published(link, &crates).is_some()).collect();
    let walk = documentation::walk(&folder, &crates, &to_ours);
    assert!(walk.links > 10_000, "the documentation was not read: {} links", walk.links);
    report(&walk.broken);
}
