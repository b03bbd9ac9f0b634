//! Values that are not shown.
//!
//! It rather hides too much: what is hidden here can still be read with the rights of the store.

use serde_json::Value;

/// Stands for a value that is not shown.
pub(crate) const HIDDEN: &str = "«hidden»";

/// What of a configuration is secret.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    /// As [`folded`].
    names: Vec<String>,
}

impl Secrets {
    pub(crate) fn new(names: &[String]) -> Self {
        let names = names.iter().map(|name| folded(name)).filter(|name| !name.is_empty());
        Secrets { names: names.collect() }
    }

    /// Whether the value of a field of this name is secret.
    pub(crate) fn is_secret(&self, field: &str) -> bool {
        let field = folded(field);
        self.names.iter().any(|name| field.contains(name.as_str()))
    }

    /// Whether a document is secret as a whole: its key says so.
    pub(crate) fn is_secret_key(&self, key: &str) -> bool {
        self.is_secret(key.rsplit('/').next().unwrap_or(key))
    }

    /// Hides what is secret within a value, and says how much that is.
    pub(crate) fn hide(&self, value: &mut Value) -> usize {
        match value {
            Value::Object(fields) => fields
                .iter_mut()
                .map(|(name, value)| if self.is_secret(name) { hide_all(value) } else { self.hide(value) })
                .sum(),
            Value::Array(items) => items.iter_mut().map(|item| self.hide(item)).sum(),
            Value::String(text) => self.hide_in_text(text),
            _ => 0,
        }
    }

    /// What a text says otherwise than by fields: a password in a URL, or a document within it.
    pub(crate) fn hide_in_text(&self, text: &mut String) -> usize {
        if let Some(shown) = without_password(text) {
            *text = shown;
            return 1;
        }
        let assigns = text.contains(':') || text.contains('=');
        if assigns && self.is_secret(text) {
            HIDDEN.clone_into(text);
            return 1;
        }
        0
    }

    /// Puts what is hidden in `new` back as it is in `old`: what somebody was not shown, and leaves
    /// as it is.
    ///
    /// # Errors
    ///
    /// The JSON pointer of something that says it is hidden, and is not in `old`.
    pub(crate) fn restore(&self, new: &mut Value, old: Option<&Value>) -> Result<(), String> {
        let mut shown = old.cloned();
        if let Some(shown) = &mut shown {
            self.hide(shown);
        }
        restore(new, old, shown.as_ref(), &mut String::new())
    }
}

/// Hides a value whatever it is, so that not even its shape shows.
pub(crate) fn hide_all(value: &mut Value) -> usize {
    // That there is nothing is no secret.
    if value.is_null() {
        return 0;
    }
    *value = Value::String(HIDDEN.to_owned());
    1
}

fn restore<'a>(
    new: &mut Value,
    old: Option<&'a Value>,
    shown: Option<&'a Value>,
    path: &mut String,
) -> Result<(), String> {
    let length = path.len();
    match new {
        Value::String(text) if text.contains(HIDDEN) => match (old, shown) {
            // It is as it was shown.
            (Some(old), Some(Value::String(shown))) if text == shown => {
                *new = old.clone();
                Ok(())
            }
            _ => Err(path.clone()),
        },
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, value)| {
            path.push('/');
            path.push_str(&name.replace('~', "~0").replace('/', "~1"));
            let within = |of: Option<&'a Value>| of.and_then(|of| of.get(name));
            restore(value, within(old), within(shown), path)?;
            path.truncate(length);
            Ok(())
        }),
        Value::Array(items) => items.iter_mut().enumerate().try_for_each(|(n, value)| {
            path.push('/');
            path.push_str(&n.to_string());
            let within = |of: Option<&'a Value>| of.and_then(|of| of.get(n));
            restore(value, within(old), within(shown), path)?;
            path.truncate(length);
            Ok(())
        }),
        _ => Ok(()),
    }
}

/// A name whatever its case and the way in which its words are joined.
fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | ' ' | '.')).flat_map(char::to_lowercase).collect()
}

/// A text without the passwords of the URLs in it; `None` where there are none.
fn without_password(text: &str) -> Option<String> {
    let mut shown = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''));
        let authority = after.get(..end.unwrap_or(after.len())).unwrap_or(after);
        // A password may hold an `@` that nobody has escaped.
        let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
        match (password, authority.rsplit_once('@')) {
            (Some((user, password)), Some((_, host))) if !password.is_empty() => {
                shown.push_str(user);
                shown.push(':');
                shown.push_str(HIDDEN);
                shown.push('@');
                shown.push_str(host);
                found = true;
            }
            _ => shown.push_str(authority),
        }
        rest = after.get(authority.len()..).unwrap_or_default();
    }
    shown.push_str(rest);
    found.then_some(shown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::options::UiOptions;

    fn secrets() -> Secrets {
        Secrets::new(&UiOptions::default().secret_fields)
    }

    fn hidden(mut value: Value) -> (Value, usize) {
        let count = secrets().hide(&mut value);
        (value, count)
    }

    #[test]
    fn what_a_secret_field_holds_is_hidden_whatever_it_is_and_how_it_is_spelled() {
        let shown = json!({ "user": "ann", "port": 5432, "nothing": null });
        assert_eq!(hidden(shown.clone()), (shown, 0));
        for name in
            ["password", "PASSWORD", "db_password", "clientSecret", "api-key", "ACCESS_TOKEN", "private.key"]
        {
            for value in [json!("x"), json!(7), json!({ "a": "x" }), json!(["x"]), json!(true)] {
                let within = json!({ "a": [{ name: value }] });
                assert_eq!(hidden(within), (json!({ "a": [{ name: HIDDEN }] }), 1), "{name}");
            }
        }
        assert_eq!(hidden(json!({ "password": null })), (json!({ "password": null }), 0));
    }

    #[test]
    fn a_text_hides_passwords_of_urls_and_documents_that_name_a_secret() {
        for (text, shown) in [
            ("postgres://ann:pw@h:5432/db", "postgres://ann:«hidden»@h:5432/db"),
            ("redis://:p@ss@h", "redis://:«hidden»@h"),
            ("a://u:p@h, b://v:q@i/x?y=1", "a://u:«hidden»@h, b://v:«hidden»@i/x?y=1"),
            ("https://h/a:b@c", "https://h/a:b@c"),
            ("https://ann@h/", "https://ann@h/"),
            ("password = hunter2", HIDDEN),
            ("{\"password\":\"hunter2\"}", HIDDEN),
            ("Reset your password here", "Reset your password here"),
            ("://", "://"),
        ] {
            let (found, count) = hidden(json!(text));
            assert_eq!((found, count), (json!(shown), usize::from(text != shown)), "{text}");
        }
        assert!(secrets().is_secret_key("dev/shop/db_password"));
        assert!(!secrets().is_secret_key("dev/secret-service/limits"));
    }

    #[test]
    fn what_was_hidden_and_left_alone_stays_as_it_was() {
        let old =
            json!({ "url": "a://u:p@h", "db": { "password": "pw", "pool": 4 }, "list": [{ "token": 1 }] });
        let (mut new, count) = hidden(old.clone());
        assert_eq!(count, 3);
        new["db"]["pool"] = json!(8);
        secrets().restore(&mut new, Some(&old)).unwrap();
        let mut expected = old.clone();
        expected["db"]["pool"] = json!(8);
        assert_eq!(new, expected);

        let mut typed = json!({ "db": { "password": "other" } });
        secrets().restore(&mut typed, Some(&old)).unwrap();
        assert_eq!(typed, json!({ "db": { "password": "other" } }));

        for (mut wrong, path) in [
            (json!({ "a/b": HIDDEN }), "/a~1b"),
            (json!({ "db": { "pool": HIDDEN } }), "/db/pool"),
            (json!({ "list": [0, { "token": HIDDEN }] }), "/list/1/token"),
            (json!({ "url": "a://u:«hidden»@other" }), "/url"),
            (json!(HIDDEN), ""),
        ] {
            assert_eq!(secrets().restore(&mut wrong, Some(&old)), Err(path.to_owned()));
        }
        assert!(
            secrets().restore(&mut json!({ "password": HIDDEN }), None).is_err(),
            "there is nothing to restore"
        );
    }
}
