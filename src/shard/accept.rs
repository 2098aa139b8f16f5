//! A shard's listener: connections in, one task each.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio_uring::net::TcpListener;

use crate::shard::{Phase, Shard, connection};

/// Accepts under way at a time, so that one trip into the kernel brings several connections.
const ACCEPTS: usize = 8;
/// How long accepting pauses when there is no descriptor left. An accept then fails at once, again and again.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the shard stops serving.
pub(crate) async fn run(shard: Rc<Shard>, listener: std::net::TcpListener) -> io::Result<()> {
    // An accept cannot be taken back: dropped, it would take a connection and leak it. The second handle ends
    // the listener under it instead.
    let handle = listener.try_clone()?;
    let listener = Rc::new(TcpListener::from_std(listener));
    let is_paused = Rc::new(Cell::new(false));
    for _ in 0..ACCEPTS {
        tokio_uring::spawn(accept(Rc::clone(&shard), Rc::clone(&listener), Rc::clone(&is_paused)));
    }
    shard.stops_serving().await;
    let _ = SockRef::from(&handle).shutdown(Shutdown::Both);
    Ok(())
}

async fn accept(shard: Rc<Shard>, listener: Rc<TcpListener>, is_paused: Rc<Cell<bool>>) {
    while shard.phase() == Phase::Serving {
        match listener.accept().await {
            Ok((stream, _)) => {
                if is_paused.replace(false) {
                    tracing::info!(shard = shard.id, "accepting again");
                }
                tokio_uring::spawn(connection::run(Rc::clone(&shard), stream));
            }
            Err(_) if shard.phase() > Phase::Serving => return,
            Err(error) => {
                if !is_paused.replace(true) {
                    tracing::warn!(
                        shard = shard.id,
                        %error,
                        "cannot accept; pausing. If descriptors ran out, raise the file limit (ulimit -n, LimitNOFILE=)"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
