//! Reads that find out how far a member is: that it knows what was acknowledged, at which revision
//! the store is, and what happened in ranges that are watched.

use bytes::Bytes;
use coord_api::store::{Effect, MAX_TXN_OPS};
use coord_api::{ErrorKind, Revision};
use etcd_client::proto::{PbTxnOpResponse, PbTxnResponse};
use etcd_client::{GetOptions, Txn, TxnOp};

use crate::connection::{MemberConnection, kv};
use crate::error::Fault;
use crate::wire::{ZERO, head, number};

/// Watches that one request asks about: two operations each.
const AT_ONCE: usize = MAX_TXN_OPS / 2;

/// Proves that the member that is asked knows everything that was acknowledged to anyone before.
pub(crate) async fn barrier(connection: &MemberConnection) -> Result<(), Fault> {
    match present(connection, Bytes::from_static(ZERO)).await {
        // The member looks at what a user may read after it has caught up.
        Err(fault) if fault.kind == ErrorKind::PermissionDenied => Ok(()),
        read => read.map(drop),
    }
}

/// The revision that the store is at, by a linearizable read of a key that may be read.
pub(crate) async fn present(connection: &MemberConnection, key: Bytes) -> Result<Revision, Fault> {
    let read = connection.ask(Effect::Read, kv, |mut kv| {
        let key = key.clone();
        async move { kv.get(key, Some(GetOptions::new().with_keys_only())).await }
    });
    head(read.await?.0.header.as_ref())
}

/// What a watch is asked about: whether anything happened in its range after a revision.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The number of the watch.
    pub(crate) id: i64,
    pub(crate) span: (Bytes, Option<Bytes>),
    pub(crate) after: Revision,
}

/// The answer, as of a revision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) id: i64,
    pub(crate) as_of: Revision,
    pub(crate) happened: bool,
}

/// Asks what happened, by reading, on the connection that the watches are on: for streams whose
/// other end answers no request for progress, as etcd's own gRPC proxy does not.
pub(crate) async fn what_happened(
    connection: &MemberConnection,
    questions: Vec<Question>,
) -> Result<Vec<Finding>, Fault> {
    if questions.is_empty() {
        // That it answers is all that can be said.
        barrier(connection).await?;
    }
    let mut findings = Vec::with_capacity(questions.len());
    for some in questions.chunks(AT_ONCE) {
        let asked = match ask(connection, some, true).await {
            // Nobody knows any more how many keys there were; a deletion is not seen then.
            Err(fault) if fault.kind == ErrorKind::Compacted => (ask(connection, some, false).await?, false),
            answer => (answer?, true),
        };
        findings.extend(judge(some, &asked.0, asked.1)?);
    }
    Ok(findings)
}

async fn ask(
    connection: &MemberConnection,
    questions: &[Question],
    count_before: bool,
) -> Result<PbTxnResponse, Fault> {
    let operations: Vec<TxnOp> =
        questions.iter().flat_map(|question| operations(question, count_before)).collect();
    let answer = connection.ask(Effect::Read, kv, |mut kv| {
        let txn = Txn::new().and_then(operations.clone());
        async move { kv.txn(txn).await }
    });
    Ok(answer.await?.0)
}

/// A key that was written after the revision, if there is one, with the number of all keys; and
/// their number at the revision.
fn operations(question: &Question, count_before: bool) -> Vec<TxnOp> {
    let (start, end) = &question.span;
    let get = |options: GetOptions| {
        let options = match end {
            Some(end) => options.with_range(end.clone()),
            None => options,
        };
        TxnOp::get(start.clone(), Some(options))
    };
    let written = GetOptions::new()
        .with_keys_only()
        .with_limit(1)
        .with_min_mod_revision(number(question.after).saturating_add(1));
    let before = GetOptions::new().with_count_only().with_revision(number(question.after).max(1));
    let mut operations = vec![get(written)];
    if count_before {
        operations.push(get(before));
    }
    operations
}

/// A key was written, or there are not as many as there were.
fn judge(
    questions: &[Question],
    answer: &PbTxnResponse,
    counted_before: bool,
) -> Result<Vec<Finding>, Fault> {
    let nonsense = || Err(Fault::nonsense("etcd answered another operation than was asked for"));
    let as_of = head(answer.header.as_ref())?;
    let mut ranges = answer.responses.iter().map(|response| match &response.response {
        Some(PbTxnOpResponse::ResponseRange(range)) => Ok(range),
        _ => nonsense(),
    });
    let mut next = || ranges.next().unwrap_or_else(nonsense);
    let mut findings = Vec::new();
    for question in questions {
        let written = next()?;
        let fewer = counted_before && next()?.count != written.count;
        findings.push(Finding { id: question.id, as_of, happened: !written.kvs.is_empty() || fewer });
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbResponseHeader, PbResponseOp};

    use super::*;

    fn range(count: i64, written: usize) -> PbResponseOp {
        let range = PbRangeResponse {
            count,
            kvs: vec![PbKeyValue::default(); written],
            ..PbRangeResponse::default()
        };
        PbResponseOp { response: Some(PbTxnOpResponse::ResponseRange(range)) }
    }

    fn found(responses: Vec<PbResponseOp>, counted: bool) -> Result<Vec<bool>, Fault> {
        let header = Some(PbResponseHeader { revision: 20, ..PbResponseHeader::default() });
        let question = |id| Question { id, span: ("k".into(), None), after: Revision::new(10) };
        let answer = PbTxnResponse { header, succeeded: true, responses };
        Ok(judge(&[question(1), question(2)], &answer, counted)?
            .iter()
            .map(|finding| finding.happened)
            .collect())
    }

    #[test]
    fn what_was_written_and_what_was_deleted_is_seen() {
        assert_eq!(
            found(vec![range(3, 0), range(3, 0), range(3, 1), range(3, 0)], true).unwrap(),
            [false, true]
        );
        assert_eq!(
            found(vec![range(2, 0), range(3, 0), range(0, 0), range(0, 0)], true).unwrap(),
            [true, false]
        );
        assert_eq!(found(vec![range(2, 0), range(3, 1)], false).unwrap(), [false, true]);
        assert!(found(vec![range(2, 0)], true).is_err(), "an answer is missing");
    }
}
