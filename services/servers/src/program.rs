//! Where a program is.

use std::env;
use std::path::{Path, PathBuf};

/// The places of a program, the best one first: named by the environment variable, below the
/// repository's `.cache/` at the path `cached`, on the `PATH` as `program`. Only what is there.
pub fn places(variable: &str, cached: &str, program: &'static str) -> impl Iterator<Item = PathBuf> {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache").join(cached);
    let on_path =
        env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    env::var_os(variable)
        .map(PathBuf::from)
        .into_iter()
        .chain([cached])
        .chain(on_path.map(move |directory| directory.join(program)))
        .filter(|path| path.is_file())
}

/// The first of the [`places`].
///
/// # Panics
///
/// When it is at none of them: `script` is what brings it.
pub fn find(variable: &str, cached: &str, program: &'static str, script: &str) -> PathBuf {
    places(variable, cached, program).next().unwrap_or_else(|| {
        panic!("there is no {program} to test with: run {script}, or name one in {variable}")
    })
}
