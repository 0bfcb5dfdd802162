//! What would happen to a pod and why, in words.
//!
//! Nothing is decided here: verdicts come from `sidecarset::select`, facts from the rules that acted (design decision 3).

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
                for fact in facts {
                    let mark = if fact.is_warning() { "!" } else { "-" };
                    writeln!(f, "    {mark} {fact}")?;
                }
                Ok(())
            }
        }
    }
}
