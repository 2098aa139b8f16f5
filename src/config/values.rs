//! How one value is read: sizes, durations, counts, addresses. Each refusal says what was wrong and what is
//! right; the caller puts the flag's or the variable's name before it.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;

use super::Secret;
use super::SyncPolicy;
use crate::core::partition::PARTITIONS_MAX;

/// Bytes, written `64KiB`, `1MiB` or `4194304`. At most 1 PiB, so that sums of sizes cannot overflow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) struct Size(pub(super) usize);

impl Size {
    pub(super) const MAX: u64 = bytesize::PIB;
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: ByteSize =
            text.parse().map_err(|_| "not a size; write 64KiB, 1MiB or 4194304".to_owned())?;
        match usize::try_from(size.as_u64()) {
            Ok(bytes) if size.as_u64() <= Self::MAX => Ok(Self(bytes)),
            _ => Err("too large; write at most 1PiB".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    /// The largest unit that says it exactly, so that what is printed can be given back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in units {
            let whole = self.0 >> shift;
            if whole > 0 && whole << shift == self.0 {
                return write!(f, "{whole}{unit}");
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A duration with its unit, written `500ms`, `15s` or `10m`. 0, or 1 ms to 365 days: the clocks that use it
/// count in milliseconds, and adding it to a moment cannot overflow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) struct Time(pub(super) Duration);

impl Time {
    pub(super) const ZERO: Self = Self(Duration::ZERO);
    pub(super) const MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if bare && text.parse::<f64>().is_ok() {
            return Err(format!("no unit; write {text}s or {text}ms"));
        }
        let time = humantime::parse_duration(text)
            .map_err(|_| "not a duration; write a number and its unit: 500ms, 15s, 10m or 2h".to_owned())?;
        if time > Self::MAX {
            return Err("too long; write at most 365d".to_owned());
        }
        if !time.is_zero() && time < Duration::from_millis(1) {
            return Err("too short; write 0s, or at least 1ms".to_owned());
        }
        Ok(Self(time))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY_S: u64 = 24 * 60 * 60;
        // humantime would write a year as months, days, hours, minutes and seconds.
        let days = self.0.as_secs() / DAY_S;
        if days > 0 && self.0 == Duration::from_secs(days * DAY_S) {
            return write!(f, "{days}d");
        }
        // humantime parts units by spaces ("1m 30s"); without them the text can be given back unquoted.
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

impl FromStr for SyncPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "always" {
            return Ok(SyncPolicy::Always);
        }
        let time = Time::from_str(text).map_err(|reason| format!("{reason}; or write always"))?.0;
        match time.is_zero() {
            true => Err("no time; write always, or at least 1ms".to_owned()),
            false => Ok(SyncPolicy::Every(time)),
        }
    }
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncPolicy::Always => f.write_str("always"),
            SyncPolicy::Every(time) => Time(*time).fmt(f),
        }
    }
}

/// The largest count: far past any use, and small enough for a 32-bit counter.
pub(super) const COUNT_MAX: usize = 1_000_000_000;

/// A whole number in digits alone: `parse` by itself would take `+5` too.
pub(super) fn number<N: FromStr>(text: &str) -> Option<N> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number of things, 0 to 1000000000.
pub(super) fn count(text: &str) -> Result<usize, String> {
    number(text)
        .filter(|n| *n <= COUNT_MAX)
        .ok_or_else(|| format!("not a count; write a whole number from 0 to {COUNT_MAX}"))
}

/// A number of things, 1 to 1000000000.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    number(text)
        .filter(|n| (1..=COUNT_MAX).contains(n))
        .ok_or_else(|| format!("not a count; write a whole number from 1 to {COUNT_MAX}"))
}

/// A number of partitions, 1 to 64.
pub(super) fn partitions(text: &str) -> Result<u8, String> {
    number(text)
        .filter(|n| (1..=PARTITIONS_MAX).contains(n))
        .ok_or_else(|| format!("not a number of partitions; write a whole number from 1 to {PARTITIONS_MAX}"))
}

/// A TCP port, 0 being any free one.
pub(super) fn port(text: &str) -> Result<u16, String> {
    number(text).ok_or_else(|| {
        // Kubernetes gives every pod such a variable for each Service, here for one that is named `esper`.
        let hint = if text.starts_with("tcp://") {
            " (Kubernetes sets this for a Service named esper: set enableServiceLinks: false in the pod)"
        } else {
            ""
        };
        format!("not a port; write a number from 0 to 65535, 0 is any free port{hint}")
    })
}

/// An address to listen on, and the port if it says one: `127.0.0.1`, `::1`, `127.0.0.1:8000`, `[::1]:8000`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bind {
    pub(super) ip: IpAddr,
    pub(super) port: Option<u16>,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(address) => Ok(Self { ip: address.ip(), port: Some(address.port()) }),
            Err(_) => {
                Err("not an address; write 127.0.0.1 or ::1 for this machine alone, 0.0.0.0 or :: for all, \
                           or with a port 127.0.0.1:8000 or [::1]:8000"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.ip.fmt(f),
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
        }
    }
}

/// The control port's address, which has no default of its own.
pub(super) fn control_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address with its port; write 127.0.0.1:8001 or [::1]:8001".to_owned())
}

/// A host's name as it stands in a request's `Host`, without a port, made lower case.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_lowercase();
    let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // RFC 1035, 2.3.4, less the ends.
    if (1..=253).contains(&name.len()) && name.bytes().all(in_names) {
        return Ok(name);
    }
    Err("not a host's name; write it without scheme and port, such as esper.example.org".to_owned())
}

/// A secret; what is wrong with one is never shown.
pub(super) fn secret(text: &str) -> Result<Secret, &'static str> {
    Secret::new(text).ok_or("empty; write a secret, or leave it out to have none")
}

/// A network in CIDR notation, or one address as a network of its own.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse::<IpNet>().ok();
    // An IPv4 peer of an IPv6 listener is compared as IPv4.
    let network = network.or_else(|| Some(text.parse::<IpAddr>().ok()?.to_canonical().into()));
    network
        .map(|network| network.trunc())
        .ok_or_else(|| "not an address or a network; write 10.0.0.1, 10.0.0.0/8 or fd00::/8".to_owned())
}

/// A cookie's name: a token (RFC 6265, 4.1.1, by RFC 9110, 5.6.2).
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(token) {
        Ok(text.to_owned())
    } else {
        Err("not a cookie's name; write letters, digits, '-' and '_', such as esper_token".to_owned())
    }
}

/// One of several parted by commas, which people follow by a space.
pub(super) fn trimmed(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

/// A yes or no in a variable.
pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("not a yes or no; write true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4194304", 4 << 20),
            ("64K", 64_000),
            ("64KB", 64_000),
            ("64Ki", 65_536),
            ("64kib", 65_536),
            ("1MiB", 1 << 20),
            ("1.5 MiB", 3 << 19),
            ("2GiB", 2 << 30),
            ("1PiB", 1 << 50),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn a_size_is_printed_as_it_can_be_given_back() {
        for (bytes, text) in [(0, "0"), (1023, "1023"), (1024, "1KiB"), (1536, "1536"), (4 << 20, "4MiB")] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
    }

    #[test]
    fn durations_need_their_unit() {
        for (text, ms) in
            [("0s", 0), ("500ms", 500), ("15s", 15_000), ("10m", 600_000), ("1m30s", 90_000), ("1.5s", 1500)]
        {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        }
        assert_eq!("15".parse::<Time>(), Err("no unit; write 15s or 15ms".to_owned()));
        assert_eq!("1.5".parse::<Time>(), Err("no unit; write 1.5s or 1.5ms".to_owned()));
    }

    #[test]
    fn a_duration_is_printed_as_it_can_be_given_back() {
        for text in ["0s", "500ms", "15s", "10m", "1m30s", "1h", "1d", "365d"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_address_to_listen_on_is_printed_as_it_can_be_given_back() {
        for (text, port) in
            [("127.0.0.1", None), ("::1", None), ("127.0.0.1:0", Some(0)), ("[::1]:8000", Some(8000))]
        {
            let bind: Bind = text.parse().unwrap();
            assert_eq!((bind.to_string().as_str(), bind.port), (text, port));
        }
    }

    #[test]
    fn a_host_is_named_in_any_case() {
        assert_eq!(host_name(" Esper.Example.ORG"), Ok("esper.example.org".to_owned()));
    }

    #[test]
    fn a_network_is_one_address_or_all_that_share_a_prefix() {
        for (text, network) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.1/32", "10.0.0.1/32"),
            (" 10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1", "::1/128"),
            ("fd00::1/8", "fd00::/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ] {
            assert_eq!(super::network(text).unwrap().to_string(), network, "{text}");
        }
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_right() {
        fn reason<T>(read: Result<T, String>) -> String {
            read.err().unwrap_or_default()
        }
        let rows = [
            (reason("".parse::<Size>()), "write 64KiB"),
            (reason("big".parse::<Size>()), "write 64KiB"),
            (reason("-1".parse::<Size>()), "write 64KiB"),
            (reason("1MiX".parse::<Size>()), "write 64KiB"),
            (reason("2PiB".parse::<Size>()), "at most 1PiB"),
            (reason("99999999999999999999EiB".parse::<Size>()), "at most 1PiB"),
            (reason("".parse::<Time>()), "write a number and its unit"),
            (reason("1..".parse::<Time>()), "write a number and its unit"),
            (reason("s".parse::<Time>()), "write a number and its unit"),
            (reason("15 parsecs".parse::<Time>()), "write a number and its unit"),
            (reason("-5s".parse::<Time>()), "write a number and its unit"),
            (reason("366d".parse::<Time>()), "at most 365d"),
            (reason("18446744073709551615s".parse::<Time>()), "at most 365d"),
            (reason("1us".parse::<Time>()), "at least 1ms"),
            (reason(count("")), "from 0 to 1000000000"),
            (reason(count("-1")), "from 0 to 1000000000"),
            (reason(count("1000000001")), "from 0 to 1000000000"),
            (reason(count("+1")), "from 0 to 1000000000"),
            (reason(positive("0")), "from 1 to 1000000000"),
            (reason(positive("1000000001")), "from 1 to 1000000000"),
            (reason(port("65536")), "from 0 to 65535"),
            (reason(port("tcp://10.0.0.1:80")), "enableServiceLinks: false"),
            (reason("localhost".parse::<Bind>()), "write 127.0.0.1 or ::1"),
            (reason("localhost:80".parse::<Bind>()), "127.0.0.1:8000"),
            (reason("[::1]".parse::<Bind>()), "[::1]:8000"),
            (reason(":80".parse::<Bind>()), "0.0.0.0 or :: for all"),
            (reason("127.0.0.1:65536".parse::<Bind>()), "127.0.0.1:8000"),
            (reason(control_address("127.0.0.1")), "write 127.0.0.1:8001"),
            (reason(control_address("localhost:80")), "write 127.0.0.1:8001"),
            (reason(control_address("::1")), "[::1]:8001"),
            (reason(host_name("")), "such as esper.example.org"),
            (reason(host_name("a:80")), "without scheme and port"),
            (reason(host_name("http://a")), "without scheme and port"),
            (reason(host_name("ü.example")), "such as esper.example.org"),
            (reason(host_name(&"a".repeat(254))), "such as esper.example.org"),
            (reason(network("")), "write 10.0.0.1"),
            (reason(network("10.0.0.0/33")), "write 10.0.0.1"),
            (reason(network("10.0.0")), "write 10.0.0.1"),
            (reason(network("proxy.example")), "write 10.0.0.1"),
            (reason(network("10.0.0.1:80")), "write 10.0.0.1"),
            (reason(cookie_name("")), "such as esper_token"),
            (reason(cookie_name("a b")), "such as esper_token"),
            (reason(cookie_name("a=b")), "such as esper_token"),
            (reason(cookie_name("é")), "such as esper_token"),
            (reason(yes_or_no("")), "true or false"),
            (reason(yes_or_no("maybe")), "true or false"),
        ];
        for (reason, mend) in rows {
            assert!(reason.contains(mend), "{reason:?} should say {mend:?}");
        }
    }
}
