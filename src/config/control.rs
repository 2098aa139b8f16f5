//! The control port: a second listener, which is not for the outside world.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::Secret;
use super::values::{control_address, host_name};

/// A second listener, which is not for the outside world: it serves every route.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Control port")]
pub struct Control {
    /// The address to listen on; without a token a loopback one. Port 0 is any free one.
    #[arg(skip = SocketAddr::from(([127, 0, 0, 1], 0)))]
    pub bind: SocketAddr,
    /// Host name by which the control port may be asked, beside addresses and localhost; repeat it, or part
    /// by commas.
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
    #[arg(long, visible_alias = "bindctl", value_name = "IP:PORT", value_parser = control_address)]
    pub(super) bind_control: Option<SocketAddr>,
    /// File with the token that every request to the control port must carry; needed beyond loopback
    #[arg(long, value_name = "FILE")]
    pub(super) control_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) control: Control,
}

impl Control {
    /// Returns a control port without a token, so for a loopback address, and without further host names.
    pub fn new(bind: SocketAddr) -> Self {
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
            None if self.is_exposed() => Err(format!(
                "control.token None: other machines may reach control.bind {bind}; set one, or bind to loopback"
            )),
            None => Ok(()),
        }
    }

    /// Returns whether other machines may reach it.
    pub(super) fn is_exposed(&self) -> bool {
        !self.bind.ip().to_canonical().is_loopback()
    }

    /// Returns whether it would share an address and port with the public listener, at all addresses included: a client
    /// of one would be served by the other.
    pub(super) fn overlaps(&self, ip: IpAddr, port: u16) -> bool {
        let (ours, theirs) = (self.bind.ip().to_canonical(), ip.to_canonical());
        let same = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
        same && self.bind.port() == port && port != 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_listeners_are_never_at_one_place() {
        for (control, public, overlaps) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "10.0.0.1:80", true),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "10.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:0", "0.0.0.0:0", false),
        ] {
            let public: SocketAddr = public.parse().unwrap();
            let control = Control::new(control.parse().unwrap());
            assert_eq!(control.overlaps(public.ip(), public.port()), overlaps, "{control:?} {public}");
        }
    }

    #[test]
    fn other_machines_reach_any_address_but_loopback() {
        for (bind, exposed) in [
            ("127.0.0.1:80", false),
            ("127.1.2.3:80", false),
            ("[::1]:80", false),
            ("[::ffff:127.0.0.1]:80", false),
            ("0.0.0.0:80", true),
            ("[::]:80", true),
            ("10.0.0.1:80", true),
            ("[::ffff:10.0.0.1]:80", true),
        ] {
            assert_eq!(Control::new(bind.parse().unwrap()).is_exposed(), exposed, "{bind}");
        }
    }
}
