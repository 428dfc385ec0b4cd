//! ckpt: PyTorch's files, read without executing their pickle.

use super::Inner;
use crate::{
    golden::{Golden, config_of, dit_config},
    report::Report,
};
use microdit::weights::{StateDict, TrainerCheckpoint};
use std::path::Path;

/// A `.pt` gives the tensors of the file that states what it must give: `X_expected` beside `X.pt`, or the run whose
/// configuration names the checkpoint.
pub(super) fn ckpt(path: &Path, report: &mut Report) {
    let directory = path.parent().expect("a golden file lies in a directory");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let expected = directory.join(format!("{stem}_expected.safetensors"));
    let (golden, prefix) = if expected.exists() {
        (Golden::open(&expected), "weights.")
    } else {
        (run_of(path, directory), "out.final.")
    };
    let state = StateDict::read(path).expect("a golden checkpoint is readable");
    let names = golden.state_dict(prefix);
    report.equal(
        "number of tensors",
        &[state.len() as f64],
        &[names.len() as f64],
    );
    for (name, array) in golden.with_prefix(prefix) {
        if let Some(found) = state.get(name) {
            report.equal(name, &found.iter::<f64>().collect::<Vec<_>>(), &array.data);
        } else if !["pos_embed", "mask_token"].contains(&name) {
            report.at_most(format!("{name} is missing"), f64::INFINITY, 0.0);
        }
    }
    if golden.with_prefix("out.exp_avg.").next().is_some() {
        trainer_state(path, &golden, report);
    }
    let device = Default::default();
    let dit = dit_config(&golden.config["dit"])
        .init::<Inner>(0, &device)
        .expect("a golden network exists");
    let fits = state.load_into(dit, &device).is_ok();
    report.at_most("fits its network", f64::from(u8::from(!fits)), 0.0);
}

/// Moments and counters of a run of the reference's trainer.
fn trainer_state(path: &Path, golden: &Golden, report: &mut Report) {
    let checkpoint = TrainerCheckpoint::read(path).expect("a golden checkpoint is readable");
    for (index, prefix) in ["out.exp_avg.", "out.exp_avg_sq."].into_iter().enumerate() {
        for (name, array) in golden.with_prefix(prefix) {
            let found = checkpoint.moments.get(name).map(|moments| &moments[index]);
            let found = found.map_or_else(Vec::new, |data| data.iter::<f64>().collect());
            report.equal(format!("{prefix}{name}"), &found, &array.data);
        }
    }
    let batches = golden.number("batches");
    let counters = [
        checkpoint.batches as f64,
        checkpoint.optimizer_steps as f64,
        checkpoint.samples as f64,
    ];
    let expected = [batches, batches, batches * golden.number("batch_size")];
    report.equal("batches, steps, samples", &counters, &expected);
    let unread = checkpoint
        .unread
        .iter()
        .any(|name| name == "datetime.timedelta");
    report.at_most(
        "tells what it left unread",
        f64::from(u8::from(!unread)),
        0.0,
    );
}

fn run_of(path: &Path, directory: &Path) -> Golden {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let entries = std::fs::read_dir(directory).expect("a golden directory is readable");
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        // Only the one that is named is read whole: the others may be of any kind.
        .find(|path| {
            let bytes = std::fs::read(path).expect("a golden file is readable");
            config_of(&bytes).is_ok_and(|config| config["checkpoint"] == *name)
        })
        .map(|path| Golden::open(&path))
        .unwrap_or_else(|| panic!("no file says what {} must give", path.display()))
}
