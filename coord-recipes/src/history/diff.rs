//! What changed between two documents.

use std::fmt;

use serde_json::Value;

/// A place in which two documents say something else.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// Where, as a JSON pointer (RFC 6901); empty for the whole document.
    pub path: String,
    /// What was there; `None` where nothing was.
    pub before: Option<Value>,
    /// What is there; `None` where nothing is.
    pub after: Option<Value>,
}

impl Difference {
    /// The places in which two documents say something else, in order. Lists of other lengths
    /// differ where they differ, and at their end.
    pub fn between(before: &Value, after: &Value) -> Vec<Self> {
        let mut found = Vec::new();
        compare(&mut String::new(), Some(before), Some(after), &mut found);
        found
    }
}

impl fmt::Debug for Difference {
    /// Never shows the values: configuration holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Difference")
            .field("path", &self.path)
            .field("before", &self.before.is_some())
            .field("after", &self.after.is_some())
            .finish()
    }
}

/// As deep as the documents are, which are read to a bounded depth.
fn compare(path: &mut String, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Difference>) {
    match (before, after) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let segment = key.replace('~', "~0").replace('/', "~1");
                within(path, &segment, |path| compare(path, one.get(key), other.get(key), found));
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for n in 0..one.len().max(other.len()) {
                within(path, &n.to_string(), |path| compare(path, one.get(n), other.get(n), found));
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            found.push(Difference { path: path.clone(), before: before.cloned(), after: after.cloned() })
        }
    }
}

/// Does work one segment further down.
fn within(path: &mut String, segment: &str, work: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(segment);
    work(path);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(before: &Value, after: &Value) -> Vec<String> {
        Difference::between(before, after).into_iter().map(|difference| difference.path).collect()
    }

    #[test]
    fn each_place_is_told_by_its_path() {
        let before = json!({"a": 1, "b": {"c": [1, 2], "d/~": true}, "same": null, "gone": 0});
        let after = json!({"a": 2, "b": {"c": [1, 3, 4], "d/~": false}, "same": null, "new": 0});
        assert_eq!(paths(&before, &after), ["/a", "/b/c/1", "/b/c/2", "/b/d~1~0", "/gone", "/new"]);
        assert_eq!(paths(&before, &before), Vec::<String>::new());
        assert_eq!(paths(&json!(1), &json!([1])), [""]);
        assert_eq!(paths(&json!({}), &json!([])), [""]);
    }

    #[test]
    fn what_came_and_what_went_are_told_apart() {
        let told = Difference::between(&json!({"a": null}), &json!({"b": null}));
        assert_eq!(told[0], Difference { path: "/a".to_owned(), before: Some(Value::Null), after: None });
        assert_eq!(told[1], Difference { path: "/b".to_owned(), before: None, after: Some(Value::Null) });
        assert!(!format!("{:?}", Difference::between(&json!("secret"), &json!(1))).contains("secret"));
    }
}
