//! The reference's names of our parameters.

/// Buffers of the reference that are computed here, never loaded: a 256 px checkpoint fits a 512 px network.
pub(super) const BUFFERS: [&str; 3] = ["pos_embed", "mask_token", "decoder_pos_embed"];

/// Beginnings of paths, ours and the reference's; other paths begin alike.
const RENAMED: &[(&str, &str)] = &[
    ("patch_embed.", "x_embedder."),
    ("noise_embed.fc1.", "t_embedder.mlp.0."),
    ("noise_embed.fc2.", "t_embedder.mlp.2."),
    ("caption_projection.", "y_embedder.y_proj."),
    ("caption_block.", "y_emb_preprocess."),
    ("pooled_caption.", "pooled_y_emb_process."),
    ("final_layer.norm.", "final_layer.norm_final."),
    ("mixer.blocks.", "patch_mixer."),
    ("mixer.map_in.norm.", "patch_mixer_map_xin.0."),
    ("mixer.map_in.linear.", "patch_mixer_map_xin.1."),
    ("mixer.map_out.norm.", "patch_mixer_map_xout.0."),
    ("mixer.map_out.linear.", "patch_mixer_map_xout.1."),
    ("mixer.map_captions.norm.", "patch_mixer_map_y.0."),
    ("mixer.map_captions.linear.", "patch_mixer_map_y.1."),
    ("decoder.mask_token", "decoder_mask_token"),
    ("decoder.input.norm.", "decoder.input.norm_decoder."),
    ("decoder.map_captions.norm.", "decoder.map_y.0."),
    ("decoder.map_captions.linear.", "decoder.map_y.1."),
];

/// Of a path in a task, the part within the trained network, if it leads there.
pub(super) fn of_network(path: &str) -> Option<&str> {
    let mut rest = path;
    while let Some((segment, behind)) = rest.split_once('.') {
        if segment == "denoiser" {
            return Some(behind);
        }
        rest = behind;
    }
    None
}

/// The reference's name of the parameter at a module path, whose segments are joined by dots.
///
/// ```
/// let path = "mixer.blocks.3.modulation.weight";
/// assert_eq!(microdit::weights::reference_name(path), "patch_mixer.3.adaLN_modulation.1.weight");
/// ```
pub fn reference_name(path: &str) -> String {
    // A file of weights holds the trained network, whatever its task.
    let segments = of_network(path).unwrap_or(path).split('.');
    let segments: Vec<&str> = segments
        .map(|segment| match segment {
            "modulation" => "adaLN_modulation.1",
            other => other,
        })
        .collect();
    let name = segments.join(".");
    RENAMED
        .iter()
        .find_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)))
        .unwrap_or(name)
}
