//! The review of an ImageListPullJob in, its answer out: defaulted on the one path, judged on the other (LIST-1).
//!
//! A list is judged by the rules of the jobs that are made of it. Differs: LIST-1. The reference lets in what these rules
//! refuse of each job, and the list then never gets one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::diff;
use super::envelope::Answer;
use super::object::{self, Kind, Verdict};
use super::pulljob::rules::{self, Template};
use crate::api::image::Familiar;
use crate::api::imagelist::ListPullJobSpec;
use crate::api::json::decode;
use crate::gates::Gates;
use crate::sidecarset::validate::report::{Report, quote};
use crate::sidecarset::validate::{Findings, Problem};

/// Images of one list (LIST-1).
const IMAGES: usize = 255;

/// The kind.
struct Lists;

impl Kind for Lists {
    const RESOURCE: &'static str = "imagelistpulljobs";
    const KIND: &'static str = "ImageListPullJob";
}

/// Answers a review with what defaulting adds (LIST-1).
pub fn mutate(body: &[u8]) -> Answer {
    object::answer::<Lists>(body, |sent| {
        let document = sent.served()?;
        read(&document)?;
        let after = defaulted(&document);
        Ok(Verdict::patched(diff::operations(&document, &document, &after)))
    })
}

/// Answers a review with whether the list may be stored (LIST-1, IPJ-6).
pub fn validate(body: &[u8], gates: Gates) -> Answer {
    object::answer::<Lists>(body, |sent| {
        let new = defaulted(&sent.served()?);
        let spec = read(&new)?;
        match sent.old() {
            None => {
                if let Some(why) = rules::switched_off(gates) {
                    return Ok(Verdict::Off(why));
                }
            }
            // What another let in must stay writable.
            Some(old) if defaulted(&old)["spec"] == new["spec"] => return Ok(Verdict::unchanged()),
            Some(_) => {}
        }
        Ok(rules::verdict(&judged(&new, &spec)))
    })
}

/// What is wrong with a list from a file.
pub fn judge(list: &Value) -> Result<Findings, Problem> {
    let list = defaulted(list);
    let spec = read(&list)?;
    Ok(judged(&list, &spec))
}

fn judged(list: &Value, spec: &ListPullJobSpec) -> Findings {
    let mut report = rules::report();
    check_images(&mut report, &spec.images);
    rules::check(&mut report, &Template::of_list(spec), &list["spec"]);
    report.into_findings()
}

fn check_images(report: &mut Report<'_>, images: &[String]) {
    let at = rules::spec().member("images");
    if images.is_empty() {
        report.error(&at, "is required; name at least one image");
    }
    if images.len() > IMAGES {
        report.error(&at, format!("has {} images, at most {IMAGES} may be; make several lists", images.len()));
        return;
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut known: BTreeMap<Familiar, usize> = BTreeMap::new();
    for (index, image) in images.iter().enumerate() {
        let at = at.item(index);
        rules::check_image(report, &at, image);
        if let Some(first) = seen.insert(image, index) {
            report.error(&at, format!("{} is spec.images[{first}] already; name each image once", quote(image)));
        } else if let Some(familiar) = Familiar::parse(image)
            && let Some(first) = known.insert(familiar, index)
        {
            report.warn(&at, format!("{} is the same image as spec.images[{first}]", quote(image)));
        }
    }
}

/// RSP-1.
fn read(list: &Value) -> Result<ListPullJobSpec, Problem> {
    match decode::<ListPullJobSpec>(&list["spec"]) {
        Ok((spec, _)) => Ok(spec),
        Err(error) => Err(rules::below_spec(error)),
    }
}

fn defaulted(list: &Value) -> Value {
    let mut after = list.clone();
    rules::fill(&mut after["spec"]);
    after
}

#[cfg(test)]
mod tests;
