//! Parsers of single values: sizes, durations, counts, ports, names. Each refusal says what was wrong and what to write;
//! the caller puts the name of the flag, variable or key before it.

use std::convert::Infallible;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// The largest size, 1 PiB, so that sums of sizes cannot overflow.
pub(super) const SIZE_MAX: usize = match 1_usize.checked_shl(50) {
    Some(pebibyte) => pebibyte,
    None => usize::MAX,
};
/// The largest count: far more than any use, and within a 32-bit counter.
pub(super) const COUNT_MAX: usize = 1_000_000_000;

/// Bytes, written `64KiB`, `1MiB` or `4194304`. At most [`SIZE_MAX`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) struct Size(pub(super) usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: ByteSize = text.parse().map_err(|_| "not a size; write 64KiB, 1MiB or 4194304")?;
        let bytes = usize::try_from(size.as_u64()).ok().filter(|bytes| *bytes <= SIZE_MAX);
        bytes.map(Self).ok_or_else(|| format!("too large; write at most {}", Self(SIZE_MAX)))
    }
}

impl fmt::Display for Size {
    /// Writes the largest unit that is exact, so that the text can be read back.
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

/// Parses any size.
pub(super) fn any_size(text: &str) -> Result<usize, String> {
    text.parse().map(|Size(bytes)| bytes)
}

/// Parses a size within a range.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match any_size(text)? {
        bytes if range.contains(&bytes) => Ok(bytes),
        _ => Err(format!("out of range; write {} to {}", Size(*range.start()), Size(*range.end()))),
    }
}

/// A duration with its unit, written `500ms`, `15s` or `10m`: 0, or 1 ms to 365 days, because its clocks count
/// milliseconds and adding it to a moment must not overflow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) struct Time(pub(super) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if bare && text.parse::<f64>().is_ok() {
            return Err(format!("no unit; write {text}s or {text}ms"));
        }
        let time = humantime::parse_duration(text)
            .map_err(|_| "not a duration; write a number and its unit: 500ms, 15s, 10m or 2h")?;
        if time > Duration::from_secs(365 * 24 * 60 * 60) {
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
        // humantime separates units by spaces ("1m 30s"); without them the text needs no quotes to be read back.
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

/// Parses a duration, which may be 0.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    text.parse().map(|Time(time)| time)
}

/// Parses a duration of 1 ms or more.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("no time at all; write at least 1ms".to_owned()),
        time => Ok(time),
    }
}

/// Parses a duration of 1 s or more, because tokens hold the second at which they expire.
pub(crate) fn token_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time < Duration::from_secs(1) => Err("too short; write at least 1s".to_owned()),
        time => Ok(time),
    }
}

/// Parses digits alone: `parse` by itself would take `+5` too.
pub(super) fn number<N: FromStr>(text: &str) -> Option<N> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Parses a whole number within a range; a refusal calls it `what`.
pub(super) fn whole<N>(
    what: &'static str,
    range: RangeInclusive<N>,
) -> impl Fn(&str) -> Result<N, String> + Clone
where
    N: FromStr + PartialOrd + fmt::Display + Clone,
{
    move |text| {
        let (least, most) = (range.start(), range.end());
        let number = number(text).filter(|number| range.contains(number));
        number.ok_or_else(|| format!("not a {what}; write a whole number from {least} to {most}"))
    }
}

/// Parses a count from `least` to [`COUNT_MAX`].
pub(super) fn count(least: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    whole("count", least..=COUNT_MAX)
}

/// Parses a TCP port; 0 is any free one.
pub(super) fn port(text: &str) -> Result<u16, String> {
    number(text).ok_or_else(|| {
        // Kubernetes sets such a variable in every pod for each Service, here for one named `esper`.
        let hint = if text.starts_with("tcp://") {
            " (Kubernetes sets this for a Service named esper: set enableServiceLinks: false in the pod)"
        } else {
            ""
        };
        format!("not a port; write a number from 0 to 65535, 0 is any free port{hint}")
    })
}

/// Parses a host's name as in a request's `Host`, without a port, and makes it lower case.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_lowercase();
    let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // RFC 1035, section 2.3.4, without the two length bytes at the ends.
    if (1..=253).contains(&name.len()) && name.bytes().all(in_names) {
        return Ok(name);
    }
    Err("not a host's name; write it without scheme and port, such as esper.example.org".to_owned())
}

/// Returns whether a byte may be in a token (RFC 9110, 5.6.2), such as a header's or a cookie's name.
pub(super) fn in_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Parses a cookie's name, a token (RFC 6265, section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(in_token) {
        Ok(text.to_owned())
    } else {
        Err("not a cookie's name; write letters, digits, '-' and '_', such as esper_token".to_owned())
    }
}

/// Trims one of several values separated by commas, after which people put a space.
pub(super) fn trimmed(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

/// Parses a yes or no, the value of a switch in a variable or in a file.
pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("not a yes or no; write true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests;
