//! Objects from a directory of manifests, for standalone mode and for a pipeline.
//!
//! SidecarSets are judged in the order of file names and of documents in a file, as if applied one after the other.
//! Namespaces, ConfigMaps and ControllerRevisions are there before the first of them, wherever they stand.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Objects;
use crate::api::names;
use crate::manifest::{self, Document, Origin};
use crate::sidecarset::validate::Problem;

/// How many files a directory may hold.
const FILES_LIMIT: usize = 10_000;

/// A directory that was read.
#[derive(Debug)]
pub struct Loaded {
    /// The objects that are in order.
    pub objects: Objects,
    /// What is wrong with the others.
    pub errors: Vec<Notice>,
    /// What is legal, but likely not what was meant.
    pub warnings: Vec<Notice>,
    /// Jobs that pull images, in the order of the files. Pods do not depend on them.
    pub jobs: Vec<Document>,
}

/// One line about an object or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The file and the object in it, if it is about one.
    pub place: String,
    /// The field and what is wrong with it.
    pub message: String,
}

/// Reads all `*.yaml`, `*.yml` and `*.json` files of `directory`.
pub fn load(directory: &Path, operator_namespace: &str) -> Loaded {
    let mut loaded = Loaded {
        objects: Objects::new(operator_namespace),
        errors: Vec::new(),
        warnings: Vec::new(),
        jobs: Vec::new(),
    };
    let documents = match files(directory) {
        Ok(files) => loaded.read(&files),
        Err(notice) => {
            loaded.errors.push(notice);
            Vec::new()
        }
    };
    loaded.note_replaced(&documents);
    let (sets, rest): (Vec<Document>, Vec<Document>) =
        documents.into_iter().partition(|document| document.group() == names::GROUP && document.kind == "SidecarSet");
    for document in rest {
        if document.group() == names::GROUP && matches!(&*document.kind, "ImagePullJob" | "ImageListPullJob") {
            loaded.jobs.push(document);
        } else {
            loaded.apply(&document);
        }
    }
    for set in sets {
        let findings = loaded.objects.apply_sidecarset(set.value);
        loaded.errors.extend(findings.errors.iter().map(|problem| Notice::about(&set.origin, problem)));
        loaded.warnings.extend(findings.warnings.iter().map(|problem| Notice::about(&set.origin, problem)));
    }
    loaded
}

/// The files of a directory that are read, in order.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>, Notice> {
    let wrong = |error: std::io::Error| Notice {
        place: directory.display().to_string(),
        message: format!("the directory cannot be read: {error}"),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let is_manifest =
            path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json");
        // The kubelet puts mounted files behind symlinks, so the target counts; a hidden file is an editor's.
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_manifest && !is_hidden && path.is_file() {
            files.push(path);
        }
    }
    if files.len() > FILES_LIMIT {
        let message = format!("holds {} manifests, at most {FILES_LIMIT} are read", files.len());
        return Err(Notice { place: directory.display().to_string(), message });
    }
    files.sort();
    Ok(files)
}

// === impl Loaded ===

impl Loaded {
    fn read(&mut self, files: &[PathBuf]) -> Vec<Document> {
        let mut documents = Vec::new();
        for file in files {
            match manifest::read_file(file) {
                Ok(found) => documents.extend(found),
                Err(error) => {
                    let place = file.display().to_string();
                    let text = error.to_string();
                    let message = text.strip_prefix(&format!("{place}: ")).unwrap_or(&text).to_owned();
                    self.errors.push(Notice { place, message });
                }
            }
        }
        documents
    }

    /// An object that stands twice is applied twice, as `kubectl apply` would; in files that is rarely meant.
    fn note_replaced(&mut self, documents: &[Document]) {
        let mut seen = BTreeMap::new();
        for document in documents {
            let metadata = &document.value["metadata"];
            let operators = self.objects.operator_namespace();
            let is_applied = match (document.group(), document.kind.as_str()) {
                (names::GROUP, "SidecarSet") | ("", "Namespace") => true,
                ("", "ConfigMap") | ("apps", "ControllerRevision") => {
                    metadata["namespace"].as_str().is_none_or(|namespace| namespace == operators)
                }
                _ => false,
            };
            if !is_applied || metadata["name"].as_str().is_none_or(str::is_empty) {
                continue;
            }
            if let Some(before) = seen.insert(&document.origin.object, &document.origin) {
                let message = format!("replaces the one of the same name in {}", before.file.display());
                self.warnings.push(Notice { place: document.origin.to_string(), message });
            }
        }
    }

    /// Applies an object that is not a SidecarSet.
    fn apply(&mut self, document: &Document) {
        let value = &document.value;
        let applied = match (document.group(), document.kind.as_str()) {
            ("", "Namespace") => self.objects.apply_namespace(value),
            ("", "ConfigMap") => self.objects.apply_config_map(value),
            ("apps", "ControllerRevision") => self.objects.apply_revision(value),
            (_, "") => Err(Problem {
                field: "kind".to_owned(),
                message: "every document needs apiVersion and kind".to_owned(),
            }),
            (_, kind) if kind.eq_ignore_ascii_case("sidecarset") || kind.eq_ignore_ascii_case("sidecarsets") => {
                let message = format!(
                    "{kind:?} of {:?} is not a kind; a SidecarSet has kind SidecarSet and apiVersion {} or {}",
                    document.api_version,
                    names::V1BETA1,
                    names::V1ALPHA1
                );
                Err(Problem { field: "kind".to_owned(), message })
            }
            (_, kind) => {
                let message = format!("{kind} of {} is of no use here and is ignored", document.api_version);
                self.warnings.push(Notice { place: document.origin.to_string(), message });
                Ok(())
            }
        };
        if let Err(problem) = applied {
            self.errors.push(Notice::about(&document.origin, &problem));
        }
    }
}

// === impl Notice ===

impl Notice {
    /// About an object.
    pub fn about(origin: &Origin, problem: &Problem) -> Self {
        Self { place: origin.to_string(), message: problem.to_string() }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One notice is one line, whatever an object's name holds.
        let line = format!("{}: {}", self.place, self.message);
        write!(f, "{}", line.replace(['\n', '\r'], " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let loaded = load(directory.path(), names::DEFAULT_NAMESPACE);
        let prefix = format!("{}/", directory.path().display());
        loaded.warnings.iter().map(|notice| notice.to_string().replace(&prefix, "")).collect()
    }

    fn namespace(name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
    }

    fn config_map(namespace: &str) -> String {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kruise-configuration, namespace: {namespace}}}\n---\n"
        )
    }

    #[test]
    fn an_object_that_replaces_one_of_its_name_is_told() {
        let files = [("a.yaml", namespace("x") + &namespace("y")), ("b.yaml", namespace("x"))];
        assert_eq!(
            warnings(&files.each_ref().map(|(name, text)| (*name, text.as_str()))),
            ["b.yaml: Namespace x: replaces the one of the same name in a.yaml"]
        );
    }

    #[test]
    fn a_sidecarset_that_replaces_one_of_its_name_is_told() {
        let set = "apiVersion: apps.kruise.io/v1beta1\nkind: SidecarSet\nmetadata: {name: a}\nspec: {}\n";
        assert_eq!(
            warnings(&[("a.yaml", set), ("b.yaml", set)]),
            ["b.yaml: SidecarSet a: replaces the one of the same name in a.yaml"]
        );
    }

    #[test]
    fn objects_of_other_namespaces_replace_nothing() {
        let text = config_map("a") + &config_map("b") + &config_map("a");
        assert_eq!(warnings(&[("a.yaml", &text)]), [""; 0]);
        let text = config_map(names::DEFAULT_NAMESPACE).repeat(2);
        assert_eq!(
            warnings(&[("a.yaml", &text)]),
            ["a.yaml: ConfigMap kruise-configuration: replaces the one of the same name in a.yaml"]
        );
    }

    #[test]
    fn a_misspelt_member_is_told_with_its_place() {
        let set = "apiVersion: apps.kruise.io/v1beta1\nkind: SidecarSet\nmetadata: {name: a}\nspec: {selektor: {}}\n";
        assert_eq!(
            warnings(&[("a.yaml", set)]),
            ["a.yaml: SidecarSet a: spec.selektor: is not known and has no effect"]
        );
    }
}
