//! Hints for a start that failed: the likely cause of each of the kernel's errors, and the remedy.

use std::io;

use crate::dialects::Port;

/// Returns why an address cannot be listened on, and the remedy.
pub(super) fn listen_help(port: Port, error: &io::Error) -> String {
    let (bind, port) = match port {
        Port::Public => ("--bind", "--port"),
        Port::Control => ("--bind-control", "port in --bind-control"),
    };
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("choose another {port}, stop the process that has it, or share it with --takeover")
        }
        io::ErrorKind::AddrNotAvailable => format!("give an address of this machine with {bind}"),
        io::ErrorKind::PermissionDenied => {
            format!("choose a {port} from 1024, or grant CAP_NET_BIND_SERVICE")
        }
        _ if error.raw_os_error() == Some(24) => "raise the file limit (ulimit -n, LimitNOFILE=)".to_owned(),
        _ => format!("check {bind} and {port}"),
    };
    format!("{error}; {mend}")
}

/// Returns why io_uring cannot be used, and the remedy.
pub(super) fn ring_help(error: &io::Error) -> String {
    let mend = match error.raw_os_error() {
        // EPERM and ENOSYS come from sysctl, seccomp profiles and old kernels; EMFILE means that no descriptor is left
        // for the ring.
        Some(1) => {
            "allow it: sysctl -w kernel.io_uring_disabled=0, or in a container --security-opt seccomp=scripts/seccomp.json"
        }
        Some(38) => {
            "it needs Linux 5.11 or later, and in a container --security-opt seccomp=scripts/seccomp.json"
        }
        Some(24) => "raise the file limit (ulimit -n, LimitNOFILE=)",
        // ENOMEM: before Linux 5.12 rings count as locked memory.
        Some(12) => "raise the locked memory limit (ulimit -l, LimitMEMLOCK=)",
        _ => "it needs Linux 5.11 or later",
    };
    format!("{error}; {mend}")
}
