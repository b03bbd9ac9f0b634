//! The exact scope of rate limits: one script on Redis decides for all instances (R70).

use std::sync::LazyLock;
use std::time::Duration;

use coord::{Error, ErrorKind, Result};
use coord_service::ratelimit::{ExactAnswer, ExactRequest};
use redis::{Cmd, Script};

use super::Redis;
use super::link::Effect;

const DECIDE: &str = "ratelimit.exact";

const CODE: &str = include_str!("exact.lua");

/// By its digest, a script that the server has is run without being sent.
static DIGEST: LazyLock<String> = LazyLock::new(|| Script::new(CODE).get_hash().to_owned());

impl Redis {
    /// Decides on a request. The bucket is the key `{prefix}ratelimit/{rule}/{key}`, which goes
    /// when it is full.
    pub(crate) async fn decide(&self, request: &ExactRequest<'_>) -> Result<ExactAnswer> {
        // A rule's name has no slash, so that no two buckets have one key.
        let key = self.key(&format!("ratelimit/{}/{}", request.rule, request.key));
        let run = |how: &str, script: &str| {
            let mut command = redis::cmd(how);
            command.arg(script).arg(1).arg(&key);
            command.arg(nanoseconds(request.interval())).arg(nanoseconds(request.depth())).arg(request.count);
            command
        };
        let answer: i64 = match self.run(&run("EVALSHA", &DIGEST)).await? {
            Some(answer) => answer,
            // The server was started anew, or was told to forget. It keeps what it is sent.
            None => self.run(&run("EVAL", CODE)).await?.ok_or_else(|| {
                Error::new(ErrorKind::Internal, DECIDE, "Redis has no script where it was sent one")
            })?,
        };
        Ok(match answer {
            -1 => ExactAnswer::Allowed,
            wait => ExactAnswer::Denied { retry_after: u64::try_from(wait).ok().map(Duration::from_micros) },
        })
    }

    /// What the script answers; `None` where the server does not have it.
    async fn run(&self, command: &Cmd) -> Result<Option<i64>> {
        self.link.query_unless(DECIDE, command, self.tuning.timeout(), Effect::Writes, "NOSCRIPT").await
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
