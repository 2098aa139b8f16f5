//! Talks with systemd: takes the sockets that it listens on for us, and tells it that we are ready, alive, and stopping.
//! Does nothing where another program started the process.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use esper::config::{Config, Control};
use esper::{Inherited, Server, StartError};
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The name, FileDescriptorName= of a .socket unit, of sockets for the control port.
const CONTROL: &str = "control";
/// The most sockets that are taken: far more than any use.
const SOCKETS_MAX: usize = 1024;
/// The longest wait for room for a message.
const TELL_TIME: Duration = Duration::from_secs(1);
/// The time after which the line that `systemctl status` shows is made anew.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The number of times that the shards are asked for a sign of life within the time after which systemd ends the process:
/// twice as often as it wants to hear of it, which leaves a shard half of the time to answer.
const PROBES_PER_WATCHDOG: u32 = 4;

/// Takes the sockets that systemd listens on for this process. To be called before there is a second thread, because it
/// removes the variables that name them, so that no child takes them for its own.
///
/// # Errors
/// The descriptor from which no server can accept, the reason and the remedy, in one line.
pub(crate) fn listeners() -> Result<Inherited, String> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    if let Some(count) = number("LISTEN_FDS").filter(|count| *count > SOCKETS_MAX) {
        return Err(format!(
            "LISTEN_FDS={count}: at most {SOCKETS_MAX} sockets; list fewer in the .socket units"
        ));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut sockets = ListenFd::from_env();
    let mut listeners = Inherited::default();
    for (index, name) in (0..sockets.len()).zip(names.split(':').chain(std::iter::repeat(""))) {
        let refused = |reason: &str| {
            let shown = if name.is_empty() { String::new() } else { format!(" '{}'", name.escape_debug()) };
            format!("descriptor {}{shown} of LISTEN_FDS: {reason}", 3 + index)
        };
        let socket = take(&mut sockets, index).ok_or_else(|| {
            refused("no stream socket of IP or of the file system; in a .socket unit write ListenStream=")
        })?;
        let alone = Inherited { public: vec![socket], control: Vec::new() };
        match alone.addresses() {
            Ok(_) => {}
            Err(StartError::Inherited(reason)) => return Err(refused(&reason)),
            Err(error) => return Err(refused(&error.to_string())),
        }
        match name {
            CONTROL => listeners.control.extend(alone.public),
            _ => listeners.public.extend(alone.public),
        }
    }
    Ok(listeners)
}

fn take(sockets: &mut ListenFd, index: usize) -> Option<OwnedFd> {
    let tcp = sockets.take_tcp_listener(index).ok().flatten().map(OwnedFd::from);
    tcp.or_else(|| sockets.take_unix_listener(index).ok().flatten().map(OwnedFd::from))
}

/// Puts the addresses of these sockets in place of those that the configuration says.
///
/// # Errors
/// The errors of [`Inherited::addresses`].
pub(crate) fn adopt(listeners: &Inherited, config: &mut Config) -> Result<(), StartError> {
    let [public, control] = listeners.addresses()?;
    if !public.is_empty() {
        config.bind = public;
    }
    // The one that needs a token, if there is one.
    let exposed = control.iter().find(|address| address.is_exposed()).or(control.first());
    match (exposed, &mut config.control) {
        (Some(address), Some(said)) => said.bind = address.clone(),
        (Some(address), said @ None) => *said = Some(Control::new(address.clone())),
        (None, _) => {}
    }
    Ok(())
}

/// Tells systemd what the server does.
pub(crate) struct Notifier {
    /// Set if systemd wants to hear of it.
    is_on: bool,
    said_ready: bool,
    status: String,
    status_at: Option<Instant>,
    watchdog: Option<Watchdog>,
}

impl Notifier {
    /// Returns one that tells whoever started this process, if that asked for it.
    pub(crate) fn new() -> Self {
        let is_on = env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog = sd_notify::watchdog_enabled().filter(|_| is_on).map(Watchdog::new);
        Notifier { is_on, said_ready: false, status: String::new(), status_at: None, watchdog }
    }

    /// Tells that it starts, which may take long.
    pub(crate) fn starting(&mut self) {
        self.tell(|| Ok(vec![NotifyState::Status("starting: reads the journal, or waits for the cluster")]));
    }

    /// Tells what changed since the last call, which was a moment ago: that the server is ready, that it lives, and now
    /// and then what it does.
    pub(crate) fn look(&mut self, server: &Server) {
        if !self.is_on {
            return;
        }
        let now = Instant::now();
        let is_due = self.status_at.is_none_or(|at| now >= at + STATUS_INTERVAL);
        if !self.said_ready && server.is_ready() {
            self.said_ready = true;
            let status = self.renew_status(server, now).to_owned();
            self.tell(|| Ok(vec![NotifyState::Ready, NotifyState::Status(&status)]));
        } else if is_due {
            let before = self.status.clone();
            let status = self.renew_status(server, now).to_owned();
            if status != before {
                self.tell(|| Ok(vec![NotifyState::Status(&status)]));
            }
        }
        let probe = || {
            let mut probe = server.probe();
            Box::new(move || probe.is_answered()) as AllAnswered
        };
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.look(now, probe)) {
            self.tell(|| Ok(vec![NotifyState::Watchdog]));
        }
    }

    /// Tells that secrets and keys are reread while `reread` does it.
    pub(crate) fn reloading(&mut self, reread: impl FnOnce()) {
        self.tell(|| Ok(vec![NotifyState::Reloading, NotifyState::monotonic_usec_now()?]));
        reread();
        self.tell(|| Ok(vec![NotifyState::Ready]));
    }

    /// Tells that it drains.
    pub(crate) fn stopping(&mut self) {
        self.tell(|| Ok(vec![NotifyState::Stopping, NotifyState::Status("draining")]));
    }

    fn renew_status(&mut self, server: &Server, now: Instant) -> &str {
        self.status_at = Some(now);
        self.status = status(&server.stats());
        &self.status
    }

    fn tell<'s>(&mut self, states: impl FnOnce() -> io::Result<Vec<NotifyState<'s>>>) {
        if !self.is_on {
            return;
        }
        if let Err(error) = states().and_then(|states| send(&states)) {
            tracing::warn!("cannot tell systemd by NOTIFY_SOCKET: {error}; it takes the service for hung");
        }
    }
}

/// Sends a message to whoever reads `NOTIFY_SOCKET`, as [`sd_notify::notify`] does, which would wait without end where nobody
/// reads it, and then no signal would be heard.
fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
    let name = env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(&name)?,
        // That of a virtual machine's host.
        _ => return sd_notify::notify(states),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TELL_TIME))?;
    socket.connect_addr(&address)?;
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(text.as_bytes()).map(drop)
}

/// Returns what the server does, in a line: of [`Server::stats`].
fn status(stats: &serde_json::Value) -> String {
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let mut line =
        format!("{} streams, {} events published", number(&stats["clients"]), number(&stats["published"]));
    if let Some(journal) = stats.get("journal") {
        line += &format!("; journal of {} segments", number(&journal["segments"]));
    }
    if let Some(cluster) = stats.get("cluster") {
        line += match (cluster["connected"].as_bool(), cluster["ready"].as_bool()) {
            (Some(true), Some(true)) => "; connected to its cluster",
            (Some(true), _) => "; behind its cluster",
            _ => "; cut off from its cluster",
        };
    }
    line
}

/// A function that returns whether all have answered a question by now.
type AllAnswered = Box<dyn FnMut() -> bool>;

/// Decides when to say that the server lives: whenever all of its shards answered, and never otherwise.
struct Watchdog {
    interval: Duration,
    next: Option<Instant>,
    asked: Option<AllAnswered>,
}

impl Watchdog {
    /// Returns one for a server that is ended when nothing is said for this long.
    fn new(time_max: Duration) -> Self {
        Watchdog { interval: time_max / PROBES_PER_WATCHDOG, next: None, asked: None }
    }

    /// Asks the shards when it is time to. Returns whether all answered what they were asked last.
    fn look(&mut self, now: Instant, ask: impl FnOnce() -> AllAnswered) -> bool {
        if self.asked.is_none() && self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + self.interval);
            self.asked = Some(ask());
        }
        // A shard that hangs is not asked again: its mailbox would fill.
        let all_answered = self.asked.as_mut().is_some_and(|answered| answered());
        if all_answered {
            self.asked = None;
        }
        all_answered
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_sign_of_life_is_given_only_when_all_have_answered() {
        let mut watchdog = Watchdog::new(Duration::from_secs(40));
        let (asked, alive) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
        let start = Instant::now();
        let mut look = |at_s: u64, lives: bool| {
            alive.set(lives);
            let (asked, alive) = (Rc::clone(&asked), Rc::clone(&alive));
            let said = watchdog.look(start + Duration::from_secs(at_s), || {
                asked.set(asked.get() + 1);
                Box::new(move || alive.get())
            });
            (said, asked.get())
        };
        assert_eq!(look(0, true), (true, 1));
        assert_eq!(look(9, true), (false, 1), "not yet due");
        assert_eq!(look(10, true), (true, 2));
        assert_eq!(look(20, false), (false, 3));
        assert_eq!(look(60, false), (false, 3), "not asked twice");
        assert_eq!(look(100, true), (true, 3), "it came to it");
        assert_eq!(look(101, true), (true, 4));
    }

    #[test]
    fn the_status_says_what_there_is() {
        let mut stats = json!({"clients": 3, "published": 5});
        assert_eq!(status(&stats), "3 streams, 5 events published");
        stats["journal"] = json!({"segments": 2});
        assert_eq!(status(&stats), "3 streams, 5 events published; journal of 2 segments");
        for (connected, ready, said) in [
            (true, true, "connected to its cluster"),
            (true, false, "behind its cluster"),
            (false, false, "cut off from its cluster"),
        ] {
            let stats = json!({"cluster": {"connected": connected, "ready": ready}});
            assert_eq!(status(&stats), format!("0 streams, 0 events published; {said}"));
        }
    }
}
