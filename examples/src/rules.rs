//! Rate-limit rules: one document for each service, and the file that holds the documents of many.
//!
//! A document that decodes is right: every type checks itself while it is read, so that a fault
//! carries the place where it stands. The config manager refuses a wrong edit for the same reason,
//! and keeps the rules that it had.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use coord::key;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The rules of one service. The first rule that fits a request decides; where none fits, the
/// default does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `default` and `rules`")]
pub struct RateLimits {
    /// The limit for all requests that no rule fits.
    pub default: Limit,
    /// The rules, no two of one name.
    #[serde(deserialize_with = "rules_of_different_names")]
    pub rules: Vec<Rule>,
}

impl Default for RateLimits {
    /// What a service lives by until it has read its rules: little, but not nothing.
    fn default() -> Self {
        let few = Count(NonZeroU32::MIN.saturating_add(9));
        RateLimits { default: Limit { requests: few, per: Period::Second, burst: few }, rules: Vec::new() }
    }
}

/// So many requests in each period, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `requests`, `per` and `burst`")]
pub struct Limit {
    /// Requests in each period.
    pub requests: Count,
    /// The period.
    pub per: Period,
    /// Requests at once, after a pause.
    pub burst: Count,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a {}, {} at once", self.requests, self.per, self.burst)
    }
}

/// The limit of some requests, which all callers of the class share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object that is a rule")]
pub struct Rule {
    /// Its name, for people and for metrics.
    pub name: String,
    /// The paths that it is for.
    pub route: Route,
    /// The methods that it is for; all of them where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// The class of callers that it is for; all of them where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// Requests in each period.
    pub requests: Count,
    /// The period.
    pub per: Period,
    /// Requests at once, after a pause.
    pub burst: Count,
}

impl Rule {
    /// Its limit.
    pub fn limit(&self) -> Limit {
        Limit { requests: self.requests, per: self.per, burst: self.burst }
    }

    /// Whether it is for such a request.
    pub fn fits(&self, method: Method, path: &str, client: Client) -> bool {
        (self.methods.is_empty() || self.methods.contains(&method))
            && self.client.is_none_or(|class| class == client)
            && self.route.fits(path)
    }
}

/// The period of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// One second.
    Second,
    /// One minute.
    Minute,
    /// One hour.
    Hour,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Second => "second",
            Period::Minute => "minute",
            Period::Hour => "hour",
        })
    }
}

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `OPTIONS`
    Options,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Options => "OPTIONS",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        })
    }
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Nobody that we know.
    Anonymous,
    /// A user who is logged in.
    User,
    /// Another company's system.
    Partner,
    /// One of our own services.
    Internal,
}

/// A number of requests: 1 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Count(NonZeroU32);

impl Count {
    /// The most that there may be.
    pub const MAX: u32 = 1_000_000;

    /// So many, if it may be so many.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).filter(|number| number.get() <= Self::MAX).map(Count)
    }

    /// The number.
    pub fn get(self) -> NonZeroU32 {
        self.0
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor, and not `try_from`, because only what a visitor complains of carries its line.
        struct Numbers;

        impl Visitor<'_> for Numbers {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1 to 1,000,000")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                u32::try_from(number)
                    .ok()
                    .and_then(Count::new)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_u64(Numbers)
    }
}

/// A pattern for paths: `/v1/users/{user}` fits one segment for each name in braces, `/internal/*`
/// fits everything below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Route(String);

impl Route {
    /// The pattern, if it is one.
    pub fn new(pattern: &str) -> Option<Self> {
        let rest = pattern.strip_prefix('/')?;
        let (segments, last) =
            rest.rsplit_once('/').map_or((None, rest), |(segments, last)| (Some(segments), last));
        let plain = |segment: &str| !segment.is_empty() && !segment.contains('*');
        let good = segments.is_none_or(|segments| segments.split('/').all(plain))
            && (plain(last) || matches!(last, "*" | ""));
        good.then(|| Route(pattern.to_owned()))
    }

    /// Whether the pattern fits a path.
    pub fn fits(&self, path: &str) -> bool {
        let mut given = path.split('/');
        for wanted in self.0.split('/') {
            let Some(segment) = given.next() else { return false };
            if wanted == "*" {
                return true;
            }
            let any = wanted.starts_with('{') && wanted.ends_with('}') && !segment.is_empty();
            if !any && segment != wanted {
                return false;
            }
        }
        given.next().is_none()
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Patterns;

        impl Visitor<'_> for Patterns {
            type Value = Route;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path that begins with `/`, with names in braces, and `*` at most at its end")
            }

            fn visit_str<E: de::Error>(self, pattern: &str) -> Result<Route, E> {
                Route::new(pattern).ok_or_else(|| E::invalid_value(de::Unexpected::Str(pattern), &self))
            }
        }

        deserializer.deserialize_str(Patterns)
    }
}

fn rules_of_different_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    struct Rules;

    impl<'de> Visitor<'de> for Rules {
        type Value = Vec<Rule>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of rules")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Rule>, A::Error> {
            let mut rules: Vec<Rule> = Vec::new();
            while let Some(rule) = list.next_element::<Rule>()? {
                if rules.iter().any(|earlier| earlier.name == rule.name) {
                    return Err(de::Error::custom(format_args!(
                        "the rule before this place is the second one named `{}`",
                        rule.name
                    )));
                }
                rules.push(rule);
            }
            Ok(rules)
        }
    }

    deserializer.deserialize_seq(Rules)
}

/// A file with the rules of many services.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `services`")]
pub struct RuleFile {
    /// The rules by the service's name.
    #[serde(deserialize_with = "services_of_different_names")]
    pub services: BTreeMap<String, RateLimits>,
}

impl RuleFile {
    /// Reads a file and checks all of it.
    ///
    /// # Errors
    ///
    /// [`RuleFileError`] with the place of the first fault.
    pub fn read(path: &Path) -> Result<Self, RuleFileError> {
        let text = std::fs::read(path)
            .map_err(|source| RuleFileError::Unreadable { path: path.to_owned(), source })?;
        RuleFile::parse(path, &text)
    }

    /// Reads the text of the file `path` and checks all of it.
    ///
    /// # Errors
    ///
    /// [`RuleFileError`] with the place of the first fault.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, RuleFileError> {
        let wrong = |field: String, fault: &serde_json::Error| {
            // The place is told apart from the message, in the form that editors and terminals know
            // how to jump to.
            let message = fault.to_string();
            let message =
                message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
            RuleFileError::Wrong {
                path: path.to_owned(),
                line: fault.line(),
                column: fault.column(),
                field,
                message,
            }
        };
        let mut json = serde_json::Deserializer::from_slice(text);
        let file: RuleFile = serde_path_to_error::deserialize(&mut json)
            .map_err(|fault| wrong(fault.path().to_string(), fault.inner()))?;
        json.end().map_err(|fault| wrong(".".to_owned(), &fault))?;
        Ok(file)
    }

    /// How many rules there are, over all services.
    pub fn rule_count(&self) -> usize {
        self.services.values().map(|limits| limits.rules.len()).sum()
    }
}

/// Why a rules file was refused. Nothing of it is used then.
#[derive(Debug, thiserror::Error)]
pub enum RuleFileError {
    /// It could not be read.
    #[error("{}: the file cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something wrong.
    #[error("{}:{line}:{column}: {field}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The way to the field from the top of the document.
        field: String,
        /// What is wrong there.
        message: String,
    },
}

fn services_of_different_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, RateLimits>, D::Error> {
    struct Services;

    impl<'de> Visitor<'de> for Services {
        type Value = BTreeMap<String, RateLimits>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the rules of one service or more")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
            let mut services = BTreeMap::new();
            while let Some(name) = object.next_key::<String>()? {
                key::check_segment("rules", &name).map_err(|error| {
                    de::Error::custom(format_args!("the service's name is {}", error.message()))
                })?;
                if services.contains_key(&name) {
                    return Err(de::Error::custom(format_args!("a second service named `{name}`")));
                }
                let limits = object.next_value::<RateLimits>()?;
                services.insert(name, limits);
            }
            if services.is_empty() {
                return Err(de::Error::invalid_length(0, &self));
            }
            Ok(services)
        }
    }

    deserializer.deserialize_map(Services)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../data/ratelimit.json");

    fn fault(text: &str) -> String {
        RuleFile::parse(Path::new("rules.json"), text.as_bytes()).unwrap_err().to_string()
    }

    /// The good file with the first `from` after `after` replaced, and the line of it.
    fn broken(after: &str, from: &str, to: &str) -> (String, usize) {
        let start = GOOD.find(after).unwrap();
        let at = start + GOOD[start..].find(from).unwrap();
        let text = format!("{}{to}{}", &GOOD[..at], &GOOD[at + from.len()..]);
        (text, GOOD[..at].lines().count())
    }

    #[test]
    fn the_file_that_comes_with_the_example_is_good() {
        let file = RuleFile::parse(Path::new("rules.json"), GOOD.as_bytes()).unwrap();
        assert!(file.rule_count() >= 40, "{}", file.rule_count());
        assert!(file.services.len() >= 5);
    }

    #[test]
    fn a_document_comes_back_as_it_was_written() {
        let file = RuleFile::parse(Path::new("rules.json"), GOOD.as_bytes()).unwrap();
        for limits in file.services.values() {
            let text = serde_json::to_string(limits).unwrap();
            assert_eq!(&serde_json::from_str::<RateLimits>(&text).unwrap(), limits);
        }
    }

    #[test]
    fn a_fault_names_the_file_the_line_and_the_field() {
        for (after, from, to, field, message) in [
            (
                "\"login\"",
                "\"requests\": 20",
                "\"requests\": \"many\"",
                "services.user-service.rules[0].requests",
                "invalid type: string",
            ),
            (
                "\"login\"",
                "\"requests\": 20",
                "\"requests\": 0",
                "services.user-service.rules[0].requests",
                "1 to 1,000,000",
            ),
            (
                "\"login\"",
                "\"burst\": 4",
                "\"burst\": -4",
                "services.user-service.rules[0].burst",
                "1 to 1,000,000",
            ),
            (
                "\"login\"",
                "\"burst\": 4",
                "\"burst\": 1e9",
                "services.user-service.rules[0].burst",
                "1 to 1,000,000",
            ),
            (
                "\"export\"",
                "\"hour\"",
                "\"fortnight\"",
                "services.order-service.rules[7].per",
                "unknown variant",
            ),
            ("\"refund\"", "\"/v1/", "\"v1/", "services.payment-service.rules[4].route", "begins with"),
            (
                "\"refund\"",
                "\"POST\"",
                "\"post\"",
                "services.payment-service.rules[4].methods[0]",
                "unknown variant",
            ),
            (
                "\"search-user\"",
                "\"client\"",
                "\"clients\"",
                "services.search-service.rules[2].clients",
                "unknown field",
            ),
            (
                "\"suggest\"",
                ", \"burst\": 1600",
                "",
                "services.search-service.rules[0]",
                "missing field `burst`",
            ),
            ("\"gateway\"", "\"default\"", "\"fallback\"", "services.gateway.fallback", "unknown field"),
            (
                "\"metrics-others\"",
                "\"metrics-others\"",
                "\"metrics\"",
                "services.gateway.rules",
                "the rule before this place is the second one named `metrics`",
            ),
            (
                "\"user-service\"",
                "\"user-service\"",
                "\"gateway\"",
                "services",
                "a second service named `gateway`",
            ),
            ("\"user-service\"", "\"user-service\"", "\"..\"", "services", "the service's name is a segment"),
            ("\"websocket-open\"", " },", " }", "services.gateway.rules", "expected `,` or `]`"),
        ] {
            let (text, line) = broken(after, from, to);
            let fault = fault(&text);
            // A missing comma and a rule that is there twice show at what follows.
            let line = if message.starts_with("expected `,`") || message.starts_with("the rule before") {
                line + 1
            } else {
                line
            };
            assert!(fault.starts_with(&format!("rules.json:{line}:")), "line {line}: {fault}");
            assert!(
                fault.contains(&format!(": {field}")) && fault.contains(message),
                "{field}, {message}: {fault}"
            );
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (text, message) in [
            ("", "1:0: .: EOF"),
            ("[]", "expected an object with `services`"),
            ("{}", "missing field `services`"),
            ("{\"services\": {}}", "expected the rules of one service or more"),
            ("{\"services\": {\"\u{0}", "control character"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(message), "{text:?}: {fault}");
        }
        assert!(fault(&format!("{GOOD} x")).contains(": .: trailing characters"));
        assert!(RuleFile::parse(Path::new("rules.json"), b"{\"services\": {\"\xff\": 1}}").is_err());
        let missing = RuleFile::read(Path::new("no/such/file.json")).unwrap_err();
        assert!(missing.to_string().contains("no/such/file.json"), "{missing}");
    }

    #[test]
    fn a_route_fits_what_it_says() {
        for (pattern, path, fits) in [
            ("/", "/", true),
            ("/v1/users", "/v1/users", true),
            ("/v1/users", "/v1/users/7", false),
            ("/v1/users", "/v1", false),
            ("/v1/users/{user}", "/v1/users/7", true),
            ("/v1/users/{user}", "/v1/users/", false),
            ("/v1/users/{user}/cards", "/v1/users/7/cards", true),
            ("/internal/*", "/internal/a/b", true),
            ("/internal/*", "/other/a", false),
            ("/*", "/", true),
        ] {
            assert_eq!(Route::new(pattern).unwrap().fits(path), fits, "{pattern} {path}");
        }
        for bad in ["", "v1", "/a//b", "/a*", "/*/b", "/a/**"] {
            assert!(Route::new(bad).is_none(), "{bad}");
        }
    }
}
