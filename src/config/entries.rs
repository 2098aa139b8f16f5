//! What files say of flags, each with its place, and how what stands over a file takes its entries' place.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::values::Bind;

/// Where something stands in a file. `Display` is `/etc/esper/config.yml:3 queue.path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// The file's name, fit for a line of an error.
    pub(super) file: Arc<str>,
    /// Counted from 1.
    pub(super) line: usize,
    /// The key, with its section's before it.
    pub(super) key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.key)
    }
}

/// What a file says of one flag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// Values as the flag is given them, each with its line. None at all: the flag is not given, whatever a
    /// file below says.
    pub(super) values: Vec<(usize, String)>,
}

impl Entry {
    /// The place of one of its values.
    pub(super) fn place_of(&self, line: usize) -> Place {
        Place { line, ..self.place.clone() }
    }

    fn text(&self) -> Option<&str> {
        self.values.first().map(|(_, text)| text.as_str())
    }
}

/// What files say of flags, by the flags' names without dashes.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(BTreeMap<String, Entry>);

impl Entries {
    pub(super) fn get(&self, flag: &str) -> Option<&Entry> {
        self.0.get(flag)
    }

    /// The entry that was there.
    pub(super) fn insert(&mut self, flag: &str, entry: Entry) -> Option<Entry> {
        self.0.insert(flag.to_owned(), entry)
    }

    /// What `upper`, a later file, says stands over what is here.
    pub(super) fn overwrite(&mut self, upper: Entries) {
        self.give_way(&|flag| upper.get(flag).and_then(Entry::text).map(str::to_owned));
        self.0.extend(upper.0);
    }

    /// Takes out what something above says, in the same or in other words: `says` is the text it gives a
    /// flag.
    pub(super) fn give_way(&mut self, says: &dyn Fn(&str) -> Option<String>) {
        // An address may say a port, too. It stays where what stands over the address says none.
        let port_of = |bind: &str| bind.parse::<Bind>().ok()?.port;
        let port = says("bind").is_some_and(|bind| port_of(&bind).is_none()).then(|| self.port_of_bind());
        if let Some(entry) = port.flatten() {
            self.insert("port", entry);
        }
        self.0.retain(|flag, _| says(flag).is_none() && !synonyms(flag).any(|other| says(&other).is_some()));
        if says("bind").is_some_and(|bind| port_of(&bind).is_some()) {
            self.0.remove("port");
        }
        if says("port").is_some()
            && let Some((_, text)) = self.0.get_mut("bind").and_then(|bind| bind.values.first_mut())
            && let Ok(bind) = text.parse::<Bind>()
        {
            *text = bind.ip.to_string();
        }
    }

    /// What the address says of the port, if it does.
    fn port_of_bind(&self) -> Option<Entry> {
        let Entry { place, values } = self.get("bind")?;
        let (line, text) = values.first()?;
        let port = text.parse::<Bind>().ok()?.port?;
        Some(Entry { place: place.clone(), values: vec![(*line, port.to_string())] })
    }
}

/// Other flags that say what this one says: how many CPUs, or a secret that is no file's.
fn synonyms(flag: &str) -> impl Iterator<Item = String> {
    let cpus = match flag {
        "threads" => Some("cores".to_owned()),
        "cores" => Some("threads".to_owned()),
        _ => None,
    };
    let secret = flag.strip_suffix("-file").filter(|secret| secret.ends_with("-secret")).map(str::to_owned);
    // A later file that names the keys' file alone leaves the secret's: both sign.
    cpus.into_iter().chain(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(said: &[(&str, &str)]) -> Entries {
        let mut entries = Entries::default();
        for (flag, text) in said {
            let place = Place { file: "f".into(), line: 1, key: (*flag).to_owned() };
            let values = if *text == "null" { vec![] } else { vec![(1, (*text).to_owned())] };
            entries.insert(flag, Entry { place, values });
        }
        entries
    }

    fn shown(entries: &Entries) -> Vec<(&str, &str)> {
        entries.0.iter().map(|(flag, entry)| (flag.as_str(), entry.text().unwrap_or("null"))).collect()
    }

    #[test]
    fn a_later_file_stands_over_an_earlier_one_entry_by_entry_in_whatever_words() {
        for (lower, upper, both) in [
            (
                &[("port", "1"), ("threads", "2")][..],
                &[("port", "3")][..],
                &[("port", "3"), ("threads", "2")][..],
            ),
            (&[("threads", "1")], &[("cores", "2")], &[("cores", "2")]),
            (&[("cores", "1")], &[("threads", "2")], &[("threads", "2")]),
            (&[("cores", "1")], &[("threads", "null")], &[("cores", "1"), ("threads", "null")]),
            (&[("cores", "1")], &[("cores", "null")], &[("cores", "null")]),
            (&[("bind", "::1"), ("port", "1")], &[("bind", "[::]:2")], &[("bind", "[::]:2")]),
            (&[("bind", "::1"), ("port", "1")], &[("bind", "::")], &[("bind", "::"), ("port", "1")]),
            (&[("bind", "[::1]:1")], &[("port", "2")], &[("bind", "::1"), ("port", "2")]),
            (&[("bind", "[::]:2")], &[("bind", "::1")], &[("bind", "::1"), ("port", "2")]),
            (&[("bind", "[::]:2")], &[("bind", "::1"), ("port", "3")], &[("bind", "::1"), ("port", "3")]),
            (&[("bind", "[::]:2")], &[("bind", "null")], &[("bind", "null")]),
            (&[("bind", "nonsense")], &[("port", "2")], &[("bind", "nonsense"), ("port", "2")]),
        ] {
            let mut merged = entries(lower);
            merged.overwrite(entries(upper));
            assert_eq!(shown(&merged), both, "{lower:?} under {upper:?}");
        }
    }

    #[test]
    fn a_secret_of_a_variable_stands_over_a_file_that_a_file_names() {
        let named =
            [("control-token-file", "/c"), ("publisher-secret-file", "/p"), ("session-secret-file", "/s")];
        let mut merged = entries(&named);
        merged.give_way(&|flag| (flag == "session-secret").then(|| "s".to_owned()));
        assert_eq!(shown(&merged), named[..2]);
    }
}
