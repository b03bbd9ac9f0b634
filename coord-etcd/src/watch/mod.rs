//! Watches (S4): opened where nothing is missed, drained at once, and given up when they have gone deaf.
//!
//! `assemble` makes batches of what a server sends, `queue` holds them for who reads slowly, `watermark` knows how far a healthy watch must have come, and
//! `liveness` decides by it. What broke is not repaired here: the stream ends, and the recipes watch again from the last revision that they saw.

mod assemble;
mod liveness;
mod queue;
mod watermark;

use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Span, StoreEvent, StoreWatch};
use coord_api::{Result, Revision};
use etcd_client::proto::PbWatchResponse;
use etcd_client::{WatchClient, WatchOptions, WatchRequestSender, WatchResponseStream};
use futures_util::FutureExt;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::connection::LARGEST_ANSWER;
use crate::error::{Effect, Fault};
use crate::kv::{head, interval, number};
use crate::members::{Asked, Members};
use assemble::Assembler;
use liveness::Liveness;
use queue::Feeder;
use watermark::Mark;
pub(crate) use watermark::Watermark;

const OPERATION: &str = "store.watch";

/// Watches a span: every change after `after`, or after the present one.
pub(crate) async fn open(members: &Arc<Members>, watermark: &Watermark, span: &Span, after: Option<Revision>) -> Result<StoreWatch> {
    let target = Target { span: interval(span), after };
    let (asked, opened) = members
        .call(OPERATION, Effect::Read, |asked| {
            let target = &target;
            async move {
                let opened = asked.link.watches.run(|client| target.clone().open(client.watch_client())).await?;
                Ok((asked.clone(), opened))
            }
        })
        .await?;
    let armed = after.map_or(opened.present, |after| after.min(opened.present));
    let (feeder, events) = queue::new();
    let pump = Pump {
        members: Arc::clone(members),
        asked,
        marks: watermark.subscribe(members, &target.span.0),
        assembler: Assembler::new(opened.id, after.unwrap_or(opened.present)),
        liveness: Liveness::new(opened.caught_up_to, Instant::now()),
        responses: opened.responses,
        requests: opened.requests,
    };
    tokio::spawn(pump.run(feeder));
    Ok(StoreWatch::new(armed, events))
}

/// What is to be watched.
#[derive(Clone)]
struct Target {
    span: (Bytes, Option<Bytes>),
    after: Option<Revision>,
}

/// A watch that the server has confirmed.
struct Opened {
    id: i64,
    /// The member's revision when the watch was made.
    present: Revision,
    /// Up to where there is nothing to be delivered.
    caught_up_to: Revision,
    responses: WatchResponseStream,
    requests: WatchRequestSender,
}

impl Target {
    /// Opens a watch from the present on and, only where changes came since, one from the past in its place: etcd looks at the past every 100 ms.
    ///
    /// The past begins *at* the last revision that was seen, and what is seen again is dropped. So a server that has forgotten what follows that
    /// revision says that it was compacted; of one that is asked from the revision after it, some leave a deletion out.
    async fn open(self, client: WatchClient) -> Result<Opened, Fault> {
        let mut client = client.max_decoding_message_size(LARGEST_ANSWER);
        let stream = client.watch(self.span.0.clone(), Some(self.options())).await?;
        let (mut requests, mut responses) = stream.split();
        let first = created(&mut responses).await?;
        let present = head(first.header.as_ref())?;
        let Some(after) = self.after.filter(|after| *after < present) else {
            return Ok(Opened { id: first.watch_id, present, caught_up_to: present, responses, requests });
        };
        requests.cancel(first.watch_id).await?;
        let options = self.options().with_start_revision(number(after).max(1));
        requests.watch(self.span.0.clone(), Some(options)).await?;
        let second = created(&mut responses).await?;
        Ok(Opened { id: second.watch_id, present, caught_up_to: after, responses, requests })
    }

    fn options(&self) -> WatchOptions {
        let options = WatchOptions::new().with_fragment().with_progress_notify();
        match &self.span.1 {
            Some(end) => options.with_range(end.clone()),
            None => options,
        }
    }
}

/// Waits until the server has made a watch. That it took the request, or even says `created`, is not enough: it may say `canceled` in the same breath.
async fn created(responses: &mut WatchResponseStream) -> Result<PbWatchResponse, Fault> {
    loop {
        let Some(response) = responses.message().await? else {
            return Err(Fault::unavailable("etcd ended the stream before the watch was made"));
        };
        let response = response.0;
        if response.created && response.canceled {
            return Err(assemble::canceled(&response));
        }
        if response.created {
            return Ok(response);
        }
    }
}

/// Moves what a server sends into the queue, at once: who does not read must not hold up what shares the connection.
struct Pump {
    members: Arc<Members>,
    asked: Asked,
    responses: WatchResponseStream,
    requests: WatchRequestSender,
    assembler: Assembler,
    liveness: Liveness,
    marks: Receiver<Mark>,
}

impl Pump {
    async fn run(mut self, feeder: Feeder) {
        let closing = self.members.closing().clone();
        let fault = loop {
            tokio::select! {
                response = self.responses.message() => {
                    let taken = match response {
                        Ok(Some(response)) => self.take(response.0, &feeder),
                        Ok(None) => Err(Fault::unavailable("etcd ended the stream of the watch")),
                        Err(error) => Err(error.into()),
                    };
                    if let Err(fault) = taken {
                        break fault;
                    }
                }
                () = feeder.abandoned() => return,
                () = closing.cancelled() => break Fault::closed(),
                Ok(()) = self.marks.changed() => {
                    let mark = *self.marks.borrow_and_update();
                    if self.liveness.mark(mark.revision, mark.read_at) {
                        // It is asked again at the next mark, so that a full channel is no fault by itself.
                        let _ = self.requests.request_progress().now_or_never();
                    }
                }
                () = sleep_until(self.liveness.deadline()) => {
                    let fault = Fault::unavailable("the watch has gone deaf");
                    self.members.accuse(&self.asked, &fault.message);
                    break fault;
                }
            }
        };
        tracing::debug!(fault = %fault.message, kind = fault.kind.as_str(), "a watch ended");
        feeder.end(fault.into_error(OPERATION, Effect::Read));
    }

    fn take(&mut self, response: PbWatchResponse, feeder: &Feeder) -> Result<(), Fault> {
        let taken = self.assembler.take(response)?;
        if let Some(told) = taken.told {
            self.liveness.told(told);
        }
        for batch in taken.batches {
            self.liveness.delivered(batch.revision, Instant::now());
            feeder.push(StoreEvent::Batch(batch))?;
        }
        if let Some(progress) = taken.progress {
            feeder.push(StoreEvent::Progress(progress))?;
        }
        Ok(())
    }
}
