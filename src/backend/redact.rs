//! Keeps names of queues out of the log: a queue's name may be a session's.

/// Returns a broker's text without the queue's name, which RabbitMQ quotes; without everything behind it where the text
/// was cut.
pub(crate) fn without_queue(said: &str) -> String {
    let Some((before, name)) = said.split_once("queue '") else { return said.to_owned() };
    let end = ["' in vhost", "': "].into_iter().find_map(|end| name.rfind(end));
    format!("{before}queue '***{}", end.map_or("", |end| &name[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_told_of_without_its_name() {
        for (said, told) in [
            ("no broker is reachable", "no broker is reachable"),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'secret' in vhost '/': received 1",
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue '***' in vhost '/': received 1",
            ),
            (
                "access to queue 'it's' in vhost 'mine' in vhost '/' refused",
                "access to queue '***' in vhost '/' refused",
            ),
            ("access to queue 'secret that was cut o", "access to queue '***"),
            (
                "cannot declare queue 'secret': queue limit in vhost '/' (1) is reached",
                "cannot declare queue '***': queue limit in vhost '/' (1) is reached",
            ),
        ] {
            assert_eq!(without_queue(said), told);
        }
    }
}
