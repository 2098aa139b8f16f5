//! What is sent for each topic: a path, and the body of a publish, with the topic's name filled in.

/// A path with the topic's name in it.
#[derive(Clone, Debug)]
pub(crate) struct PathTemplate(String);

impl PathTemplate {
    /// The value of `flag`; the error is one line for the person who gave it.
    pub(crate) fn parse(flag: &str, text: &str) -> Result<PathTemplate, String> {
        if !text.starts_with('/') || text.contains([' ', '\r', '\n', '#']) {
            return Err(format!("{flag} {text:?} is no path; write it as /subscribe/{{topic}}"));
        }
        Ok(PathTemplate(text.to_owned()))
    }

    /// The path of `topic`.
    pub(crate) fn of(&self, topic: &str) -> String {
        self.0.replace("{topic}", topic)
    }
}

/// What stands before and after the payload in the body of a publish.
#[derive(Clone, Debug)]
pub(crate) struct BodyTemplate {
    before: String,
    after: String,
}

impl BodyTemplate {
    /// The value of `--publish-body`, in which `\n` is a line end.
    pub(crate) fn parse(text: &str) -> Result<BodyTemplate, String> {
        let text = text.replace("\\n", "\n");
        match text.split("{data}").collect::<Vec<_>>()[..] {
            [before, after] => Ok(BodyTemplate { before: before.to_owned(), after: after.to_owned() }),
            _ => {
                Err(r"--publish-body must hold {data} exactly once; write it as 'data:{data}\n\n'".to_owned())
            }
        }
    }

    /// Both parts for `topic`.
    pub(crate) fn of(&self, topic: &str) -> (String, String) {
        (self.before.replace("{topic}", topic), self.after.replace("{topic}", topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_name_its_topic() {
        let body = BodyTemplate::parse(r"topic={topic}&data={data}\n").unwrap();
        assert_eq!(body.of("abc"), ("topic=abc&data=".to_owned(), "\n".to_owned()));
    }
}
