//! What can be seen of a connection from below HTTP/2: that the server speaks, and that the socket
//! has dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::files::FileGuard;

/// An HTTP/2 frame begins with three bytes of length and one of type; the server's first frame is
/// its settings.
const HEAD: usize = 4;
const SETTINGS: u8 = 4;

/// What the owner of a connection sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct WireState {
    /// The server's settings came. Until then a peer may be paused, or speak something else: the
    /// kernel accepts connections for both.
    pub(crate) up: CancellationToken,
    /// The socket dropped. Seen here before HTTP/2 gets to tell its streams.
    pub(crate) down: CancellationToken,
    /// The same, for those who look before each call: the token would take a lock.
    dropped: Arc<AtomicBool>,
    why: Arc<Mutex<Option<io::Error>>>,
}

impl WireState {
    fn drop_with(&self, why: io::Error) {
        self.why.lock().get_or_insert(why);
        self.dropped.store(true, Ordering::Relaxed);
        self.down.cancel();
    }

    pub(crate) fn is_down(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Why the socket dropped, if it is known. It is told once.
    pub(crate) fn why(&self) -> Option<io::Error> {
        self.why.lock().take()
    }
}

/// A stream of bytes that tells its [`WireState`] what passes.
pub(crate) struct Wire<S> {
    stream: S,
    line: WireState,
    /// The first bytes from the server, until there are enough.
    head: Option<Vec<u8>>,
    /// A write has failed.
    write_broken: bool,
    /// What counts as long as the stream is open; dropped after it.
    _file: FileGuard,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S, line: WireState, file: FileGuard) -> Self {
        Wire { stream, line, head: Some(Vec::with_capacity(HEAD)), write_broken: false, _file: file }
    }

    fn heard(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(head) = &mut self.head else { return Ok(()) };
        head.extend(bytes.iter().take(HEAD - head.len()));
        match head.as_slice() {
            [_, _, _, SETTINGS] => self.line.up.cancel(),
            [b'H', b'T', b'T', b'P'] => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer speaks HTTP/1, not HTTP/2"));
            }
            // A TLS record: an alert, or a handshake.
            [0x15 | 0x16, 3, ..] => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the peer speaks TLS, and this channel does not",
                ));
            }
            head if head.len() < HEAD => return Ok(()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2")),
        }
        self.head = None;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let mut result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if result.is_ok() {
            let bytes = buffer.filled().get(before..).unwrap_or_default();
            if bytes.is_empty() {
                self.line.drop_with(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the peer"));
            } else if self.head.is_some() {
                result = self.heard(bytes);
            }
        }
        if let Err(error) = &result {
            // A failed read has read nothing.
            buffer.set_filled(before);
            self.line.drop_with(copy_of(error));
        }
        Poll::Ready(result)
    }
}

/// A write that fails says that nobody listens any more, not that nothing was said: answers, and
/// the goodbye that tells which requests were not looked at, may still lie in the socket. HTTP/2
/// would drop them with its first failed write. So from there on what is written goes nowhere, and
/// the connection ends with what is read.
impl<S: AsyncWrite + Unpin> Wire<S> {
    fn write_unless_broken<T>(
        &mut self,
        written: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
        answer: T,
    ) -> Poll<io::Result<T>> {
        if !self.write_broken {
            match ready!(written(Pin::new(&mut self.stream))) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => {
                    self.write_broken = true;
                    self.line.drop_with(error);
                }
            }
        }
        Poll::Ready(Ok(answer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_unless_broken(|stream| stream.poll_write(cx, bytes), bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bytes.iter().map(|part| part.len()).sum();
        self.write_unless_broken(|stream| stream.poll_write_vectored(cx, bytes), all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_unless_broken(|stream| stream.poll_flush(cx), ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The same error again, for two who want to know; errors of I/O cannot be cloned.
fn copy_of(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::files::OpenFiles;

    /// What a peer's first bytes, one by one, lead to.
    async fn first(bytes: &[u8]) -> (WireState, io::Result<usize>) {
        let (mut peer, ours) = duplex(1);
        let line = WireState::default();
        let mut wire = Wire::new(ours, line.clone(), OpenFiles::default().take());
        let told = bytes.to_vec();
        let writing = tokio::spawn(async move {
            let _ = peer.write_all(&told).await;
        });
        let mut all = Vec::new();
        let result = wire.read_to_end(&mut all).await;
        drop(wire);
        writing.await.unwrap();
        (line, result)
    }

    #[tokio::test]
    async fn it_is_up_with_the_servers_settings_and_down_with_the_socket() {
        let (line, read) = first(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        assert_eq!(read.unwrap(), 9);
        assert!(line.up.is_cancelled() && line.down.is_cancelled());
        assert_eq!(line.why().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn who_speaks_something_else_is_named() {
        for (bytes, what) in [
            (b"HTTP/1.1 400 Bad Request".as_slice(), "HTTP/1"),
            (&[0x15, 3, 3, 0, 2, 2, 40], "TLS"),
            (b"SSH-2.0-OpenSSH", "not speak HTTP/2"),
        ] {
            let (line, read) = first(bytes).await;
            assert!(read.is_err() && !line.up.is_cancelled());
            let why = line.why().unwrap().to_string();
            assert!(why.contains(what), "{why}");
        }
    }

    #[tokio::test]
    async fn what_was_said_is_heard_after_a_write_has_failed() {
        let (mut peer, ours) = duplex(100);
        peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        drop(peer);
        let line = WireState::default();
        let mut wire = Wire::new(ours, line.clone(), OpenFiles::default().take());
        wire.write_all(b"into the void").await.unwrap();
        wire.flush().await.unwrap();
        assert!(line.is_down() && !line.up.is_cancelled());
        let mut heard = Vec::new();
        assert_eq!(wire.read_to_end(&mut heard).await.unwrap(), 9);
        assert!(line.up.is_cancelled());
        assert_eq!(line.why().unwrap().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn too_few_bytes_are_no_settings() {
        let (line, read) = first(&[0, 0, 0]).await;
        assert_eq!(read.unwrap(), 3);
        assert!(!line.up.is_cancelled() && line.down.is_cancelled());
    }
}
