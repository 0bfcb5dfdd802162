//! What would happen to a pod and why, in words.
//!
//! Nothing is decided here: verdicts come from `sidecarset::select`, facts from the rules that acted (design decision 3).

pub mod live;

use std::fmt;

use crate::facts::Fact;
use crate::sidecarset::select::{Namespace, Verdict};

/// The explanation of one pod.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// What the pod is called in messages.
    pub pod: String,
    /// The namespace it was judged in.
    pub namespace: Namespace<'a>,
    /// Every SidecarSet with its verdict; those that apply come in the order of injection.
    pub verdicts: Vec<(&'a str, Verdict<'a>)>,
    /// What was done, or why the pod is refused.
    pub result: Result<Vec<Fact>, String>,
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in namespace {}", self.pod, self.namespace.name)?;
        if self.namespace.labels.is_none() {
            write!(f, " (of which nothing is known: no Namespace object among the manifests)")?;
        }
        writeln!(f)?;
        if self.verdicts.is_empty() {
            writeln!(f, "  there are no SidecarSets")?;
        }
        let width = self.verdicts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, verdict) in &self.verdicts {
            writeln!(f, "  SidecarSet {name:width$}  {verdict}")?;
        }
        match &self.result {
            Err(refusal) => writeln!(f, "  REFUSED: {refusal}"),
            Ok(facts) if facts.is_empty() => writeln!(f, "  the pod stays as it is"),
            Ok(facts) => {
                writeln!(f, "  what the pod gets:")?;
                write_grouped(f, facts)
            }
        }
    }
}

/// Each injected container with its details below it, then everything else.
fn write_grouped(f: &mut fmt::Formatter<'_>, facts: &[Fact]) -> fmt::Result {
    let mut injected = Vec::new();
    for fact in facts {
        let Fact::Container { name, .. } = fact else { continue };
        write_fact(f, "    ", fact)?;
        if injected.contains(&name.as_str()) {
            continue;
        }
        injected.push(name);
        for detail in facts.iter().filter(|detail| detail.container() == Some(name)) {
            write_fact(f, "        ", detail)?;
        }
    }
    let is_told = |fact: &Fact| {
        matches!(fact, Fact::Container { .. }) || fact.container().is_some_and(|name| injected.contains(&name))
    };
    facts.iter().filter(|fact| !is_told(fact)).try_for_each(|fact| write_fact(f, "    ", fact))
}

fn write_fact(f: &mut fmt::Formatter<'_>, indent: &str, fact: &Fact) -> fmt::Result {
    let mark = if fact.is_warning() { "!" } else { "-" };
    writeln!(f, "{indent}{mark} {fact}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{EnvOrigin, Placed};

    fn container(name: &str) -> Fact {
        let (set, name) = ("mesh".to_owned(), name.to_owned());
        Fact::Container { set, list: "containers", entry: 0, name, placed: Placed::Before }
    }

    fn env(container: &str, name: &str) -> Fact {
        Fact::Env { container: container.to_owned(), name: name.to_owned(), origin: EnvOrigin::Own }
    }

    #[test]
    fn the_details_of_a_container_stand_below_it() {
        let facts = vec![
            env("a", "A"),
            env("b", "B"),
            container("a"),
            container("b"),
            Fact::PullSecret { set: "mesh".to_owned(), name: "key".to_owned() },
            Fact::Barrier { container: "a".to_owned(), priority: 1 },
            Fact::Barrier { container: "app".to_owned(), priority: 0 },
        ];
        let explanation = Explanation {
            pod: "Pod web".to_owned(),
            namespace: Namespace { name: "shop", labels: Some(&std::collections::BTreeMap::new()) },
            verdicts: vec![("mesh", Verdict::Selected)],
            result: Ok(facts),
        };
        let expected = "\
Pod web in namespace shop
  SidecarSet mesh  applies
  what the pod gets:
    - container a: from SidecarSet mesh, spec.containers[0], put before the pod's own
        - env A of a: the SidecarSet's own
        - env KRUISE_CONTAINER_BARRIER of a: launch priority 1
    - container b: from SidecarSet mesh, spec.containers[0], put before the pod's own
        - env B of b: the SidecarSet's own
    - imagePullSecret key: from SidecarSet mesh
    - env KRUISE_CONTAINER_BARRIER of app: launch priority 0
";
        assert_eq!(explanation.to_string(), expected);
    }
}
