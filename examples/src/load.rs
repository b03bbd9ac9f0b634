//! Bringing a rules file into the config centre.

use std::collections::BTreeMap;

use coord::{ConfigCenter, ConfigCenterExt, Error, ErrorKind, Result, Value, Version, key};

use crate::rules::{RateLimits, RuleFile};

/// The key of a service's rules in the config centre.
pub fn rules_key(environment: &str, service: &str) -> String {
    format!("{environment}/{service}/ratelimit")
}

/// What to do with rules that the store holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave them: someone may have edited them since.
    Keep,
    /// Put those of the file in their place.
    Replace,
}

/// What became of a service's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// They are in the store now.
    Written(Version),
    /// The same ones were there.
    Same(Version),
    /// Others were there, and were left.
    Kept(Version),
}

/// Brings the rules of all services into the config centre and says what became of each.
///
/// Everything is checked and encoded before the first write, so that a file with a fault changes
/// nothing. Each write is a compare-and-set (R12): an edit that somebody makes at this very moment
/// is never overwritten unseen.
///
/// # Errors
///
/// `InvalidArgument` or `Codec`, before any write; `Conflict` when someone edited the rules of a
/// service meanwhile. If the store fails half-way, the services before that one, in the order of
/// their names, have their rules; loading the file again completes the work.
pub async fn load(
    config: &dyn ConfigCenter,
    environment: &str,
    file: &RuleFile,
    existing: Existing,
) -> Result<BTreeMap<String, Loaded>> {
    const OPERATION: &str = "rules.load";
    let mut encoded = Vec::with_capacity(file.services.len());
    for (service, limits) in &file.services {
        let path = rules_key(environment, service);
        key::check(OPERATION, &path)?;
        let text =
            serde_json::to_vec(limits).map_err(|fault| Error::json(OPERATION, "RateLimits", &fault))?;
        key::check_value(OPERATION, &text)?;
        encoded.push((service, path, limits, Value::from(text)));
    }

    let mut loaded = BTreeMap::new();
    for (service, path, limits, text) in encoded {
        let found = config.get_raw(&path).await?;
        let outcome = match found {
            Some(found)
                if serde_json::from_slice::<RateLimits>(&found.value).is_ok_and(|found| found == *limits) =>
            {
                Loaded::Same(found.version)
            }
            Some(found) if existing == Existing::Keep => Loaded::Kept(found.version),
            found => {
                let seen = found.map_or(Version::ZERO, |found| found.version);
                Loaded::Written(config.compare_and_set_raw(&path, text, seen).await?)
            }
        };
        loaded.insert(service.clone(), outcome);
    }
    Ok(loaded)
}

/// Changes the rules of a service, and repeats that for as long as others change them at the same
/// time.
///
/// # Errors
///
/// `InvalidArgument` when the service has no rules; those of the config centre.
pub async fn edit(
    config: &dyn ConfigCenter,
    environment: &str,
    service: &str,
    mut change: impl FnMut(&mut RateLimits) + Send,
) -> Result<Version> {
    let path = rules_key(environment, service);
    loop {
        let Some(found) = config.get_with_version::<RateLimits>(&path).await? else {
            return Err(Error::invalid_argument("rules.edit", "the service has no rules"));
        };
        let mut limits = found.value;
        change(&mut limits);
        match config.compare_and_set(&path, &limits, found.version).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            settled => return settled,
        }
    }
}
