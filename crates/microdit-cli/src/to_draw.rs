//! What `microdit eval` draws: prompts of a file, or captions of the reference.

use crate::{advice::OrAdvise, say};
use microdit_eval::{
    evaluate::{Against, captions},
    prompts::{Prompt, Suite, coco::checksum},
};
use miette::miette;
use std::path::Path;

/// Prompts, and what GenEval says of them.
pub(crate) struct ToDraw {
    /// One each, at most as many as pictures.
    pub(crate) prompts: Vec<String>,
    /// Of a suite of GenEval's, the same with their objects.
    pub(crate) geneval: Option<Vec<Prompt>>,
}

impl ToDraw {
    /// The first `samples` prompts of `file` or, without one, as many captions of the reference.
    pub(crate) fn of(
        file: Option<&Path>,
        against: Option<&Against>,
        samples: usize,
    ) -> miette::Result<Self> {
        let Some(file) = file else {
            let Some(Against::Pictures(set)) = against else {
                return Err(miette!(
                    help = "give --prompts FILE, or a --reference of captioned images",
                    "nothing to draw"
                ));
            };
            return Ok(Self {
                prompts: captions(set, samples).or_advise()?,
                geneval: None,
            });
        };
        let kind = Suite::of(file, samples);
        let mut suite = kind.read(file).or_advise()?;
        if suite.len() > samples {
            say!("the first {samples} of {} prompts are drawn", suite.len());
        }
        suite.truncate(samples);
        if let Suite::Coco(_) = kind {
            say!(
                "{} captions of COCO, of which everybody draws the same first ones: sha256 {}",
                suite.len(),
                checksum(&suite)
            );
        }
        Ok(Self {
            prompts: suite.iter().map(|prompt| prompt.text.clone()).collect(),
            geneval: (kind == Suite::GenEval).then_some(suite),
        })
    }
}
