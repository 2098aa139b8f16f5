//! Features that a build has or lacks.

use super::*;

/// A build without a client says so, and takes the flags all the same.
#[test]
fn what_this_build_lacks_is_refused_with_the_feature_and_nothing_else_is() {
    assert_eq!(unflagged().check_features(), Ok(()));
    for (line, is_built, said) in [
        (
            WITH_BROKER,
            cfg!(feature = "amqp"),
            "--broker-node (Config::queues): this esper was built without the feature amqp",
        ),
        (
            WITH_CLUSTER,
            cfg!(feature = "nats"),
            "--cluster (Config::cluster): this esper was built without the feature nats",
        ),
    ] {
        let config = parse(line, &[]).unwrap();
        assert_eq!(config.check(), Ok(()), "{line}");
        let refusal = config.check_features().err();
        assert_eq!(refusal.is_none(), is_built, "{line}: {refusal:?}");
        assert!(
            refusal.is_none_or(|refusal| refusal.starts_with(said) && refusal.contains("--features")),
            "{line}"
        );
    }
}
