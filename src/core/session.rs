//! Sessions: a user on a channel, and the topics that carry what is emitted to one user or to all.

use thiserror::Error;

use crate::core::topic::{Topic, TopicHasher};

/// Most bytes of the name of a user or a channel.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// The user name that stands for everybody on a channel.
pub(crate) const ALL: &str = "*";

/// A user on a channel. Both names are any text of 1 to 128 bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Session {
    user: Box<str>,
    channel: Box<str>,
}

/// The reason why a name is refused. `Display` is the one line for the person who sent it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{field} has {bytes} bytes: write 1 to {NAME_BYTES_MAX}")]
pub(crate) struct NameError {
    /// `userId` or `channel`.
    pub(crate) field: &'static str,
    /// The length of the name.
    pub(crate) bytes: usize,
}

impl Session {
    /// Returns the session of these names, checked.
    ///
    /// Names the first one that is empty or too long.
    pub(crate) fn new(user: &str, channel: &str) -> Result<Self, NameError> {
        for (field, name) in [("userId", user), ("channel", channel)] {
            if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
                return Err(NameError { field, bytes: name.len() });
            }
        }
        Ok(Session { user: user.into(), channel: channel.into() })
    }

    /// Returns the session of a stream whose last topic is `topic`; `None` if that is no session's topic.
    pub(crate) fn of_topic(topic: &Topic) -> Option<Self> {
        let (channel, user) = topic.session_names()?;
        Some(Session { user: user.unwrap_or(ALL).into(), channel: channel.into() })
    }

    /// Returns the user's name; [`ALL`] is everybody.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Returns the channel's name.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Returns both names as `channel/user`, as the admin page shows and queries them.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.channel, self.user)
    }

    /// Returns the topic of emits to everybody on the channel.
    pub(crate) fn topic_of_all(&self, hasher: &TopicHasher) -> Topic {
        Topic::of_session(&self.channel, None, hasher)
    }

    /// Returns the topic of emits to this user; for [`ALL`] the channel's own topic.
    pub(crate) fn topic(&self, hasher: &TopicHasher) -> Topic {
        Topic::of_session(&self.channel, Some(&*self.user).filter(|user| *user != ALL), hasher)
    }
}

#[cfg(test)]
mod tests;
