//! A subscriber that is cut sees a reset, whatever the server lacks at that moment.
//!
//! Without the reset its kernel would hold the connection for open for as long as nothing is read, and the page would never
//! come back.

use std::io::ErrorKind;
use std::net::TcpStream;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::slow_clients::{STALLING, numbered, stall};
use crate::support::{Publisher, Server, WITHOUT_CALL, eventually, launched};

const TOPIC: &str = "resets01";
/// Calls by which a process copies descriptors of its own: `scripts/seccomp.json` and systemd's `@system-service` forbid the
/// last. Their numbers are the same on all machines.
const PIDFD_OPEN: &str = "434";
const PIDFD_GETFD: &str = "438";

/// Publishes until subscribers that do not read are cut, and waits until each of them has been reset.
fn cut(publisher: &mut Publisher, stalled: &[TcpStream]) {
    // 6 MiB: more than a megabyte past all that the kernel holds for one connection.
    for sent in 0..96 {
        assert_eq!(publisher.publish(TOPIC, &numbered(sent, 64 << 10)).unwrap().status, 200);
    }
    for client in stalled {
        // Nothing is read: what was sent would come first.
        let error = eventually("the connection is reset", || client.take_error().unwrap());
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

fn stalled(server: &Server) -> Vec<TcpStream> {
    (0..20).map(|_| stall(server, &format!("/subscribe/{TOPIC}"))).collect()
}

#[test]
fn a_subscriber_that_is_cut_is_reset_when_no_descriptor_is_free() {
    let server = Server::spawn(launched(&["prlimit", "--nofile=200:200"], &STALLING));
    let mut publisher = Publisher::new(&server);
    let stalled = stalled(&server);
    // As if all were in use, without the race of connections that give way for others.
    let own = Pid::from_raw(server.pid() as i32);
    let none = Rlimit { current: Some(1), maximum: getrlimit(Resource::Nofile).maximum.min(Some(200)) };
    prlimit(own, Resource::Nofile, none).unwrap();
    cut(&mut publisher, &stalled);
}

#[test]
fn a_subscriber_that_is_cut_is_reset_where_descriptors_cannot_be_copied() {
    for call in [PIDFD_OPEN, PIDFD_GETFD] {
        let server = Server::spawn(launched(&["python3", "-c", WITHOUT_CALL, call, "1"], &STALLING));
        let stalled = stalled(&server);
        cut(&mut Publisher::new(&server), &stalled);
    }
}
