//! Documents from YAML and JSON, each with the place it came from.
//!
//! A file may hold several documents, and a document may be a List. Nothing is interpreted here but `apiVersion`, `kind`
//! and the object's name, which every message about an object carries.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Bytes of one file. A SidecarSet is bounded by 1.5 MiB in etcd; a file may hold a few.
pub const FILE_LIMIT: u64 = 16 << 20;

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it stands.
    pub origin: Origin,
    /// `apiVersion`; empty when absent.
    pub api_version: String,
    /// `kind`; empty when absent.
    pub kind: String,
    /// The whole object.
    pub value: Value,
}

/// Where an object came from, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// Kind and name, or the number of the document when it has none.
    pub object: String,
}

/// A file that cannot be read into documents.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Reading it.
    #[error("{}: cannot be read: {reason}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// It is larger than [`FILE_LIMIT`].
    #[error("{}: is {size} bytes, at most {FILE_LIMIT} are read", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size.
        size: u64,
    },
    /// It is no YAML or JSON.
    #[error("{}: {reason}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// What the parser says, on one line.
        reason: String,
    },
}

/// The documents of a file; JSON by the ending `.json`, else YAML.
pub fn read_file(file: &Path) -> Result<Vec<Document>, ManifestError> {
    let wrong = |reason| ManifestError::Read { file: file.to_owned(), reason };
    let size = std::fs::metadata(file).map_err(wrong)?.len();
    if size > FILE_LIMIT {
        return Err(ManifestError::TooLarge { file: file.to_owned(), size });
    }
    let text = std::fs::read_to_string(file).map_err(wrong)?;
    parse(&text, file)
}

/// The documents of a text that came from `file`.
pub fn parse(text: &str, file: &Path) -> Result<Vec<Document>, ManifestError> {
    let is_json = file.extension().is_some_and(|ending| ending == "json");
    let values = if is_json { parse_json(text) } else { parse_yaml(text) };
    let values = values.map_err(|reason| ManifestError::Syntax { file: file.to_owned(), reason: one_line(&reason) })?;
    let mut documents = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        match value {
            Value::Null => {}
            Value::Object(mut list) if is_list(&list) => {
                let items = list.remove("items").and_then(|items| match items {
                    Value::Array(items) => Some(items),
                    _ => None,
                });
                let item_kind = list.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
                for (item, mut value) in items.unwrap_or_default().into_iter().enumerate() {
                    inherit(&mut value, &list, item_kind);
                    documents.push(Document::new(value, file, &format!("document {}, item {}", index + 1, item + 1)));
                }
            }
            value => documents.push(Document::new(value, file, &format!("document {}", index + 1))),
        }
    }
    Ok(documents)
}

fn parse_json(text: &str) -> Result<Vec<Value>, String> {
    serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn parse_yaml(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| error.to_string())
}

fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    object.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
        && object.contains_key("items")
}

/// Items of a typed list, such as a SidecarSetList, may lack what the list says for all.
fn inherit(item: &mut Value, list: &serde_json::Map<String, Value>, kind: Option<&str>) {
    let (Some(item), Some(kind)) = (item.as_object_mut(), kind.filter(|kind| !kind.is_empty())) else { return };
    if let Some(version) = list.get("apiVersion") {
        item.entry("apiVersion").or_insert_with(|| version.clone());
    }
    item.entry("kind").or_insert_with(|| Value::String(kind.to_owned()));
}

/// A parser's message without line breaks and drawings, so that one error stays one line.
pub fn one_line(text: &str) -> String {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    first.to_owned()
}

// === impl Document ===

impl Document {
    fn new(value: Value, file: &Path, place: &str) -> Self {
        let text = |member: &Value| member.as_str().unwrap_or_default().to_owned();
        let kind = text(&value["kind"]);
        let name = [&value["metadata"]["name"], &value["metadata"]["generateName"]].map(text);
        let name = name.into_iter().find(|name| !name.is_empty());
        let object = match (kind.as_str(), name) {
            ("", None) => place.to_owned(),
            (kind, None) => format!("{kind} without a name ({place})"),
            ("", Some(name)) => format!("{name} ({place})"),
            (kind, Some(name)) => format!("{kind} {name}"),
        };
        Self { origin: Origin { file: file.to_owned(), object }, api_version: text(&value["apiVersion"]), kind, value }
    }

    /// Group of the object; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, file: &str) -> Vec<String> {
        parse(text, Path::new(file)).unwrap().into_iter().map(|document| document.origin.to_string()).collect()
    }

    #[test]
    fn a_yaml_file_may_hold_several_documents() {
        let text = "kind: A\nmetadata: {name: x}\n---\n# nothing\n---\nkind: B\n---\n{}\n";
        assert_eq!(
            names(text, "f.yaml"),
            ["f.yaml: A x", "f.yaml: B without a name (document 2)", "f.yaml: document 3"]
        );
    }

    #[test]
    fn a_json_file_may_hold_several_documents() {
        assert_eq!(names(r#"{"kind":"A"} {"kind":"B","metadata":{"name":"y"}}"#, "f.json").len(), 2);
    }

    #[test]
    fn the_items_of_a_list_are_documents() {
        let text =
            r#"{"apiVersion":"apps.kruise.io/v1beta1","kind":"SidecarSetList","items":[{"metadata":{"name":"x"}}]}"#;
        let documents = parse(text, Path::new("f.json")).unwrap();
        assert_eq!((documents[0].kind.as_str(), documents[0].group()), ("SidecarSet", "apps.kruise.io"));
    }

    #[test]
    fn a_chain_says_the_reason_once() {
        let error = read_file(Path::new("/nowhere/f.yaml")).unwrap_err();
        let once = error.to_string();
        assert_eq!(format!("{:#}", anyhow::Error::from(error)), once);
    }

    #[test]
    fn an_error_stays_on_one_line_and_names_the_file() {
        let error = parse("a: [1,\nb: }", Path::new("dir/f.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("dir/f.yaml: ") && !error.contains('\n'), "{error}");
    }
}
