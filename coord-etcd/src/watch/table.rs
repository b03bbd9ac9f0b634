//! Which response belongs to which watch, on a stream of many watches. Pure: time is an argument.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::{Effect, StoreEvent};
use etcd_client::proto::PbWatchResponse;
use tokio::time::Instant;

use super::assemble::{Assembler, canceled};
use super::liveness::Liveness;
use super::queue::{self, Feeder};
use super::request::{OPERATION, WatchRequest};
use crate::error::Fault;
use crate::probe::{Finding, Question};
use crate::wire::{head, revision};

/// The watch id in answers to a request for progress, which are about all watches of a stream.
const ALL_WATCHES: i64 = -1;

/// What a response makes necessary.
#[derive(Debug)]
pub(super) enum Reply {
    /// Ask for this watch.
    Watch(WatchRequest),
    /// Cancel the watch of this number.
    Cancel(i64),
    /// Make no further watch on this stream, because its token is not accepted any more, and refuse
    /// this one.
    Retire(WatchRequest, Fault),
}

/// The watches of one stream.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The watches that were asked for and are not answered yet. A server answers in the order in
    /// which it was asked.
    asked: VecDeque<WatchRequest>,
    watches: HashMap<i64, OpenWatch>,
}

#[derive(Debug)]
struct OpenWatch {
    span: (Bytes, Option<Bytes>),
    assembler: Assembler,
    feeder: Feeder,
    /// Up to this revision every change was delivered, or a read has shown that there was none.
    checked: Revision,
    /// Since when a change is known that was not delivered.
    undelivered_since: Option<Instant>,
}

impl Table {
    /// The server is asked for this next.
    pub(super) fn ask(&mut self, request: WatchRequest) {
        self.asked.push_back(request);
    }

    /// Nobody reads this watch any more.
    pub(super) fn forget(&mut self, id: i64) {
        self.watches.remove(&id);
    }

    /// Takes one response: to a request for a watch, about all of them, or of one.
    ///
    /// # Errors
    ///
    /// What ends the whole stream.
    pub(super) fn take(
        &mut self,
        response: PbWatchResponse,
        liveness: &mut Liveness,
        now: Instant,
    ) -> Result<Vec<Reply>, Fault> {
        if response.created {
            return self.created(&response, liveness);
        }
        // Some servers answer a request for progress before they have sent the changes up to that
        // revision. So it says that the member lives, and not that any watch has come so far.
        if response.watch_id == ALL_WATCHES && !response.canceled {
            liveness.answered(
                response.header.as_ref().map(|header| revision(header.revision)).unwrap_or_default(),
            );
            return Ok(Vec::new());
        }
        let id = response.watch_id;
        // A late response for a watch that was canceled.
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(Vec::new()) };
        let was_undelivered = watching.undelivered_since.is_some();
        let taken = watching.take(response, liveness, now);
        if was_undelivered && watching.undelivered_since.is_none() {
            liveness.set_undelivered_since(self.undelivered_since());
        }
        let Err(fault) = taken else { return Ok(Vec::new()) };
        if let Some(ended) = self.watches.remove(&id) {
            ended.end(fault);
        }
        Ok(vec![Reply::Cancel(id)])
    }

    /// The server has made a watch or refuses to: one response may say both `created` and
    /// `canceled`, and then it refuses.
    fn created(&mut self, response: &PbWatchResponse, liveness: &mut Liveness) -> Result<Vec<Reply>, Fault> {
        let Some(request) = self.asked.pop_front() else {
            return Err(Fault::unavailable("etcd made a watch that nobody asked for"));
        };
        if response.canceled {
            let fault = canceled(response);
            if fault.stale_token {
                return Ok(vec![Reply::Retire(request, fault)]);
            }
            request.refuse(fault);
            return Ok(Vec::new());
        }
        let (id, present) = (response.watch_id, head(response.header.as_ref())?);
        let after = request.after(present);
        if after < present && !request.is_from_past() {
            return Ok(vec![Reply::Cancel(id), Reply::Watch(request.with_past())]);
        }
        liveness.told(present);
        if after < present {
            liveness.behind(after);
        }
        // A member that is behind what is asked for delivers all that it does not know yet.
        let after = after.min(present);
        let (feeder, events) = queue::new();
        let span = request.span().clone();
        let watching = OpenWatch {
            span,
            assembler: Assembler::new(after),
            feeder,
            checked: after,
            undelivered_since: None,
        };
        self.watches.insert(id, watching);
        request.open(id, after, events);
        Ok(Vec::new())
    }

    /// What to read, to see whether a watch has changes that were not delivered.
    pub(super) fn questions(&self) -> Vec<Question> {
        let question = |(id, watching): (&i64, &OpenWatch)| Question {
            id: *id,
            span: watching.span.clone(),
            after: watching.checked,
        };
        self.watches.iter().map(question).collect()
    }

    /// Takes note of what was read to have happened. Returns since when something is known to have
    /// happened that was not delivered.
    pub(super) fn note_findings(&mut self, findings: &[Finding], now: Instant) -> Option<Instant> {
        for finding in findings {
            let Some(watching) = self.watches.get_mut(&finding.id) else { continue };
            if !finding.happened {
                watching.checked = watching.checked.max(finding.as_of);
                watching.undelivered_since = None;
            } else if finding.as_of > watching.checked {
                watching.undelivered_since.get_or_insert(now);
            }
        }
        self.undelivered_since()
    }

    fn undelivered_since(&self) -> Option<Instant> {
        self.watches.values().filter_map(|watching| watching.undelivered_since).min()
    }

    /// The stream is over, and with it every watch.
    pub(super) fn end(&mut self, fault: &Fault) {
        self.watches.drain().for_each(|(_, watching)| watching.end(fault.clone()));
        self.asked.drain(..).for_each(|request| request.refuse(fault.clone()));
    }
}

impl OpenWatch {
    fn take(
        &mut self,
        response: PbWatchResponse,
        liveness: &mut Liveness,
        now: Instant,
    ) -> Result<(), Fault> {
        let taken = self.assembler.take(response)?;
        if let Some(told) = taken.told {
            liveness.told(told);
        }
        for batch in taken.batches {
            liveness.delivered(batch.revision, now);
            self.checked = self.checked.max(batch.revision);
            self.undelivered_since = None;
            self.feeder.push(StoreEvent::Batch(batch))?;
        }
        if let Some(progress) = taken.progress {
            self.feeder.push(StoreEvent::Progress(progress))?;
        }
        Ok(())
    }

    fn end(self, fault: Fault) {
        let (why, kind) = (fault.message.clone(), fault.kind.as_str());
        coord_home::event!(DEBUG, %why, kind, "a watch ended");
        self.feeder.end(fault.into_error(OPERATION, Effect::Read));
    }
}

#[cfg(test)]
mod tests {
    use coord_api::Revision;
    use etcd_client::proto::PbResponseHeader;
    use futures_util::StreamExt;
    use tokio::sync::oneshot;

    use super::super::request::{StreamHandle, WatchTarget};
    use super::*;

    /// A member's word that it has made watch 1, while it stands at `revision`.
    fn created(revision: i64) -> PbWatchResponse {
        let header = PbResponseHeader { revision, ..PbResponseHeader::default() };
        PbWatchResponse { header: Some(header), watch_id: 1, created: true, ..PbWatchResponse::default() }
    }

    fn put(revision: i64) -> PbWatchResponse {
        let entry = etcd_client::proto::PbKeyValue {
            key: b"k".to_vec(),
            create_revision: revision,
            mod_revision: revision,
            ..Default::default()
        };
        let event = etcd_client::proto::PbEvent { kv: Some(entry), ..Default::default() };
        PbWatchResponse { watch_id: 1, events: vec![event], ..created(revision) }
    }

    #[tokio::test]
    async fn a_member_that_is_behind_tells_all_that_it_did_not_know() {
        let mut table = Table::default();
        let mut liveness = Liveness::new(Instant::now(), true);
        let (_stream, slot, _commands) = StreamHandle::new();
        let (tell, told) = oneshot::channel();
        let target = WatchTarget { span: (b"k".to_vec().into(), None), after: Some(Revision::new(9)) };
        table.ask(WatchRequest::new(target, slot, tell));
        assert!(table.take(created(5), &mut liveness, Instant::now()).unwrap().is_empty());
        let mut opened = told.await.unwrap().unwrap();
        assert_eq!(opened.armed, Revision::new(5), "its own, and not what was asked for");
        for revision in [6, 9, 10] {
            let response = PbWatchResponse { created: false, ..put(revision) };
            table.take(response, &mut liveness, Instant::now()).unwrap();
            match opened.events.next().await {
                Some(Ok(StoreEvent::Batch(batch))) => assert_eq!(batch.revision.get(), revision as u64),
                other => panic!("wanted revision {revision}, got {other:?}"),
            }
        }
    }
}
