//! Sessions: a user on a channel, and the topics that carry what is emitted to one user or to all.

use thiserror::Error;

use crate::core::topic::{Topic, TopicHasher};

/// Most bytes of a user's or a channel's name.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// What is a name instead of a user's and means all: everybody on a channel.
pub(crate) const ALL: &str = "*";

/// A user on a channel. Both names are any text of 1 to 128 bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Session {
    user: Box<str>,
    channel: Box<str>,
}

/// Why a name is refused. `Display` is the one line for the person who sent it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{field} has {bytes} bytes: write 1 to {NAME_BYTES_MAX}")]
pub(crate) struct NameError {
    /// `userId` or `channel`.
    pub(crate) field: &'static str,
    /// How long it is.
    pub(crate) bytes: usize,
}

impl Session {
    /// Checks both names.
    ///
    /// # Errors
    /// The first that is empty or too long.
    pub(crate) fn new(user: &str, channel: &str) -> Result<Self, NameError> {
        for (field, name) in [("userId", user), ("channel", channel)] {
            if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
                return Err(NameError { field, bytes: name.len() });
            }
        }
        Ok(Session { user: user.into(), channel: channel.into() })
    }

    /// Returns the session whose stream takes this topic last; none when it is another's.
    pub(crate) fn of_topic(topic: &Topic) -> Option<Self> {
        let (channel, user) = topic.session_names()?;
        Some(Session { user: user.unwrap_or(ALL).into(), channel: channel.into() })
    }

    /// The user's name; [`ALL`] is everybody.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The channel's name.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Both names, as the admin page shows them and is asked for them.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.channel, self.user)
    }

    /// Where what is emitted to all on the channel is published.
    pub(crate) fn topic_of_all(&self, hasher: &TopicHasher) -> Topic {
        Topic::of_session(&self.channel, None, hasher)
    }

    /// Where what is emitted to this user is published: the channel's own topic for [`ALL`].
    pub(crate) fn topic(&self, hasher: &TopicHasher) -> Topic {
        Topic::of_session(&self.channel, Some(&*self.user).filter(|user| *user != ALL), hasher)
    }
}

#[cfg(test)]
mod tests;
