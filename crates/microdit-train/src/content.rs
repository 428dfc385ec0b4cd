//! What the data of a recipe are, wherever they lie, and what its numbers were measured on: two runs of the same values can have been
//! trained on other data, or measured by losses that mean other things.

use crate::{
    error::TrainError,
    recipe::{Recipe, Stage},
    source::DataIdentity,
};
use std::collections::BTreeMap;

impl Recipe {
    /// The data its stages are trained on, looked at where they lie: number and bytes of the shards, and a checksum of what
    /// identifies them, for each stage that reads others than the one before it. Shards of the same names and contents are the
    /// same in any place, with an index beside them or without. Reads a few pieces of every shard.
    ///
    /// # Errors
    /// Shards that are not there or cannot be read.
    pub fn trained_on(&self) -> Result<String, TrainError> {
        self.require_shards()?;
        let mut found = Vec::new();
        let mut before: Option<&Stage> = None;
        for stage in &self.stages {
            if !before.is_some_and(|before| before.reads_what(stage)) {
                found.push(DataIdentity::of_stage(stage, false)?.to_string());
            }
            before = Some(stage);
        }
        Ok(found.join("; "))
    }

    /// Whether its stages read the same samples as those of `other`, by their places.
    pub fn reads_what(&self, other: &Self) -> bool {
        let mut both = self.stages.iter().zip(&other.stages);
        self.stages.len() == other.stages.len() && both.all(|(own, other)| own.reads_what(other))
    }

    /// The data its held-out loss is measured on, likewise; none if it measures none.
    ///
    /// # Errors
    /// Shards that are not there or cannot be read.
    pub fn held_out_on(&self) -> Result<Option<String>, TrainError> {
        let Some(evaluation) = &self.run.evaluation else {
            return Ok(None);
        };
        let shards = evaluation.shards.iter();
        let lists: Vec<(&str, f64)> = shards.map(|shards| (shards.as_str(), 1.0)).collect();
        let found = DataIdentity::of_lists(self.last_stage(), &lists, false)?;
        Ok(Some(found.to_string()))
    }

    /// What the meaning of its held-out loss depends on besides these data, by the keys of the recipe: the diffusion family with
    /// its constants, but for the density of noise levels in training; codec and size of images; number of samples and name of
    /// their caption. What is left as the family has it is not told. Losses of recipes that differ in one of these are not compared;
    /// without `evaluation` there is none.
    pub fn held_out_conditions(&self) -> Option<BTreeMap<String, String>> {
        let evaluation = self.run.evaluation.as_ref()?;
        let stage = self.last_stage();
        let mut conditions = stage.meaning_of_loss();
        conditions.insert("evaluation.samples".into(), evaluation.samples.to_string());
        if let Some(caption) = &evaluation.caption {
            conditions.insert("evaluation.caption".into(), caption.clone());
        }
        Some(conditions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::tiny;
    use std::{fs, path::Path};

    /// A shard at `path`: a tar's size is all that is looked at here, and its pieces.
    fn shard(path: &Path, fill: u8) -> String {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![fill; 10_240]).unwrap();
        path.display().to_string()
    }

    fn trained_on(shards: &str, held_out: &str) -> Recipe {
        let data = "data=Latents(image_size: 256, tokens: 7)";
        tiny(&[
            data,
            &format!("data.shards={shards}"),
            &format!("evaluation=(every: 2, samples: 8, shards: {held_out:?})"),
        ])
    }

    #[test]
    fn data_are_known_by_their_content_and_not_by_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let one = shard(&place("one/a.tar"), 1);
        let moved = shard(&place("two/a.tar"), 1);
        let other = shard(&place("three/a.tar"), 2);
        let content = |shards: &str| trained_on(shards, &one).trained_on().unwrap();
        // Both stages read the same, which is told once.
        let told = content(&one);
        assert!(told.starts_with("1 shards of 10240 bytes, "), "{told}");
        assert!(!told.contains(';'), "{told}");
        assert_eq!(content(&moved), told);
        assert_ne!(content(&other), told);
        // A copy may lack the index.
        let sha256 = "ab".repeat(32);
        let index = format!(
            r#"{{"samples":1,"bytes":10240,"rejected":{{}},"contents":{{}},"shards":[{{"file":"a.tar","samples":1,"bytes":10240,"sha256":"{sha256}","rejected":{{}}}}]}}"#
        );
        fs::write(place("two/shards.json"), index).unwrap();
        assert_eq!(content(&moved), told);
        let stage = trained_on(&moved, &one);
        let [own, indexed] = [false, true]
            .map(|indexed| DataIdentity::of_stage(stage.last_stage(), indexed).unwrap());
        assert_ne!(own, indexed);
        let held_out = |shards: &str| trained_on(&one, shards).held_out_on().unwrap();
        assert_eq!(held_out(&moved), Some(told.clone()));
        assert_ne!(held_out(&other), Some(told));
        assert!(trained_on("nowhere.tar", &one).trained_on().is_err());
        assert_eq!(tiny(&["evaluation=None"]).held_out_on().unwrap(), None);
    }

    #[test]
    fn losses_mean_the_same_whatever_they_are_trained_with() {
        let evaluated = |sets: &[&str]| {
            let all = [&["evaluation=(every: 2, samples: 8)"][..], sets].concat();
            tiny(&all).held_out_conditions().unwrap()
        };
        let own = evaluated(&[]);
        assert_eq!(own["evaluation.samples"], "8");
        for same in [
            "optimizer.lr=3e-3",
            "evaluation.every=5",
            "seed=7",
            "diffusion.p_mean=-0.2",
            "diffusion.p_std=1.0",
        ] {
            assert_eq!(evaluated(&[same]), own, "{same}");
        }
        let flow = evaluated(&["diffusion=FlowMatching()"]);
        assert_eq!(flow, evaluated(&["diffusion=FlowMatching(shift: 3.0)"]));
        for (set, key) in [
            ("diffusion=FlowMatching()", "diffusion"),
            ("diffusion=Vp(prediction: V)", "diffusion"),
            ("diffusion.sigma_data=0.25", "diffusion.sigma_data"),
            ("evaluation.samples=64", "evaluation.samples"),
        ] {
            assert_ne!(evaluated(&[set]).get(key), own.get(key), "{set}");
        }
        assert_eq!(tiny(&["evaluation=None"]).held_out_conditions(), None);
    }
}
