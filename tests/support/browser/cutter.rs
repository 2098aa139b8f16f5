//! A TCP proxy that cuts connections, and stays where it is while the server behind it moves. The page is there too, for
//! a browser in which it is to be of the same origin.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::send_page;

/// After how many bytes of its answer a connection is cut, 0 for before it; none for never.
pub(crate) type Cut = Option<usize>;

/// A running proxy.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    upstream: Mutex<SocketAddr>,
    next_cut: Mutex<Box<dyn FnMut() -> Cut + Send>>,
    /// Whether an answer that has begun is cut at the next end of an event alone.
    between_events: AtomicBool,
    connections: AtomicUsize,
    cuts: AtomicUsize,
}

impl Cutter {
    /// Asks `next_cut` once for each connection.
    pub(crate) fn start(upstream: SocketAddr, next_cut: impl FnMut() -> Cut + Send + 'static) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            upstream: Mutex::new(upstream),
            next_cut: Mutex::new(Box::new(next_cut)),
            between_events: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&inner);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(&client));
            }
        });
        Cutter { address, inner }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Goes to another server from now on.
    pub(crate) fn point_to(&self, upstream: SocketAddr) {
        *self.inner.upstream.lock().unwrap() = upstream;
    }

    /// Cuts no event in two from now on.
    pub(crate) fn cut_between_events(&self) {
        self.inner.between_events.store(true, Ordering::Relaxed);
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// How many of them were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.inner.cuts.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Passes on what either side sends. Where nobody listens behind it, the client sees its connection close.
    fn serve(&self, client: &TcpStream) {
        let mut beginning = [0; 6];
        if client.peek(&mut beginning).is_ok() && &beginning == b"GET / " {
            let _ = send_page(client, "");
            return;
        }
        let upstream = *self.upstream.lock().unwrap();
        let Ok(server) = TcpStream::connect(upstream) else { return };
        let cut = (self.next_cut.lock().unwrap())();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = std::io::copy(&mut &*client, &mut &server);
                let _ = server.shutdown(Shutdown::Both);
            });
            if self.answer(&server, client, cut) {
                self.cuts.fetch_add(1, Ordering::Relaxed);
            }
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        });
    }

    /// Passes an answer on; returns whether it was cut.
    fn answer(&self, mut server: &TcpStream, mut client: &TcpStream, cut: Cut) -> bool {
        let between_events = self.between_events.load(Ordering::Relaxed) && cut != Some(0);
        let mut left = cut.unwrap_or(usize::MAX);
        let mut buffer = [0; 4096];
        loop {
            let Ok(bytes @ 1..) = server.read(&mut buffer) else { return false };
            let passed = if between_events { bytes } else { bytes.min(left) };
            if client.write_all(&buffer[..passed]).is_err() {
                return false;
            }
            left = left.saturating_sub(passed);
            if left == 0 && (!between_events || buffer[..passed].ends_with(b"\n\n\r\n")) {
                // Every second time as networks cut, by a reset, which throws away what the client has not read yet.
                if passed % 2 == 0 && !between_events {
                    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
                }
                return true;
            }
        }
    }
}
