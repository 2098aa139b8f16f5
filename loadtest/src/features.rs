//! The parts that only some builds have, and the commands that build them.

/// The features, and whether this build has them.
const BUILT: [(&str, bool); 3] = [
    ("axum", cfg!(feature = "axum")),
    ("cluster", cfg!(feature = "cluster")),
    ("queues", cfg!(feature = "queues")),
];

/// Returns how to get a subcommand that this build was made without; nothing of any other.
pub(crate) fn left_out(subcommand: &str) -> Option<String> {
    without(subcommand, &BUILT)
}

/// Returns the line that says which feature something needs, and the command that builds it.
pub(crate) fn needed(what: &str, feature: &str) -> String {
    format!(
        "{what} needs the feature {feature}: cargo build --release --package esper-loadtest --features {feature}"
    )
}

fn without(subcommand: &str, built: &[(&str, bool)]) -> Option<String> {
    let feature = match subcommand {
        "serve-axum" => "axum",
        "consume" => "queues",
        other => other,
    };
    built.contains(&(feature, false)).then(|| needed(subcommand, feature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;

    #[test]
    fn what_a_build_lacks_is_named_with_its_feature_and_the_command_that_builds_it() {
        for (subcommand, feature) in [("queues", "queues"), ("cluster", "cluster"), ("serve-axum", "axum")] {
            let command = format!("cargo build --release --package esper-loadtest --features {feature}");
            let line = format!("{subcommand} needs the feature {feature}: {command}");
            assert_eq!(without(subcommand, &[(feature, false)]), Some(line));
            assert_eq!(without(subcommand, &[(feature, true)]), None);
            // In either build the subcommand is known.
            let refused = Cli::read([subcommand, "--no-such-flag"]).unwrap_err();
            assert!(!refused.contains("unrecognized subcommand"), "{refused}");
        }
        assert_eq!(left_out("run"), None);
    }
}
