//! The control port: a second listener, which is not for the outside world.

use std::net::{IpAddr, SocketAddr};

use super::Secret;

/// A second listener, which is not for the outside world: it serves every route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Control {
    /// The address to listen on; without a token a loopback one. Port 0 is any free one.
    pub bind: SocketAddr,
    /// Names, beside addresses and `localhost`, by which it may be asked for: in lower case, without ports.
    pub hosts: Vec<String>,
    /// What every request must send as its bearer token: 16 or more visible ASCII characters.
    pub token: Option<Secret>,
    /// The public listener serves `/publish`, `/stats`, `/metrics` and `/admin` as well.
    pub public_publish: bool,
}

impl Control {
    /// Without a token, so on a loopback address, asked for by addresses and `localhost` alone.
    pub fn new(bind: SocketAddr) -> Self {
        Self { bind, hosts: Vec::new(), token: None, public_publish: false }
    }

    /// Whether other machines may reach it.
    pub(super) fn is_exposed(&self) -> bool {
        !self.bind.ip().to_canonical().is_loopback()
    }

    /// Whether the public listener would be at the same place, or at all addresses with this one among them:
    /// a client of the one would be served by the other.
    pub(super) fn overlaps(&self, ip: IpAddr, port: u16) -> bool {
        let (ours, theirs) = (self.bind.ip().to_canonical(), ip.to_canonical());
        let same = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
        same && self.bind.port() == port && port != 0
    }

    /// What is wrong with a token: it opens everything, and stands in a header.
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
