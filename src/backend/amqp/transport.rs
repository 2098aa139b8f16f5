//! Connects lapin to a broker, with or without TLS, filters what it reads, and can end the connection at any time.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use socket2::{SockRef, Socket};
use tokio::net::lookup_host;
use tokio::sync::Notify;

use super::frames::FrameFilter;

/// How long sent data may stay unacknowledged by the broker's kernel before the connection ends (TCP_USER_TIMEOUT).
const PEER_TIMEOUT: Duration = Duration::from_secs(20);
/// The most bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Connects to a broker. Dropping `cut` ends the connection.
pub(super) async fn connect(uri: AMQPUri, cut: &CutSwitch) -> lapin::Result<Connection> {
    // lapin's own look-up panics when the runtime ends before the name is resolved.
    let mut addresses: Vec<_> = lookup_host((&*uri.authority.host, uri.authority.port)).await?.collect();
    // An address that does not answer may take all the time there is; the next attempt then begins with another one.
    fastrand::shuffle(&mut addresses);
    let (tokio, cut) = (Tokio::current(), Arc::clone(&cut.0));
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Filtering(tokio.clone())));
    // Opens the stream as lapin does by default, except for `cut` and the filter. It has no timeout, because it runs on
    // lapin's thread and may outlive the timers of this runtime.
    let open = async move |uri: AMQPUri, _| {
        let open = async {
            let stream =
                first(&addresses, async |address| AsyncTcpStream::connect(&tokio, address).await).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                cut.keep(plain.get_ref().into())?;
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => {
                    stream.into_tls(&uri.authority.host, OwnedTLSConfig::default().as_ref()).await
                }
            }
        };
        let opened = tokio::select! {
            opened = open => opened,
            () = cut.cut.notified() => Err(io::ErrorKind::TimedOut.into()),
        };
        opened.map(|stream| AsyncTcpStream::Plain(Filtered::new(stream))).map_err(lapin::Error::from)
    };
    let properties = ConnectionProperties::default().with_connection_name("esper".into());
    Connection::connector(uri, runtime, open, properties).await
}

/// Tries the addresses in turn. Returns the first stream, or the last error when there is none.
async fn first<S>(
    addresses: &[SocketAddr],
    connect: impl AsyncFn(SocketAddr) -> io::Result<S>,
) -> io::Result<S> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for &address in addresses {
        match connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

/// Ends a connection when dropped, whatever its state. Otherwise lapin's thread would wait for ever for a broker that
/// does not answer.
#[derive(Default)]
pub(super) struct CutSwitch(Arc<Cuttable>);

/// The parts by which a [`CutSwitch`] ends its connection.
#[derive(Default)]
struct Cuttable {
    cut: Notify,
    socket: Mutex<Option<Socket>>,
}

impl CutSwitch {
    /// Ends the connection.
    pub(super) fn now(&self) {
        self.0.cut.notify_one();
        if let Some(socket) = &*self.0.socket.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for CutSwitch {
    fn drop(&mut self) {
        self.now();
    }
}

impl Cuttable {
    /// Keeps a second descriptor of a connection's socket.
    fn keep(&self, socket: SockRef<'_>) -> io::Result<()> {
        // lapin's heartbeats reveal a broker that is gone, but not while a send to it waits. This timeout covers that.
        socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))?;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket.try_clone()?);
        Ok(())
    }
}

type TokioStream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A stream from which lapin reads what a [`FrameFilter`] lets pass.
struct Filtered {
    /// The socket, or TLS on top of it.
    stream: TokioStream,
    filter: FrameFilter,
    read: Box<[u8]>,
    /// Bytes that passed the filter; lapin has read the first `taken` of them.
    passed: Vec<u8>,
    taken: usize,
}

impl Filtered {
    fn new(stream: TokioStream) -> Self {
        let read = vec![0; READ_BYTES].into_boxed_slice();
        Self { stream, filter: FrameFilter::default(), read, passed: Vec::new(), taken: 0 }
    }
}

impl AsyncRead for Filtered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.taken == this.passed.len() {
            let count = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut this.read))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            (this.taken, _) = (0, this.passed.clear());
            this.filter.take(&this.read[..count], &mut this.passed);
        }
        let count = (&this.passed[this.taken..]).read(out)?;
        this.taken += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Filtered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Tokio's reactor with [`Filtered`] as its type of streams, because lapin takes only streams of its runtime's type.
/// lapin uses only its timers: the streams are opened by [`connect`].
#[derive(Clone, Debug)]
struct Filtering(Tokio);

impl Reactor for Filtering {
    type TcpStream = Filtered;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Filtered, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Filtered>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
