//! A cluster of nodes with real NATS servers, which `scripts/nats` starts: what was answered 200 is seen by everybody,
//! once and in one order, whatever is killed, stopped, parted or slow meanwhile.
//!
//! `ESPER_TEST_CLUSTER=<minutes> cargo test --test e2e cluster::long -- --nocapture` goes on with faults at random for so
//! long, and `ESPER_SIM_SEED` repeats their order.

mod clocks;
mod faults;
mod keys;
mod load;
mod logins;
mod long;
mod lost;
mod model;
mod network;
mod page;
mod reasons;
mod replies;
mod sessions;
mod starts;
mod world;

use std::time::Duration;

/// How long anything is waited for before a test fails: elections, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// A seed, which is printed.
fn seed() -> u64 {
    let given = std::env::var("ESPER_SIM_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("ESPER_SIM_SEED={seed}");
    seed
}
