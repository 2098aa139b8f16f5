//! The process's command line without secrets, as it may be shown.

use std::ffi::OsString;

/// Returns the arguments of this process, the program's name first, with `***` for secrets and brokers' credentials.
pub(super) fn command_line() -> Vec<String> {
    masked(std::env::args_os())
}

/// Replaces the credentials of URLs in a text by `***`.
pub(super) fn without_credentials(text: &str) -> String {
    text.split_inclusive(|c: char| c.is_whitespace() || c == '\'').map(masked_word).collect()
}

/// Replaces the text between `://` and the last `@` by `***`.
fn masked_word(word: &str) -> String {
    let credentials =
        word.split_once("://").and_then(|(before, after)| after.rfind('@').map(|at| (before, &after[at..])));
    credentials.map_or_else(|| word.to_owned(), |(before, host)| format!("{before}://***{host}"))
}

fn masked(args: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut is_secret = false;
    args.map(|arg| {
        let arg = arg.to_string_lossy();
        if std::mem::take(&mut is_secret) {
            return "***".to_owned();
        }
        let (name, value) = arg.split_once('=').map_or((&*arg, None), |(name, value)| (name, Some(value)));
        if !["--session-secret", "--secret", "-secret"].contains(&name) {
            // The whole argument is one word, even with spaces in it.
            return masked_word(&arg);
        }
        is_secret = value.is_none();
        value.map_or_else(|| name.to_owned(), |_| format!("{name}=***"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_shown_without_secrets() {
        for (line, shown) in [
            ("esper --port 3000 -c", "esper --port 3000 -c"),
            ("esper --session-secret hunter2 --port 1", "esper --session-secret *** --port 1"),
            ("esper --secret=hunter2=x -secret hunter2", "esper --secret=*** -secret ***"),
            ("esper -secret=hunter2 -secret", "esper -secret=*** -secret"),
            ("esper --broker-node amqp://guest:hunter2@h:1/v", "esper --broker-node amqp://***@h:1/v"),
            ("esper --broker-node=amqps://hunter2@hunter2@h", "esper --broker-node=amqps://***@h"),
            ("esper --broker-node=amqp://a:hunter2@h,amqp://b:hunter2@i", "esper --broker-node=amqp://***@i"),
            (
                "esper --broker-node amqp://h/ --cors-origin https://a",
                "esper --broker-node amqp://h/ --cors-origin https://a",
            ),
        ] {
            let args = line.split(' ').map(OsString::from);
            assert_eq!(masked(args).join(" "), shown);
        }
        let odd = masked(["esper", "--broker-node", "amqp://a:hunter 2'@h"].map(OsString::from).into_iter());
        assert_eq!(odd[2], "amqp://***@h");
    }

    #[test]
    fn a_text_is_shown_without_the_credentials_of_its_urls() {
        for (text, shown) in [
            ("none here: a@b", "none here: a@b"),
            ("unexpected argument 'amqp://a:b@h' found", "unexpected argument 'amqp://***@h' found"),
            ("amqp://a:b@h and amqps://c:d@i", "amqp://***@h and amqps://***@i"),
            ("https://a.example and x@y", "https://a.example and x@y"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}
