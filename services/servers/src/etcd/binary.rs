//! Which etcd to run.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::program::{find, places};

/// A series of etcd releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Series {
    /// 3.4: old, and the one that does the most that a client must survive.
    V3_4,
    /// 3.5: the one that decides whether a promise is kept.
    V3_5,
}

impl Series {
    fn name(self) -> &'static str {
        match self {
            Series::V3_4 => "3.4",
            Series::V3_5 => "3.5",
        }
    }
}

/// An etcd program.
#[derive(Clone, Debug)]
pub struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) series: Series,
    version: String,
}

/// Finds etcdctl, a Go client: `COORD_TEST_ETCDCTL_BIN`, then what `scripts/etcd.sh` brought into
/// `.cache/`, then the `PATH`.
///
/// # Panics
///
/// When there is none. The message says what to do.
pub fn etcdctl() -> PathBuf {
    find("COORD_TEST_ETCDCTL_BIN", "etcdctl-3.5/etcdctl", "etcdctl", "scripts/etcd.sh")
}

impl Binary {
    /// Finds an etcd of `series`: `COORD_TEST_ETCD_BIN`, then what `scripts/etcd.sh` brought into
    /// `.cache/`, then the `PATH`. A program of another series is passed over.
    ///
    /// # Panics
    ///
    /// When there is none. The message says what to do.
    pub fn find(series: Series) -> Self {
        // Asked once: to start one for its version takes as long as a short case.
        static FOUND: [OnceLock<Binary>; 2] = [OnceLock::new(), OnceLock::new()];
        let [old, new] = &FOUND;
        let found = match series {
            Series::V3_4 => old,
            Series::V3_5 => new,
        };
        found.get_or_init(|| Binary::look_for(series)).clone()
    }

    fn look_for(series: Series) -> Self {
        places("COORD_TEST_ETCD_BIN", &format!("etcd-{}/etcd", series.name()), "etcd")
            .find_map(|path| Binary::at(path, series))
            .unwrap_or_else(|| {
                panic!("there is no etcd {} to test with: run scripts/etcd.sh, or name one in COORD_TEST_ETCD_BIN", series.name())
            })
    }

    /// The program's version, for example `3.5.30`.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn at(path: PathBuf, series: Series) -> Option<Self> {
        let output = Command::new(&path).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.lines().next()?.strip_prefix("etcd Version: ")?.trim().to_owned();
        version.starts_with(&format!("{}.", series.name())).then_some(Binary { path, series, version })
    }
}
