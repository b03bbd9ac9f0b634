//! One call: its attempts, its deadline, its repetitions.

use std::error::Error as _;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use coord_home::Home;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::retry::budget::Budget;

use crate::connection::EndpointConnection;
use crate::draft::Draft;
use crate::error::root;
use crate::options::{CallOptions, Readiness, RetryOptions};
use crate::recorded::Recorded;
use crate::shared::ChannelShared;

/// Up to how many bytes of a request are kept in case that the server does not look at it. A
/// request of a call that may be repeated has a bound of its own.
const KEPT: usize = 64 << 10;

/// How often a server may refuse one attempt.
const MOST_REFUSALS: u32 = 3;

/// How this call is made.
#[derive(Clone, Copy)]
struct CallPlan {
    readiness: Readiness,
    attempt_timeout: Option<Duration>,
    deadline: Option<Duration>,
    /// Set for a call that may be repeated.
    retry: Option<RetryOptions>,
}

impl CallPlan {
    fn of(channel: &ChannelShared, request: &Request<Body>) -> Self {
        let options = &channel.pool.options;
        let call = request.extensions().get::<CallOptions>().copied().unwrap_or_default();
        CallPlan {
            readiness: call.readiness.unwrap_or(options.readiness),
            attempt_timeout: call.attempt_timeout.unwrap_or(options.attempt_timeout),
            deadline: request.headers().get("grpc-timeout").and_then(grpc_timeout).or(options.deadline),
            retry: options.retry.filter(|_| call.idempotent || options.is_idempotent(request.uri().path())),
        }
    }
}

/// Makes a call, up to the head of its answer.
pub(crate) fn make(
    channel: Arc<ChannelShared>,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<Body>, Status>> + Send {
    let plan = CallPlan::of(&channel, &request);
    let mut draft =
        Draft::of(request, plan.retry.map_or(KEPT, |retry| retry.buffer), channel.pool.body_home.as_ref());
    async move {
        // A request is large, and so is a future that holds one at each of its levels: it stays
        // where it is, and is lent.
        let draft = draft.as_mut().map_err(|status| status.clone())?;
        let made = match plan.retry {
            None => {
                let mut making = pin!(once(&channel, draft, &plan, None));
                within(&channel.pool.home, plan.deadline, making.as_mut()).await.map(|made| match made {
                    Ok((response, connection)) => Ok(held(response, connection, &channel)),
                    Err(failure) => Err(failure.status),
                })
            }
            Some(retry) => {
                let mut making = Box::pin(repeatedly(&channel, draft, &plan, retry));
                within(&channel.pool.home, plan.deadline, making.as_mut()).await
            }
        };
        made.unwrap_or_else(|| {
            let deadline = plan.deadline.unwrap_or_default();
            Err(Status::deadline_exceeded(format!("no answer within the call's {deadline:?}")))
        })
    }
}

/// Waits for a future, at most for `limit`, if there is one. The timer is the channel's, so that
/// the caller's runtime needs none and its clock is not asked. It is on the heap, because each call
/// holds this future at several of its levels.
async fn within<F: Future>(
    home: &Home,
    limit: Option<Duration>,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    let Some(limit) = limit else { return Some(future.as_mut().await) };
    tokio::select! {
        biased;
        done = future => Some(done),
        () = async { Box::pin(home.sleep(limit)).await } => None,
    }
}

/// Why an attempt failed, and where.
struct AttemptFailure {
    status: Status,
    /// Where it failed; `None` when there was nowhere to go, and so nothing to gain from going
    /// elsewhere.
    tried: Option<Arc<EndpointConnection>>,
    /// Whether the request is still there.
    kept: bool,
    /// What the server said, if it is the one who refused.
    answer: Option<Box<Response<Body>>>,
}

impl AttemptFailure {
    fn at(tried: Arc<EndpointConnection>, kept: bool, status: Status) -> Self {
        AttemptFailure { status, tried: Some(tried), kept, answer: None }
    }

    fn nowhere(status: Status) -> Self {
        AttemptFailure { status, tried: None, kept: true, answer: None }
    }
}

/// One attempt, up to the head of the answer.
///
/// A request that never left for one endpoint, or that the server says it did not look at, goes to
/// the next: that is no second attempt.
async fn once(
    channel: &Arc<ChannelShared>,
    draft: &mut Draft,
    plan: &CallPlan,
    mut avoid: Option<Arc<EndpointConnection>>,
) -> Result<(Response<Incoming>, Arc<EndpointConnection>), AttemptFailure> {
    let mut refusals = 0;
    loop {
        let connection =
            channel.pool.connection(plan.readiness, avoid.as_ref()).await.map_err(AttemptFailure::nowhere)?;
        let Some(sender) = connection.sender() else {
            connection.note_nothing();
            avoid = Some(connection);
            continue;
        };
        let mut attempt = AttemptGuard { channel, connection: &connection, patience: plan.attempt_timeout };
        let (request, kept) = draft.request();
        let mut sending = pin!(connection.send(sender, request));
        let Some(sent) = within(&channel.pool.home, plan.attempt_timeout, sending.as_mut()).await else {
            drop(attempt);
            let limit = plan.attempt_timeout.unwrap_or_default();
            let status = Status::deadline_exceeded(format!("no answer from {connection} within {limit:?}"));
            return Err(AttemptFailure::at(connection, kept, status));
        };
        // From here on the connection has answered, or is known to be broken: silence proves
        // nothing.
        attempt.patience = None;
        let mut failed = match sent {
            Ok(response) => {
                connection.note_answer();
                drop(attempt);
                return Ok((response, connection));
            }
            Err(failed) => failed,
        };
        drop(attempt);
        match failed.take_message() {
            Some(_) if kept => {}
            Some(unsent) => draft.take_back(unsent),
            None => {
                let error = failed.into_error();
                refusals += 1;
                if !kept || refusals > MOST_REFUSALS || !was_ignored(&error) {
                    return Err(AttemptFailure::at(connection, kept, broken(&error)));
                }
            }
        }
        avoid = Some(connection);
    }
}

/// A request that is out. Dropped without an answer, by a timeout or by the caller, it says so of
/// the connection.
struct AttemptGuard<'a> {
    channel: &'a ChannelShared,
    connection: &'a Arc<EndpointConnection>,
    /// After what time silence means something; `None` if never.
    patience: Option<Duration>,
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        match self.patience {
            Some(patience) => self.channel.pool.unanswered(self.connection, patience),
            None => self.connection.note_nothing(),
        }
    }
}

/// Attempts until one succeeds, fails for good, or there have been enough.
async fn repeatedly(
    channel: &Arc<ChannelShared>,
    draft: &mut Draft,
    plan: &CallPlan,
    retry: RetryOptions,
) -> Result<Response<Body>, Status> {
    channel.budget.deposit();
    let mut avoid = None;
    let mut attempts_left = retry.attempts;
    loop {
        attempts_left = attempts_left.saturating_sub(1);
        let failure = match whole(channel, draft, plan, retry, avoid.take()).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        match failure.tried {
            Some(tried)
                if attempts_left > 0
                    && failure.kept
                    && may_repeat(&failure.status)
                    && channel.budget.withdraw() =>
            {
                let (at, code) = (tried.to_string(), failure.status.code());
                coord_home::event!(DEBUG, at, ?code, "call repeated");
                avoid = Some(tried);
            }
            _ => return failure.answer.map_or(Err(failure.status), |answer| Ok(*answer)),
        }
    }
}

/// One attempt, up to the end of its answer: one that breaks off half-way is a failed attempt and
/// not the caller's problem.
async fn whole(
    channel: &Arc<ChannelShared>,
    draft: &mut Draft,
    plan: &CallPlan,
    retry: RetryOptions,
    avoid: Option<Arc<EndpointConnection>>,
) -> Result<Response<Body>, AttemptFailure> {
    let (response, connection) = once(channel, draft, plan, avoid).await?;
    let kept = draft.is_kept();
    let tried = Arc::clone(&connection);
    let (head, body) = held(response, connection, channel).into_parts();
    let mut reading = pin!(Recorded::read(body, retry.buffer));
    let read =
        within(&channel.pool.home, plan.attempt_timeout, reading.as_mut()).await.unwrap_or_else(|| {
            let limit = plan.attempt_timeout.unwrap_or_default();
            Err(Status::deadline_exceeded(format!("no end of the answer from {tried} within {limit:?}")))
        });
    match read {
        Err(status) => Err(AttemptFailure::at(tried, kept, status)),
        Ok(body) => {
            let refused = refuses(head.status, &head.headers)
                || body.trailers().is_some_and(|trailers| refuses(StatusCode::OK, trailers));
            let response = Response::from_parts(head, body.into_body());
            if refused {
                let status = Status::unavailable("the server said so");
                return Err(AttemptFailure {
                    answer: Some(Box::new(response)),
                    ..AttemptFailure::at(tried, kept, status)
                });
            }
            Ok(response)
        }
    }
}

/// Whether a server answered that it cannot serve now.
fn refuses(status: StatusCode, headers: &HeaderMap) -> bool {
    let unavailable = |code: &HeaderValue| Code::from_bytes(code.as_bytes()) == Code::Unavailable;
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
        || headers.get(Status::GRPC_STATUS).is_some_and(unavailable)
}

/// Whether what failed so may succeed elsewhere.
fn may_repeat(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// An answer that keeps what it needs: the connection, so that an endpoint that was removed
/// finishes its calls, and the channel, whose last handle may be dropped while a stream goes on.
fn held(
    response: Response<Incoming>,
    connection: Arc<EndpointConnection>,
    channel: &Arc<ChannelShared>,
) -> Response<Body> {
    let held = HeldByAnswer { _connection: connection, _channel: Arc::clone(channel) };
    response.map(|body| Body::new(AnswerBody { body, held: Some(held) }))
}

struct HeldByAnswer {
    _connection: Arc<EndpointConnection>,
    _channel: Arc<ChannelShared>,
}

struct AnswerBody {
    body: Incoming,
    held: Option<HeldByAnswer>,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_err(|error| broken(&error));
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream() {
            self.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the server has said that it did not look at the request: it refused the stream, or it
/// said goodbye and named the last stream that it takes.
fn was_ignored(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|h2| {
        h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|source| source.downcast_ref::<h2::Error>())
}

/// The status of a call whose connection, or stream, broke. After it nobody knows whether the
/// server did the work.
fn broken(error: &hyper::Error) -> Status {
    match h2_error(error).filter(|h2| h2.is_reset()).and_then(h2::Error::reason) {
        // Not the connection, but this one stream was ended by the server.
        Some(h2::Reason::REFUSED_STREAM) => Status::unavailable("the server refused the call"),
        Some(h2::Reason::CANCEL) => Status::cancelled("the server cancelled the call"),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Status::resource_exhausted("the server asks for fewer calls"),
        Some(h2::Reason::INADEQUATE_SECURITY) => {
            Status::permission_denied("the server asks for better security")
        }
        Some(reason) => Status::internal(format!("the server broke off the call: {reason}")),
        None => Status::unavailable(format!("the connection was lost: {}", root(error))),
    }
}

/// Reads a deadline as gRPC writes it: up to eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ChannelOptions;
    use crate::pool::EndpointPool;

    #[tokio::test]
    async fn a_call_is_small() {
        let pool = EndpointPool::new(ChannelOptions::default(), Home::callers());
        let call = make(ChannelShared::new(pool, None), Request::default());
        // Beyond 1,032 bytes glibc's allocator leaves its fast path, which costs more than all that
        // the balancer does.
        let size = size_of_val(&call);
        assert!(size <= 1_032, "{size} bytes");
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text| grpc_timeout(&HeaderValue::from_static(text));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("4m"), Some(Duration::from_millis(4)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("6n"), Some(Duration::from_nanos(6)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1.5S", "1 S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn servers_refuse_by_grpc_status_and_by_http_status() {
        let none = HeaderMap::new();
        let mut unavailable = HeaderMap::new();
        unavailable.insert(Status::GRPC_STATUS, HeaderValue::from_static("14"));
        let mut internal = HeaderMap::new();
        internal.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
        assert!(refuses(StatusCode::OK, &unavailable) && refuses(StatusCode::SERVICE_UNAVAILABLE, &none));
        assert!(
            !refuses(StatusCode::OK, &none)
                && !refuses(StatusCode::OK, &internal)
                && !refuses(StatusCode::NOT_FOUND, &none)
        );
    }
}
