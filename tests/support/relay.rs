//! A link that a test can hold, cut and slow down: it carries TCP connections from a port of its own to an address.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How often a connection without traffic looks at what the test wants.
const LOOK: Duration = Duration::from_millis(20);

/// A link; ended when dropped.
pub(crate) struct Relay {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Nothing passes and nothing is closed, as when packets are lost.
    is_held: AtomicBool,
    /// Nobody is let in.
    is_closed: AtomicBool,
    /// What was open at an earlier number is closed.
    cuts: AtomicU64,
    delay_ms: AtomicU64,
}

impl Relay {
    /// Starts a link to this address.
    pub(crate) fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let relay = Relay { address: listener.local_addr().expect("bound"), state: Arc::default() };
        let state = Arc::downgrade(&relay.state);
        thread::spawn(move || {
            while let Some(state) = state.upgrade() {
                match listener.accept() {
                    Ok((socket, _)) if !state.is_closed.load(Ordering::SeqCst) => {
                        carry(socket, target, &state)
                    }
                    Ok(_) => {}
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        relay
    }

    /// Lets nothing pass, and closes nothing, as when packets are lost.
    pub(crate) fn hold(&self) {
        self.state.is_held.store(true, Ordering::SeqCst);
    }

    /// Closes all connections, and lets nobody in.
    pub(crate) fn cut(&self) {
        self.state.is_closed.store(true, Ordering::SeqCst);
        self.state.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// Has everything take so long in each direction; zero for no delay.
    pub(crate) fn delay(&self, time: Duration) {
        self.state.delay_ms.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Lets everything pass again. Connections that were held go on.
    pub(crate) fn mend(&self) {
        self.state.is_closed.store(false, Ordering::SeqCst);
        self.state.is_held.store(false, Ordering::SeqCst);
        self.delay(Duration::ZERO);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

fn carry(near: TcpStream, target: SocketAddr, state: &Arc<State>) {
    let cuts = state.cuts.load(Ordering::SeqCst);
    let state = Arc::clone(state);
    thread::spawn(move || {
        let Ok(far) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { return };
        let pair = || Some((near.try_clone().ok()?, far.try_clone().ok()?));
        let Some((near_again, far_again)) = pair() else { return };
        let other = Arc::clone(&state);
        thread::spawn(move || copy(far_again, near_again, &other, cuts));
        copy(near, far, &state, cuts);
    });
}

/// Carries one direction until either side ends or the link is cut.
fn copy(mut from: TcpStream, mut to: TcpStream, state: &State, cuts: u64) {
    let is_cut = || state.cuts.load(Ordering::SeqCst) != cuts;
    let mut buffer = vec![0; 64 << 10];
    let _ = from.set_nonblocking(false);
    let _ = (from.set_read_timeout(Some(LOOK)), to.set_nodelay(true));
    while !is_cut() {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        thread::sleep(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst)));
        while state.is_held.load(Ordering::SeqCst) && !is_cut() {
            thread::sleep(LOOK);
        }
        if is_cut() || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
