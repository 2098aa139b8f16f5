//! Canaries: bugs that show whether the simulation looks.

/// A bug put in on purpose, to see that the simulation finds it. None is ever put in outside of tests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// A newcomer's cursor starts in the middle of an open block.
    JoinWithoutSeal,
    /// A log is trimmed and those behind are not told.
    TrimUntold,
    /// A topic's new block wakes nobody.
    ForgottenWake,
    /// A stream of several gets publishers' own ids as they are.
    OwnIdLeftLast,
    /// Home is told that a topic is left which another channel still takes.
    LeaveWithOtherChannel,
}
