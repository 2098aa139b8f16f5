//! The CPUs that get a shard: read from `--cores` or `--threads`, and checked against those that this process may use.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::{ArgAction, Args};

use super::layer::Layer;
use super::values::{count, number, whole};
use super::{ConfigError, SHARDS_MAX};

/// The CPUs that get a shard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cpus {
    /// The kernel's CPU numbers, one shard each, in the order of the shards; never empty. Without `pin` only their number
    /// matters.
    pub ids: Vec<usize>,
    /// Whether each shard's thread stays on its CPU.
    pub pin: bool,
}

impl Default for Cpus {
    /// Returns one shard that is not pinned: a program with other work decides itself how many CPUs it gives away. The
    /// binary, which has none, uses them all.
    fn default() -> Self {
        Self { ids: vec![0], pin: false }
    }
}

impl Cpus {
    /// Returns this many of the CPUs; more than there are share them, and the kernel says which thread has which.
    fn shared(threads: usize, usable: &[usize], pin: bool) -> Self {
        let ids = usable.iter().copied().cycle().take(threads).collect();
        Self { ids, pin: pin && threads <= usable.len() }
    }
}

/// The flags of [`Cpus`].
#[derive(Args, Debug)]
#[command(next_help_heading = "Listening")]
pub(super) struct CpuFlags {
    /// Number of threads, one for each CPU; more than this process may use share them [default: all CPUs this process
    /// may use]
    #[arg(short, long, value_name = "N", value_parser = whole("count", 1..=SHARDS_MAX))]
    pub(super) threads: Option<usize>,
    /// How many CPUs (2: the first two this process may use) or which (0-3,6: just those; 5-5: just CPU 5)
    #[arg(long, value_name = "N|LIST")]
    pub(super) cores: Option<WantedCpus>,
    /// Let the kernel move the threads between CPUs
    #[arg(long = "no-pin", action = ArgAction::SetFalse)]
    pin: bool,
}

impl CpuFlags {
    /// Chooses among the CPUs that this process may use.
    pub(super) fn choose(&self, names: &Layer) -> Result<Cpus, ConfigError> {
        let ids = usable()?;
        let cores = match (self.threads, &self.cores) {
            (Some(threads), _) => return Ok(Cpus::shared(threads, &ids, self.pin)),
            (None, Some(cores)) => cores,
            (None, None) => return Ok(Cpus { ids, pin: self.pin }),
        };
        let chosen = cores.among(&ids);
        let refused = |reason| ConfigError::Host(format!("{}: {reason}", names.with("cores", cores)));
        Ok(Cpus { ids: chosen.map_err(refused)?, pin: self.pin })
    }

    /// Returns a line for the log if there are more threads than CPUs.
    pub(super) fn warning(&self, chosen: &Cpus, names: &Layer) -> Option<String> {
        let threads = self.threads.filter(|threads| *threads == chosen.ids.len())?;
        let cpus = usable().ok()?;
        (threads > cpus.len()).then(|| {
            format!(
                "{}: more than the CPUs this process may use ({}), which the threads share, unpinned; \
                 one for each CPU is fastest, and the default",
                names.with("threads", threads),
                list_of(&cpus)
            )
        })
    }
}

/// Returns the CPUs that this process may use, ascending: the machine's, limited by `taskset` and by a container's or
/// service's CPU set.
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

/// The CPUs that were asked for, not yet checked against those there are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum WantedCpus {
    /// The first ones, this many; at least 1.
    Count(usize),
    /// These, in this order; no two ranges overlap.
    List(Vec<RangeInclusive<usize>>),
}

impl FromStr for WantedCpus {
    type Err = String;

    /// Reads `2` as a count, and text with a `-` or a `,` as a list, so CPU 5 alone is `5-5` or `5,`.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains([',', '-']) {
            return count(1)(text).map(Self::Count).map_err(|_| {
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

impl fmt::Display for WantedCpus {
    /// Writes it in the form that [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            // A CPU alone is written as a range: `5` would be a count.
            Self::List(ranges) => match &ranges[..] {
                [range] => write!(f, "{}-{}", range.start(), range.end()),
                _ => f.write_str(&list(ranges.iter().map(|range| (*range.start(), *range.end())))),
            },
        }
    }
}

/// Reads `3` or `0-3`.
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

impl WantedCpus {
    /// Returns the wanted CPUs if all of them are in `usable`; otherwise what is wrong and which there are.
    pub(super) fn among(&self, usable: &[usize]) -> Result<Vec<usize>, String> {
        match self {
            Self::Count(count) => usable.get(..*count).map(<[usize]>::to_vec).ok_or_else(|| {
                let (count, cpus) = (usable.len(), if usable.len() == 1 { "CPU" } else { "CPUs" });
                let list = list_of(usable);
                format!("more than the {count} {cpus} this process may use ({list}); write {count} or less")
            }),
            Self::List(ranges) => {
                let mut ids = Vec::new();
                // Stops at the first missing CPU: a range of billions costs no more than the machine has.
                for cpu in ranges.iter().cloned().flatten() {
                    if !usable.contains(&cpu) {
                        return Err(format!(
                            "no CPU {cpu} for this process; choose among {}",
                            list_of(usable)
                        ));
                    }
                    ids.push(cpu);
                }
                Ok(ids)
            }
        }
    }
}

/// Returns ascending CPU numbers in the form of `--cores`: `0-3,6`.
fn list_of(ids: &[usize]) -> String {
    list(ids.chunk_by(|one, next| one + 1 == *next).filter_map(|run| Some((*run.first()?, *run.last()?))))
}

/// Returns ranges, by their first and last CPU, in the form of `--cores`.
fn list(ranges: impl Iterator<Item = (usize, usize)>) -> String {
    let shown = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.map(shown).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
