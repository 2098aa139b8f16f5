//! Which CPUs get a shard: read from `--cores` or `--threads`, matched with those this process may use.

use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::ConfigError;
use super::values::{number, positive};

/// Which CPUs get a shard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cpus {
    /// The kernel's CPU numbers, one shard each, in the order of the shards; never empty, no two alike. Only
    /// how many they are matters without `pin`.
    pub ids: Vec<usize>,
    /// Whether each shard's thread stays on its CPU.
    pub pin: bool,
}

impl Default for Cpus {
    /// One shard that is not pinned: a program with other work to do says itself how many of its CPUs it
    /// gives away. The binary, which has none, takes them all.
    fn default() -> Self {
        Self { ids: vec![0], pin: false }
    }
}

/// The CPUs this process may use, ascending: the machine's, less what `taskset`, a container's or a service's
/// CPU set keeps from it.
pub(super) fn usable() -> Result<Vec<usize>, ConfigError> {
    let ids: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if ids.is_empty() {
        return Err(ConfigError::Host(
            "the kernel does not tell which CPUs this process may use; \
             allow sched_getaffinity in its seccomp profile"
                .to_owned(),
        ));
    }
    Ok(ids)
}

/// What was asked for, before it is known which CPUs there are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    /// The first so many; at least 1.
    Count(usize),
    /// Exactly these, in this order; no two overlap.
    List(Vec<RangeInclusive<usize>>),
}

impl FromStr for Wanted {
    type Err = String;

    /// `2` is a count, everything with a `-` or a `,` a list, so CPU 5 alone is `5-5` or `5,`.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains([',', '-']) {
            return positive(text).map(Self::Count).map_err(|_| {
                "not a number of CPUs; write 2 for the first two, or a list such as 0-3,6".to_owned()
            });
        }
        let mut ranges: Vec<RangeInclusive<usize>> = Vec::new();
        for item in text.strip_suffix(',').unwrap_or(text).split(',') {
            let range = range(item)?;
            let twice = ranges.iter().find_map(|earlier| {
                let first = *earlier.start().max(range.start());
                (first <= *earlier.end().min(range.end())).then_some(first)
            });
            if let Some(cpu) = twice {
                return Err(format!("CPU {cpu} is there twice; write each CPU once"));
            }
            ranges.push(range);
        }
        Ok(Self::List(ranges))
    }
}

impl fmt::Display for Wanted {
    /// As it may be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::List(ranges) => {
                for (index, range) in ranges.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    // A CPU alone keeps its range: `5` would be a count.
                    if range.start() == range.end() && ranges.len() > 1 {
                        write!(f, "{comma}{}", range.start())?;
                    } else {
                        write!(f, "{comma}{}-{}", range.start(), range.end())?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// `3` or `0-3`.
fn range(item: &str) -> Result<RangeInclusive<usize>, String> {
    let cpu = |text: &str| {
        number::<usize>(text).ok_or_else(|| {
            format!("'{}' is not a CPU or a range of CPUs; write a list such as 0-3,6", item.escape_debug())
        })
    };
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let (first, last) = (cpu(first)?, cpu(last)?);
    if first > last {
        return Err(format!("{first}-{last} is backwards; write {last}-{first}"));
    }
    Ok(first..=last)
}

impl Wanted {
    /// The CPUs asked for, if all of them are in `usable`; otherwise what is wrong and what there is.
    pub(super) fn among(&self, usable: &[usize]) -> Result<Vec<usize>, String> {
        match self {
            Self::Count(count) => usable.get(..*count).map(<[usize]>::to_vec).ok_or_else(|| {
                format!(
                    "more than the {} this process may use ({}); write {} or less",
                    cpus_in_words(usable.len()),
                    list(usable),
                    usable.len()
                )
            }),
            Self::List(ranges) => {
                let mut ids = Vec::new();
                // Ends at the first CPU there is not: a range of billions costs no more than the machine has.
                for cpu in ranges.iter().cloned().flatten() {
                    if !usable.contains(&cpu) {
                        return Err(format!("no CPU {cpu} for this process; choose among {}", list(usable)));
                    }
                    ids.push(cpu);
                }
                Ok(ids)
            }
        }
    }
}

pub(super) fn cpus_in_words(count: usize) -> String {
    if count == 1 { "1 CPU".to_owned() } else { format!("{count} CPUs") }
}

/// Ascending CPU numbers as `--cores` takes them: `0-3,6`.
fn list(ids: &[usize]) -> String {
    let mut text = String::new();
    for run in ids.chunk_by(|a, b| a + 1 == *b) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match run {
            [first, .., last] => write!(text, "{comma}{first}-{last}"),
            [one] => write!(text, "{comma}{one}"),
            [] => Ok(()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, usable: &[usize]) -> Result<Vec<usize>, String> {
        text.parse::<Wanted>()?.among(usable)
    }

    #[test]
    fn a_count_takes_the_first_cpus_this_process_may_use() {
        assert_eq!(chosen("2", &[0, 1, 2, 3]), Ok(vec![0, 1]));
        assert_eq!(chosen("2", &[5, 7, 9]), Ok(vec![5, 7]));
        assert_eq!(chosen("1", &[5]), Ok(vec![5]));
    }

    #[test]
    fn a_list_takes_exactly_those_cpus_in_its_order() {
        let eight = [0, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(chosen("0-3,6", &eight), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(chosen("6,0-1", &eight), Ok(vec![6, 0, 1]));
        assert_eq!(chosen("5-5", &eight), Ok(vec![5]));
        assert_eq!(chosen("5,", &eight), Ok(vec![5]));
        assert_eq!(chosen("4-5,", &eight), Ok(vec![4, 5]));
    }

    #[test]
    fn a_wrong_list_is_refused_with_what_is_right() {
        for (text, mend) in [
            ("", "write 2 for the first two"),
            ("0", "write 2 for the first two"),
            ("two", "write 2 for the first two"),
            ("+2", "write 2 for the first two"),
            (",", "'' is not a CPU"),
            ("-", "'-' is not a CPU"),
            ("-1", "'-1' is not a CPU"),
            ("0-", "'0-' is not a CPU"),
            ("0,,1", "'' is not a CPU"),
            ("0,1,,", "'' is not a CPU"),
            ("0-1-2", "'0-1-2' is not a CPU"),
            ("0, 1", "' 1' is not a CPU"),
            ("0,+1", "'+1' is not a CPU"),
            ("3-0", "write 0-3"),
            ("1,1", "CPU 1 is there twice"),
            ("0-3,2-5", "CPU 2 is there twice"),
            ("4,0-9", "CPU 4 is there twice"),
            ("0-99999999999999999999", "is not a CPU"),
        ] {
            let refused = text.parse::<Wanted>().err().unwrap_or_default();
            assert!(refused.contains(mend), "{text:?} gave {refused:?}, should say {mend:?}");
        }
    }

    #[test]
    fn cpus_this_process_may_not_use_are_refused_with_those_it_may() {
        for (text, usable, mend) in [
            ("3", &[0, 1][..], "more than the 2 CPUs this process may use (0-1); write 2 or less"),
            ("2", &[4], "more than the 1 CPU this process may use (4); write 1 or less"),
            ("0-3", &[0, 1], "no CPU 2 for this process; choose among 0-1"),
            ("1,", &[0, 2, 3, 4, 7], "no CPU 1 for this process; choose among 0,2-4,7"),
            // Ends at once, without going through the range.
            ("0-18446744073709551615", &[0, 1], "no CPU 2 for this process; choose among 0-1"),
        ] {
            assert_eq!(chosen(text, usable), Err(mend.to_owned()), "{text}");
        }
    }

    #[test]
    fn usable_is_every_cpu_of_the_affinity_mask() {
        // A thread of its own, so that the mask of the test's thread stays.
        let (all, narrowed) = std::thread::spawn(|| {
            let all = usable().unwrap();
            let last = *all.last().unwrap();
            assert!(core_affinity::set_for_current(core_affinity::CoreId { id: last }));
            (all, usable().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(narrowed, all[all.len() - 1..]);
        assert_eq!(usable().unwrap(), all);
    }
}
