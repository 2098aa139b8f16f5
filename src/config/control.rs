//! The control port: a second listener, which is not for the outside world.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::values::host_name;
use super::{BindAddress, Secret};

/// A second listener, which is not for the outside world: it serves every route.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Control port")]
pub struct Control {
    /// The address to listen on, with its port; without a token a loopback one or a socket in the file system. Port 0 is
    /// any free one.
    #[arg(skip = SocketAddr::from(([127, 0, 0, 1], 0)))]
    pub bind: BindAddress,
    /// Host name under which the control port may be requested, besides addresses and localhost; repeat it, or separate by
    /// commas.
    ///
    /// In lower case, without ports.
    #[arg(id = "control-host", long, value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub hosts: Vec<String>,
    /// The bearer token that every request must send: 16 or more visible ASCII characters.
    #[arg(skip)]
    pub token: Option<Secret>,
    /// Serve /publish, /stats, /metrics and /admin on the public port, too.
    #[arg(long)]
    pub public_publish: bool,
}

/// The flags of [`Control`], which there is none of without an address.
#[derive(Args, Debug)]
#[command(next_help_heading = "Control port")]
pub(super) struct ControlFlags {
    /// Second address to listen on, not for the outside world: it serves every route, and only it /token/,
    /// /emit/, /sessions/ and /disconnect/; /publish, /stats, /metrics and /admin are then served by it alone
    #[arg(long, visible_alias = "bindctl", value_name = "IP:PORT|unix:PATH")]
    #[arg(value_parser = control_address)]
    pub(super) bind_control: Option<BindAddress>,
    /// File with the token that every request to the control port must carry; required beyond loopback
    #[arg(long, value_name = "FILE")]
    pub(super) control_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) control: Control,
}

impl Control {
    /// Returns a control port without a token, so for a loopback address or a socket in the file system, and without
    /// further host names.
    pub fn new(bind: BindAddress) -> Self {
        Self { bind, hosts: Vec::new(), token: None, public_publish: false }
    }

    /// Checks the values that a program set.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { bind, hosts, token, public_publish: _ } = self;
        if let Some(host) = hosts.iter().find(|host| host_name(host).as_ref() != Ok(host)) {
            return Err(format!("control.hosts {host:?}: no name; write it in lower case, without a port"));
        }
        match token {
            Some(token) => Self::check_token(token).map_err(|reason| format!("control.token: {reason}")),
            None if bind.is_exposed() => Err(format!(
                "control.token None: other machines may reach control.bind {bind}; set one, or bind to loopback"
            )),
            None => Ok(()),
        }
    }

    /// Checks the token, which opens everything and is sent in a header.
    pub(super) fn check_token(token: &Secret) -> Result<(), &'static str> {
        if token.expose().len() < 16 {
            return Err("a token of less than 16 bytes may be guessed; make one with: openssl rand -hex 32");
        }
        if !token.expose().iter().all(u8::is_ascii_graphic) {
            return Err("a token with other than visible ASCII; make one with: openssl rand -hex 32");
        }
        Ok(())
    }
}

/// Parses the control port's address, which needs a port.
fn control_address(text: &str) -> Result<BindAddress, &'static str> {
    match text.parse() {
        Ok(BindAddress::Ip(_)) | Err(_) if !text.trim().starts_with("unix:") => Err(
            "not an address with its port; write 127.0.0.1:8001 or [::1]:8001, or a socket unix:/run/esper.sock",
        ),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_for_control_has_a_port_or_a_path() {
        for text in ["127.0.0.1:8001", ":8001", "[::1]:0", "unix:/run/esper-control.sock"] {
            assert!(control_address(text).is_ok(), "{text}");
        }
        for text in ["127.0.0.1", "::1", "localhost:80", ""] {
            assert!(control_address(text).unwrap_err().contains("write 127.0.0.1:8001"), "{text}");
        }
        assert!(control_address("unix:s").unwrap_err().contains("write unix:/run/esper.sock"));
    }
}
