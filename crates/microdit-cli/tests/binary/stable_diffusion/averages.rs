//! Of weights and their average, one is chosen, and the other left out.

use super::*;
use crate::common::root;

#[test]
fn of_two_sets_of_weights_one_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    two_sets(folder.path());
    let state = StateDict::read(&at("own.safetensors")).unwrap();
    let unet = |name: &&String| name.starts_with("model.diffusion_model.");
    let averages = state.iter().map(|(name, _)| name).filter(unet).count();
    let (own, _) = draw(folder.path(), &at("own.safetensors"), &[]);
    let (found, said) = draw(folder.path(), &at("both.safetensors"), &[]);
    assert!(found == own);
    for part in [
        format!("left out: the average of the U-Net's weights ({averages} tensors)"),
        "counts of an average (2 tensors)".to_owned(),
        "positions of tokens, which are counted (1 tensors)".to_owned(),
        "none of latent diffusion's: foreign.bias".to_owned(),
    ] {
        assert!(said.contains(&part), "no `{part}` in {said}");
    }
    let (average, said) = draw(folder.path(), &at("both.safetensors"), &["--ema"]);
    assert!(
        average != own && said.contains("the U-Net's weights as trained"),
        "{said}"
    );

    // Pruned: the average under the network's own name, whole numbers as they were.
    convert(
        &at("both.safetensors"),
        &at("pruned.safetensors"),
        &["--ema-only", "--dtype", "f32"],
    );
    let bytes = fs::read(at("pruned.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), state.len() + 4);
    let positions = file
        .tensor("cond_stage_model.transformer.text_model.embeddings.position_ids")
        .unwrap();
    assert_eq!(positions.dtype(), safetensors::Dtype::I64);
    let (found, _) = draw(folder.path(), &at("pruned.safetensors"), &[]);
    assert!(found == average);
    // There is no average of what is one.
    let arguments = sampling(&at("x.png"), &at("pruned.safetensors"), PROMPT);
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    words.push("--ema");
    fails(
        &microdit(&words),
        &["pruned.safetensors", "once, without an average beside them"],
    );
}

/// A full checkpoint of latent diffusion's trainer, pruned here, is the pruned file its authors' program makes of it, byte by byte.
#[test]
fn a_full_checkpoint_is_pruned_as_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let goldens = root().join("tests/goldens");
    let expected = fs::read(goldens.join("ldm_ckpt_emaonly.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    for name in ["ldm_ckpt.ckpt", "ldm_ckpt.safetensors"] {
        let out = folder.path().join("pruned.safetensors");
        let said = convert(&goldens.join(name), &out, &["--ema-only", "--dtype", "f16"]);
        assert!(
            said.contains("left out: the network's weights as trained"),
            "{said}"
        );
        let found = fs::read(&out).unwrap();
        let found = safetensors::SafeTensors::deserialize(&found).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (tensor, expected) in expected.iter() {
            let found = found.tensor(tensor).unwrap();
            let described =
                |view: &safetensors::tensor::TensorView<'_>| (view.dtype(), view.shape().to_vec());
            assert_eq!(described(&found), described(&expected), "{name}: {tensor}");
            assert!(found.data() == expected.data(), "{name}: {tensor}");
        }
    }
}
