//! A rule, and the document that says it.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::bucket::{SECOND, Ticks};

/// The longest time in which an empty bucket may be full again.
const LONGEST_FILL: Duration = Duration::from_secs(366 * 24 * 3_600);

/// How much is admitted, and by whom it is shared.
///
/// As a document it is JSON:
///
/// ```json
/// { "rate": 100, "per": "second", "burst": 200, "scope": "cluster", "strict": false }
/// ```
///
/// | field | values | where it is left out |
/// |---|---|---|
/// | `rate` | requests in each `per`: 1 to 1,000,000 | it must be there |
/// | `per` | `second`, `minute`, `hour`, `day` | `second` |
/// | `burst` | requests at once, after a pause: 1 to 1,000,000, and what comes back within 366 days at most | as `rate` |
/// | `scope` | [`instance`](LimitScope::Instance), [`cluster`](LimitScope::Cluster), [`exact`](LimitScope::Exact) | `instance` |
/// | `strict` | whether an instance that is cut off from the registry admits nothing by its share; of scopes `cluster` and `exact` only | `false` |
///
/// A rule holds no secret: where its document is refused, what is wrong there is shown.
///
/// # Examples
///
/// ```
/// use coord_service::ratelimit::{LimitRule, LimitScope};
///
/// let rule = LimitRule::per_second(100).with_burst(200).with_scope(LimitScope::Cluster);
/// let text = serde_json::to_string(&rule).unwrap();
/// assert_eq!(LimitRule::parse(&text), Ok(rule));
///
/// let fault = LimitRule::parse("{\n  \"rate\": \"many\"\n}").unwrap_err();
/// assert_eq!((fault.line(), fault.field()), (2, Some("rate")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitRule {
    rate: u32,
    per: Per,
    burst: u32,
    scope: LimitScope,
    #[serde(skip_serializing_if = "is_false")]
    strict: bool,
}

/// The period of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// One second.
    #[default]
    Second,
    /// One minute.
    Minute,
    /// One hour.
    Hour,
    /// 24 hours.
    Day,
}

impl Per {
    /// How long it is.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds())
    }

    fn seconds(self) -> u64 {
        match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3_600,
            Per::Day => 24 * 3_600,
        }
    }

    pub(super) fn ticks(self) -> Ticks {
        self.seconds() * SECOND
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Per::Second => "second",
            Per::Minute => "minute",
            Per::Hour => "hour",
            Per::Day => "day",
        })
    }
}

/// By whom a limit is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LimitScope {
    /// By nobody: each instance has all of it.
    #[default]
    Instance,
    /// By the live instances of the service: each has its part, and none asks another (R69).
    Cluster,
    /// By all instances, to the last request: a server that all of them use decides (R70). Where
    /// it does not answer, or the caller does not wait, as [`Cluster`](Self::Cluster).
    Exact,
}

impl LimitScope {
    /// Whether it goes by the instance's part of the limit, or may have to.
    pub(super) fn is_shared(self) -> bool {
        self != LimitScope::Instance
    }
}

impl LimitRule {
    /// The greatest rate, and the greatest burst.
    pub const MAX: u32 = 1_000_000;

    /// So many requests in each period, all of them at once after a pause, for each instance.
    ///
    /// It is checked where it is used, by [`check`](Self::check).
    pub fn new(rate: u32, per: Per) -> Self {
        LimitRule { rate, per, burst: rate, scope: LimitScope::Instance, strict: false }
    }

    /// So many requests in each second.
    pub fn per_second(rate: u32) -> Self {
        LimitRule::new(rate, Per::Second)
    }

    /// Sets how many requests are admitted at once, after a pause.
    #[must_use]
    pub fn with_burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }

    /// Sets by whom the limit is shared.
    #[must_use]
    pub fn with_scope(mut self, scope: LimitScope) -> Self {
        self.scope = scope;
        self
    }

    /// Sets whether an instance that is cut off from the registry admits nothing by its share of
    /// the limit (R69). Else it keeps its share.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Requests in each period.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// The period.
    pub fn per(&self) -> Per {
        self.per
    }

    /// Requests at once, after a pause.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// By whom the limit is shared.
    pub fn scope(&self) -> LimitScope {
        self.scope
    }

    /// Whether an instance that is cut off admits nothing by its share.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Checks what every rule is checked for before it is used.
    ///
    /// # Errors
    ///
    /// Which field is wrong, and why. The fault has no place, for there is no text.
    pub fn check(&self) -> Result<(), RuleFault> {
        let wrong =
            |field, message: String| Err(RuleFault { line: 0, column: 0, field: Some(field), message });
        for (field, number) in [("rate", self.rate), ("burst", self.burst)] {
            if !(1..=Self::MAX).contains(&number) {
                return wrong(field, format!("{number} is not from 1 to 1,000,000"));
            }
        }
        let fill = u64::from(self.burst) * self.per.seconds() / u64::from(self.rate);
        if fill > LONGEST_FILL.as_secs() {
            let days = fill / (24 * 3_600);
            return wrong("burst", format!("it would take {days} days to come back, and 366 are the most"));
        }
        if self.strict && !self.scope.is_shared() {
            return wrong("strict", "a limit of scope `instance` has no share that could end".to_owned());
        }
        Ok(())
    }

    /// Reads a document and checks it.
    ///
    /// # Errors
    ///
    /// What is wrong, with its line, its column and, where it is about one, its field.
    pub fn parse(text: &str) -> Result<Self, RuleFault> {
        let document = Document { text };
        if !text.trim_start().starts_with('{') {
            return Err(document.fault(0, None, "a rule is an object with `rate`".to_owned()));
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| RuleFault {
            line: error.line(),
            column: error.column(),
            field: None,
            message: message_of(&error),
        })?;
        let rate = document.field("rate", fields.rate)?;
        let Some(rate) = rate else {
            return Err(document.fault(text.len(), Some("rate"), "it is missing".to_owned()));
        };
        let rule = LimitRule {
            rate,
            per: document.field("per", fields.per)?.unwrap_or_default(),
            burst: document.field("burst", fields.burst)?.unwrap_or(rate),
            scope: document.field("scope", fields.scope)?.unwrap_or_default(),
            strict: document.field("strict", fields.strict)?.unwrap_or_default(),
        };
        rule.check().map_err(|fault| {
            let value = match fault.field {
                Some("burst") => fields.burst.or(fields.rate),
                Some("strict") => fields.strict,
                _ => fields.rate,
            };
            let at = value.map_or(text.len(), |value| document.offset(value));
            document.fault(at, fault.field, fault.message)
        })?;
        Ok(rule)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl fmt::Display for LimitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a {}, {} at once", self.rate, self.per, self.burst)?;
        match self.scope {
            LimitScope::Instance => f.write_str(", each instance"),
            LimitScope::Cluster => f.write_str(", all instances"),
            LimitScope::Exact => f.write_str(", all instances exactly"),
        }
    }
}

impl<'de> Deserialize<'de> for LimitRule {
    /// From JSON alone: the fault carries its place in the text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        LimitRule::parse(text.get()).map_err(de::Error::custom)
    }
}

/// What is wrong with a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RuleFault {
    line: usize,
    column: usize,
    field: Option<&'static str>,
    message: String,
}

impl RuleFault {
    /// The line of the document, from 1; zero where there is no document. White space before the
    /// document is not counted.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column of that line, from 1; zero where there is no document.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The field, where it is about one.
    pub fn field(&self) -> Option<&'static str> {
        self.field
    }

    /// What is wrong there.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if let Some(field) = self.field {
            write!(f, "`{field}`: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The fields as they stand in the text, so that each knows its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    rate: Option<&'a RawValue>,
    #[serde(borrow)]
    per: Option<&'a RawValue>,
    #[serde(borrow)]
    burst: Option<&'a RawValue>,
    #[serde(borrow)]
    scope: Option<&'a RawValue>,
    #[serde(borrow)]
    strict: Option<&'a RawValue>,
}

struct Document<'a> {
    text: &'a str,
}

impl Document<'_> {
    fn field<'a, T: Deserialize<'a>>(
        &self,
        field: &'static str,
        value: Option<&'a RawValue>,
    ) -> Result<Option<T>, RuleFault> {
        let Some(value) = value else { return Ok(None) };
        serde_json::from_str(value.get())
            .map(Some)
            .map_err(|error| self.fault(self.offset(value), Some(field), message_of(&error)))
    }

    /// Where a part of the text begins.
    fn offset(&self, value: &RawValue) -> usize {
        (value.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    fn fault(&self, at: usize, field: Option<&'static str>, message: String) -> RuleFault {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        RuleFault { line, column, field, message }
    }
}

/// The message without its place, which is told apart.
fn message_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned()
}

/// What lies under a rule's key: it is always read, so that what is wrong with it can be told with
/// its field.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleDocument(Option<Result<LimitRule, RuleFault>>);

impl RuleDocument {
    /// Whether it may be used.
    pub(super) fn check(&self) -> Result<(), RuleFault> {
        match &self.0 {
            Some(Err(fault)) => Err(fault.clone()),
            _ => Ok(()),
        }
    }

    /// The rule; `None` where there is no document.
    pub(super) fn rule(&self) -> Option<LimitRule> {
        self.0.as_ref().and_then(|rule| rule.as_ref().ok().copied())
    }
}

impl<'de> Deserialize<'de> for RuleDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(RuleDocument(Some(LimitRule::parse(text.get()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_as_it_was_written() {
        for rule in [
            LimitRule::per_second(5),
            LimitRule::new(5, Per::Day).with_burst(7).with_scope(LimitScope::Exact).with_strict(true),
            LimitRule::new(1_000_000, Per::Hour).with_scope(LimitScope::Cluster),
        ] {
            let text = serde_json::to_string(&rule).unwrap();
            assert_eq!(LimitRule::parse(&text).unwrap(), rule);
            assert_eq!(serde_json::from_str::<LimitRule>(&text).unwrap(), rule);
        }
        assert_eq!(LimitRule::parse("{\"rate\": 5}").unwrap(), LimitRule::per_second(5));
    }

    #[test]
    fn a_fault_names_the_line_and_the_field() {
        for (text, place, field, message) in [
            ("{\n\"rate\": \"many\"}", (2, 9), Some("rate"), "invalid type: string \"many\""),
            ("{\n \"rate\": 0}", (2, 10), Some("rate"), "0 is not from 1 to 1,000,000"),
            ("{\"rate\": 1000001}", (1, 10), Some("rate"), "1000001 is not from 1"),
            ("{\"rate\": -1}", (1, 10), Some("rate"), "invalid value: integer `-1`"),
            ("{\"rate\": 1.5}", (1, 10), Some("rate"), "invalid type: floating point"),
            ("{\"rate\": 1,\n\n \"burst\": 0}", (3, 11), Some("burst"), "0 is not from 1"),
            ("{\"rate\": 1,\n\"per\": \"fortnight\"}", (2, 8), Some("per"), "unknown variant `fortnight`"),
            ("{\"rate\": 1,\n\"scope\": \"all\"}", (2, 10), Some("scope"), "unknown variant `all`"),
            ("{\"rate\": 1,\n\"strict\": 1}", (2, 11), Some("strict"), "invalid type: integer `1`"),
            ("{\"rate\": 1,\n\"strict\": true}", (2, 11), Some("strict"), "no share that could end"),
            (
                "{\"rate\": 1, \"per\": \"day\",\n\"burst\": 400}",
                (2, 10),
                Some("burst"),
                "it would take 400 days to come back",
            ),
            ("{\n\"burst\": 5\n}", (3, 2), Some("rate"), "it is missing"),
            ("{\"rate\": 1,\n\"brust\": 5}", (2, 7), None, "unknown field `brust`"),
            ("{\"rate\": 1,\n\"rate\": 5}", (2, 6), None, "duplicate field `rate`"),
            ("{\"rate\": 1,\n}", (2, 1), None, "trailing comma"),
            ("[1]", (1, 1), None, "a rule is an object"),
            ("null", (1, 1), None, "a rule is an object"),
            ("", (1, 1), None, "a rule is an object"),
        ] {
            let fault = LimitRule::parse(text).unwrap_err();
            assert!(fault.message().contains(message), "{text}: {fault}");
            assert_eq!(fault.field(), field, "{text}: {fault}");
            assert_eq!((fault.line(), fault.column()), place, "{text}: {fault}");
        }
    }

    #[test]
    fn a_fault_of_a_rule_from_code_has_a_field_and_no_place() {
        let fault = LimitRule::per_second(0).check().unwrap_err();
        assert_eq!(fault.to_string(), "`rate`: 0 is not from 1 to 1,000,000");
        let fault = LimitRule::parse("{\"rate\": 0}").unwrap_err();
        assert_eq!(fault.to_string(), "line 1, column 10: `rate`: 0 is not from 1 to 1,000,000");
    }

    #[test]
    fn a_document_is_read_whatever_it_says() {
        let wrong: RuleDocument = serde_json::from_str("{\"rate\": 0}").unwrap();
        assert!(wrong.check().is_err() && wrong.rule().is_none());
        let good: RuleDocument = serde_json::from_str("{\"rate\": 3}").unwrap();
        assert_eq!((good.check(), good.rule()), (Ok(()), Some(LimitRule::per_second(3))));
        assert_eq!((RuleDocument::default().check(), RuleDocument::default().rule()), (Ok(()), None));
    }
}
