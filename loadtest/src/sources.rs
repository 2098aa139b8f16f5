//! Local addresses to connect from: one has ports for some 28,000 connections to a server, and no more.

use crate::http::Target;
use std::net::IpAddr;

/// An address has 28,232 ports by default (net.ipv4.ip_local_port_range); some are left for others.
const CONNECTIONS_PER_ADDRESS: usize = 25_000;
/// The kernel looks for a free port longer the more are taken: 15,000 connections from one address cost 102 us each,
/// from three 16.
const CONNECTIONS_PER_LOOPBACK: usize = 5_000;

/// Local addresses to connect from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// In turn, `per_address` connections each; `None` leaves the choice to the kernel.
    addresses: Vec<Option<IpAddr>>,
    per_address: usize,
}

impl Sources {
    /// For `count` connections to `target`: the `given` addresses, or as many of this machine's as are needed. The error is
    /// one line for the person who gave them.
    pub(crate) fn of_flags(
        given: &[IpAddr],
        per_address: Option<usize>,
        target: &Target,
        count: usize,
    ) -> Result<Sources, String> {
        let many_addresses =
            given.is_empty() && target.address.is_ipv4() && target.address.ip().is_loopback();
        let default = if many_addresses { CONNECTIONS_PER_LOOPBACK } else { CONNECTIONS_PER_ADDRESS };
        let per_address = per_address.unwrap_or(default);
        let needed = count.div_ceil(per_address);
        let addresses = match (given, target.address.ip()) {
            ([], _) if needed == 1 => vec![None],
            ([], IpAddr::V4(server)) if server.is_loopback() && needed <= 65_000 => {
                let others = (2..).map(|host: u32| Some(IpAddr::from((0x7f00_0000 | host).to_be_bytes())));
                [None].into_iter().chain(others).take(needed).collect()
            }
            _ => given.iter().copied().map(Some).collect(),
        };
        if addresses.len() < needed {
            return Err(format!(
                "--subscribers {count} need {needed} local addresses of {per_address} connections each and there are {}; \
                 give more with --source-address",
                addresses.len().max(1)
            ));
        }
        if addresses.iter().flatten().any(|source| source.is_ipv4() != target.address.is_ipv4()) {
            return Err("--source-address must be of the server's kind, IPv4 or IPv6".to_owned());
        }
        // Given more addresses than needed, use all of them alike.
        let per_address = count.div_ceil(addresses.len());
        Ok(Sources { addresses, per_address })
    }

    /// Where subscriber number `index` connects from.
    pub(crate) fn of(&self, index: usize) -> Option<IpAddr> {
        self.addresses.get(index / self.per_address).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loopback_address_is_never_asked_for_more_than_it_holds() {
        let target = Target::resolve("http://127.0.0.1:3000").unwrap();
        let sources = Sources::of_flags(&[], Some(100), &target, 250).unwrap();
        let from: Vec<_> = (0..250).map(|index| sources.of(index)).collect();
        assert_eq!((from[0], from[83]), (None, None));
        assert_eq!((from[84], from[249]), (Some([127, 0, 0, 2].into()), Some([127, 0, 0, 3].into())));
        for address in [None, from[84], from[249]] {
            assert!(from.iter().filter(|of| **of == address).count() <= 100);
        }
    }
}
