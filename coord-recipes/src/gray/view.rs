//! Both keys at one revision, and what an instance has of them (R74).

use coord_api::store::{Entry, Op, Range, Span, Txn};
use coord_api::{ErrorKind, Result, Revision};
use coord_core::{Client, keys};

use super::record;
use super::targets::GrayIdentity;

/// What a read or a watch is about: keys of the base, and those of their releases.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) base: Span,
    pub(super) gray: Span,
}

impl Scope {
    /// One key.
    pub(super) fn key(key: &str) -> Self {
        Scope { base: Span::Key(keys::config(key)), gray: Span::Key(keys::config_gray(key)) }
    }

    /// All that lies in a directory.
    pub(super) fn directory(prefix: &str) -> Self {
        Scope {
            base: Span::Prefix(keys::config_directory(prefix)),
            gray: Span::Prefix(keys::config_gray_directory(prefix)),
        }
    }
}

/// Both at one revision, in byte order.
pub(super) struct Both {
    pub(super) revision: Revision,
    pub(super) base: Vec<Entry>,
    pub(super) gray: Vec<Entry>,
}

impl Both {
    /// Reads a scope: one key and its release are one request, a directory is two, and one more for
    /// each further thousand keys.
    pub(super) async fn read(client: &Client, scope: &Scope) -> Result<Self> {
        if let Span::Key(_) = scope.base {
            let both = [&scope.base, &scope.gray].map(|span| Op::Range(Range::new(span.clone())));
            let reply = client.store().txn(Txn { then: both.into(), ..Txn::new() }).await?;
            let found = |n| reply.try_range(n).map(|found| found.entries.clone());
            return Ok(Both { revision: reply.revision, base: found(0)?, gray: found(1)? });
        }
        loop {
            let gray = client.list(scope.gray.clone()).await?;
            if gray.revision == Revision::ZERO {
                // Nothing was ever written, and no revision can be named.
                return Ok(Both { revision: gray.revision, base: Vec::new(), gray: gray.entries });
            }
            match client.list_range(Range::new(scope.base.clone()).with_at(gray.revision)).await {
                Ok(base) => {
                    return Ok(Both { revision: gray.revision, base: base.entries, gray: gray.entries });
                }
                // The history under the two reads was compacted: a newer state is as good.
                Err(error) if error.kind() == ErrorKind::Compacted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What an instance has: the base, with the releases that are for it in its place.
    pub(super) fn of(self, instance: &GrayIdentity) -> Vec<Entry> {
        let mut entries = self.base;
        let released = self.gray.iter().filter(|entry| record::is_for(instance, entry));
        for entry in released.filter_map(record::seen) {
            match entries.binary_search_by(|other| other.key.cmp(&entry.key)) {
                Ok(found) => {
                    if let Some(base) = entries.get_mut(found) {
                        *base = entry;
                    }
                }
                Err(between) => entries.insert(between, entry),
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &'static str) -> Entry {
        let revision = Revision::new(7);
        Entry {
            key: key.to_owned().into(),
            value: value.into(),
            created: revision,
            modified: revision,
            lease: None,
        }
    }

    #[test]
    fn a_release_takes_the_place_of_the_base_for_those_whom_it_is_for() {
        let both = || Both {
            revision: Revision::new(7),
            base: vec![entry("/config/b", "base"), entry("/config/d", "base")],
            gray: vec![
                entry("/config-gray/a", "{\"targets\":{\"ids\":[\"me\"]}}\ngray"),
                entry("/config-gray/b", "{\"targets\":{\"ids\":[\"me\"]}}\ngray"),
                entry("/config-gray/c", "{\"targets\":{\"ids\":[\"you\"]}}\ngray"),
                entry("/config-gray/d", "garbage"),
                entry("/config-gray/e", "{\"targets\":{\"ids\":[\"me\"]}}\ngray"),
            ],
        };
        let of = |id: &str| {
            let found = both().of(&GrayIdentity::new(id)).into_iter();
            let told = found.map(|entry| {
                let key = String::from_utf8_lossy(&entry.key).into_owned();
                format!("{key} {}", String::from_utf8_lossy(&entry.value))
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(of("me"), ["/config/a gray", "/config/b gray", "/config/d base", "/config/e gray"]);
        assert_eq!(of("you"), ["/config/b base", "/config/c gray", "/config/d base"]);
        assert_eq!(of("other"), ["/config/b base", "/config/d base"]);
    }
}
