//! Every seed, and some thousand mutations of each, hold what the targets say; the same ones each
//! time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use fastrand::Rng;

const MUTATIONS: usize = 3_000;

fn all(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} has no seeds", folder.display());
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for seed in &seeds {
        check(seed);
    }
    let mut rng = Rng::with_seed(0);
    for _ in 0..MUTATIONS {
        let mut data = rng.choice(&seeds).unwrap().clone();
        for _ in 0..rng.usize(1..=4) {
            mutate(&mut data, &seeds, &mut rng);
        }
        check(&data);
    }
}

fn mutate(data: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    let place = rng.usize(0..=data.len());
    match rng.u8(0..4) {
        0 => data.insert(place, rng.u8(..)),
        1 => data.truncate(place),
        2 => {
            if let Some(byte) = data.get_mut(place) {
                *byte = rng.u8(..);
            }
        }
        _ => {
            let other = rng.choice(seeds).unwrap();
            data.extend_from_slice(&other[rng.usize(0..=other.len())..]);
        }
    }
}

#[test]
fn keys() {
    all("keys", coord_fuzz::keys::check);
}

#[test]
fn records() {
    all("records", coord_fuzz::records::check);
}

#[test]
fn urls() {
    all("urls", coord_fuzz::urls::check);
}

#[test]
fn values() {
    all("values", coord_fuzz::values::check);
}

#[test]
fn watches() {
    all("watches", coord_fuzz::watches::check);
}
