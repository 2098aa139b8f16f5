//! A TCP proxy that cuts connections, and stays where it is while the server behind it moves. The page is there too, for
//! a browser in which it is to be of the same origin.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
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
        let mut left = cut.unwrap_or(usize::MAX);
        let mut buffer = [0; 4096];
        loop {
            let Ok(bytes @ 1..) = server.read(&mut buffer) else { return false };
            let passed = bytes.min(left);
            if client.write_all(&buffer[..passed]).is_err() {
                return false;
            }
            left -= passed;
            if left == 0 {
                // Every second time as networks cut, by a reset, which throws away what the client has not read yet.
                if passed % 2 == 0 {
                    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
                }
                return true;
            }
        }
    }
}
