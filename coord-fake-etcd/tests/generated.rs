//! The code in `src/proto/generated` is what the generator makes of `proto/`. Those who use the
//! crate need neither the generator nor `protoc`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;

/// Set to write the code anew instead of comparing it.
const WRITE: &str = "COORD_FAKE_ETCD_GENERATE";

const FILES: [&str; 3] = ["authpb.rs", "etcdserverpb.rs", "mvccpb.rs"];

fn generate(into: &Path) {
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        // They hold passwords.
        .skip_debug([
            "etcdserverpb.AuthenticateRequest",
            "etcdserverpb.AuthUserAddRequest",
            "etcdserverpb.AuthUserChangePasswordRequest",
        ])
        .emit_rerun_if_changed(false)
        .out_dir(into)
        .compile_protos(&["proto/rpc.proto"], &["proto"])
        .expect("protoc compiles the definitions");
}

#[test]
fn the_code_that_is_checked_in_is_what_the_generator_makes() {
    let checked_in = Path::new("src/proto/generated");
    if std::env::var_os(WRITE).is_some() {
        return generate(checked_in);
    }
    let scratch = tempfile::tempdir().unwrap();
    generate(scratch.path());
    for file in FILES {
        let made = fs::read_to_string(scratch.path().join(file)).unwrap();
        let kept = fs::read_to_string(checked_in.join(file)).unwrap();
        assert!(
            made == kept,
            "{file} is not up to date; {WRITE}=1 cargo test -p coord-fake-etcd --test generated"
        );
    }
}
