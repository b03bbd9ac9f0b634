//! etcd's messages and the traits of its services, generated from the definitions in `proto/`.
//! `tests/generated.rs` says how, and that they are up to date.

/// Users and roles.
#[allow(
    dead_code,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::restriction,
    reason = "generated"
)]
pub(crate) mod authpb {
    include!("generated/authpb.rs");
}

/// The services with their messages.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
pub(crate) mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}

/// Keys, values and events.
#[allow(dead_code, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub(crate) mod mvccpb {
    include!("generated/mvccpb.rs");
}
