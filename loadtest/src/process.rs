//! What the system tells of processes: the file limit of this one, CPU time and memory of the server.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but sockets: standard streams, epoll, /proc, the name look-up.
const OTHER_FILES: u64 = 32;

/// Raises the soft file limit to the hard one, and refuses what does not fit: so many sockets and threads.
pub(crate) fn make_room(subscribers: usize, publishers: usize, threads: usize) -> Result<(), String> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Refused in some containers: then the limit stays what it was, and that is what counts below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    fits(getrlimit(Resource::Nofile).current, subscribers as u64, publishers as u64, threads as u64)
}

fn fits(limit: Option<u64>, subscribers: u64, publishers: u64, threads: u64) -> Result<(), String> {
    let others = publishers + threads + OTHER_FILES;
    match limit {
        Some(limit) if subscribers + others > limit => Err(format!(
            "--subscribers {subscribers} do not fit: this process may open {limit} files, which is {} subscribers; raise \
             the hard limit (ulimit -Hn) or run several load generators",
            limit.saturating_sub(others)
        )),
        _ => Ok(()),
    }
}

/// CPU time and memory of a process and all it started, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time since it began.
    pub(crate) cpu_s: f64,
    pub(crate) rss_bytes: u64,
}

impl Usage {
    /// Returns that of process `pid` and those under it, because servers such as nginx do their work in children; `None`
    /// when there is no such process.
    pub(crate) fn now(pid: u32) -> Option<Usage> {
        let mut all = Usage::of(pid)?;
        for pid in tree(pid).into_iter().skip(1) {
            // One that ended meanwhile has its time with its parent's children, which nobody counts.
            let one = Usage::of(pid).unwrap_or_default();
            all = Usage { cpu_s: all.cpu_s + one.cpu_s, rss_bytes: all.rss_bytes + one.rss_bytes };
        }
        Some(all)
    }

    fn of(pid: u32) -> Option<Usage> {
        let ticks = cpu_ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let rss_bytes = rss_bytes(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
        let tick_s = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        // Nanoseconds of each thread; none where the kernel keeps no such statistics (`CONFIG_SCHED_INFO`).
        let threads = of_threads(pid, "schedstat").into_iter();
        let threads_s: Vec<_> =
            threads.filter_map(|ns| Some(ns.split(' ').next()?.parse::<u64>().ok()? as f64 / 1e9)).collect();
        let cpu_s = finer(ticks as f64 * tick_s, tick_s, &threads_s);
        Some(Usage { cpu_s, rss_bytes })
    }
}

/// Returns the CPU time of a process by its threads, which the kernel tells to the nanosecond, rather than by `counted_s`, which
/// it counts in ticks of 10 ms: of a server that does 100 publishes a second a run of some seconds is a few dozen ticks.
///
/// Threads that have ended are in the ticks alone: when these tell more than rounding can, they stand.
fn finer(counted_s: f64, tick_s: f64, threads_s: &[f64]) -> f64 {
    let threads_total_s: f64 = threads_s.iter().sum();
    // User and system time are each rounded down. More than the ticks say is what was used since they were read.
    let rounding_s = 2.0 * tick_s;
    if threads_s.is_empty() || counted_s - threads_total_s > rounding_s { counted_s } else { threads_total_s }
}

/// Returns the text of that file of each living thread; none where the kernel has no such file.
fn of_threads(pid: u32, file: &str) -> Vec<String> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join(file)).ok()).collect()
}

/// Returns the CPU time used by anybody on this machine since it started, in seconds, and taken from it by its host.
pub(crate) fn machine_busy_s() -> f64 {
    busy_ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
        / rustix::param::clock_ticks_per_second() as f64
}

/// Of all CPUs: user, nice, system, irq, softirq and steal, which is all but idle and iowait.
fn busy_ticks(stat: &str) -> f64 {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields = all.split_ascii_whitespace().map(|field| field.parse::<f64>().unwrap_or(0.0));
    fields.take(8).enumerate().filter(|(place, _)| ![3, 4].contains(place)).map(|(_, ticks)| ticks).sum()
}

/// Returns process `pid` and all under it, those above first.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children(pid));
        next += 1;
    }
    all
}

/// Returns the processes started by any thread of `pid`; none where the kernel does not tell.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    of_threads(pid, "children").join(" ").split_ascii_whitespace().flat_map(str::parse).collect()
}

/// utime and stime: fields 14 and 15, counted behind the name, which may hold spaces and parentheses itself.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        assert_eq!(fits(None, 1 << 40, 1, 1), Ok(()));
        assert_eq!(fits(Some(1_024), 990, 1, 1), Ok(()));
        let refusal = fits(Some(1_024), 991, 1, 1).unwrap_err();
        assert!(refusal.contains("990 subscribers"), "{refusal}");
    }

    #[test]
    fn a_process_name_cannot_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn threads_tell_the_time_unless_some_have_ended() {
        assert_eq!(finer(1.23, 0.01, &[1.0, 0.234_567_8]), 1.234_567_8);
        assert_eq!(finer(1.23, 0.01, &[1.0, 0.22]), 1.22, "within the rounding of the ticks");
        assert_eq!(finer(1.23, 0.01, &[1.0]), 1.23, "a thread has ended");
        assert_eq!(finer(1.23, 0.01, &[]), 1.23, "the kernel does not tell");
    }

    #[test]
    fn this_process_is_found_and_a_missing_one_is_not() {
        assert!(Usage::now(std::process::id()).unwrap().rss_bytes > 100_000);
        assert_eq!(Usage::now(u32::MAX), None);
    }

    #[test]
    fn waiting_does_not_count_as_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9"), 63.0);
    }

    #[test]
    fn what_a_process_started_counts_with_it() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let started = children(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(started.contains(&child.id()), "{started:?}");
    }
}
