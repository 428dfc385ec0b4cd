//! dit_forward, dit_masked: the forward pass and every stage of it.

use super::Inner;
use crate::{
    golden::{Golden, indices, values},
    report::Report,
};
use burn::tensor::Tensor;
use microdit::{
    Condition, Dit, MaskStage, TokenMask,
    diffusion::Guidance,
    net::{
        Conditioning, Denoiser as _, Inputs, Selection,
        dit::{block::DitBlock, embed::unpatchify},
    },
    nn::feed_forward::FeedForward,
};
use std::path::Path;

struct Stages<'a> {
    golden: &'a Golden,
    report: &'a mut Report,
}

impl Stages<'_> {
    /// Compares a stage if the file has it.
    fn check<const D: usize>(&mut self, name: &str, found: Tensor<Inner, D>) {
        let key = format!("out.{name}");
        if self.golden.has(&key) {
            let limit = self.golden.limit(name);
            self.report
                .close(name, &values(found), self.golden.get(&key), limit);
        }
    }

    /// Runs a block stage by stage, then as a whole.
    fn block(
        &mut self,
        name: &str,
        block: &DitBlock<Inner>,
        x: Tensor<Inner, 3>,
        condition: Condition<Inner>,
    ) -> Tensor<Inner, 3> {
        let whole = block.forward(x.clone(), condition.clone());
        let Condition {
            captions, vector, ..
        } = condition;
        self.check(
            &format!("{name}.modulation"),
            block
                .modulation
                .forward(burn::tensor::activation::gelu_approximate(vector.clone())),
        );
        let modulation = block.modulate(vector);
        let gate =
            |update: Tensor<Inner, 3>, gate: Tensor<Inner, 2>| update * gate.unsqueeze_dim(1);
        let attended = block
            .attn
            .forward(block.norm1.modulated(x.clone(), modulation.attn));
        self.check(&format!("{name}.attn"), attended.clone());
        let x = x + gate(attended, modulation.attn_gate);
        let crossed = block
            .cross_attn
            .forward(block.norm2.forward(x.clone()), captions);
        self.check(&format!("{name}.cross_attn"), crossed.clone());
        let x = x + crossed;
        let normed = block.norm3.modulated(x, modulation.mlp);
        if let FeedForward::Experts(experts) = &block.mlp {
            let routing = experts.route(normed.clone(), None);
            self.check(&format!("{name}.moe_probs"), routing.probabilities);
            self.check(&format!("{name}.moe_topk_val"), routing.weights);
            let key = format!("out.{name}.moe_topk_idx");
            if self.golden.has(&key) {
                let expected = &self.golden.get(&key).data;
                self.report.equal(
                    format!("{name}.moe_topk_idx"),
                    &indices(routing.tokens),
                    expected,
                );
            }
        }
        self.check(&format!("{name}.mlp"), block.mlp.forward(normed, None));
        self.check(name, whole.clone());
        whole
    }

    /// The forward pass stage by stage; returns the final tokens.
    fn run(&mut self, dit: &Dit<Inner>, mask: Option<&TokenMask<Inner>>) -> Tensor<Inner, 3> {
        let device = Default::default();
        let x = self.golden.get("in.x").float::<Inner, 4>(&device);
        let t = self.golden.get("in.t").float::<Inner, 1>(&device);
        let y = self.golden.get("in.y").captions::<Inner>(&device);
        self.check("t_emb", dit.noise_embed.forward(t.clone()));
        let projected = dit.caption_projection.forward(y.clone());
        self.check("y_proj", projected.clone());
        let condition = dit.condition(t, y);
        self.check("y", condition.captions.clone());
        let pooled = condition.captions.clone().mean_dim(1).squeeze_dim::<2>(1);
        self.check("y_pooled", dit.pooled_caption.forward(pooled));
        self.check("cond", condition.vector.clone());
        let embedded = dit.embed(x);
        self.check("embed", embedded.clone());
        let x = self.mixer(dit, embedded, &condition, mask);
        let x = dit.blocks.iter().enumerate().fold(x, |x, (i, block)| {
            self.block(&format!("block.{i}"), block, x, condition.clone())
        });
        let tokens = dit.final_layer.forward(x, condition.vector);
        self.check("final_tokens", tokens.clone());
        tokens
    }

    fn mixer(
        &mut self,
        dit: &Dit<Inner>,
        x: Tensor<Inner, 3>,
        condition: &Condition<Inner>,
        mask: Option<&TokenMask<Inner>>,
    ) -> Tensor<Inner, 3> {
        let drop = |x| match mask {
            Some(mask) => mask.gather(x),
            None => x,
        };
        let Some(mixer) = &dit.mixer else {
            return drop(x);
        };
        let (mut x, mut captions) = (x, condition.captions.clone());
        if let (Some(map_in), Some(map_captions)) = (&mixer.map_in, &mixer.map_captions) {
            x = map_in.forward(x);
            self.check("mixer_in", x.clone());
            captions = map_captions.forward(captions);
            self.check("mixer_y", captions.clone());
        }
        for (i, block) in mixer.blocks.iter().enumerate() {
            let condition = condition.with_captions(captions.clone());
            x = self.block(&format!("mixer.{i}"), block, x, condition);
        }
        let x = mixer.map_out(drop(x));
        self.check("mixer_out", x.clone());
        x
    }
}

/// The forward pass without masking, with one time for the batch, and guided.
pub(super) fn dit_forward(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let dit = golden.load(&Default::default());
    let device = Default::default();
    let input = || {
        (
            golden.get("in.x").float::<Inner, 4>(&device),
            Conditioning {
                captions: golden.get("in.y").captions::<Inner>(&device),
            },
        )
    };
    let t = golden.get("in.t").float::<Inner, 1>(&device);
    let mut stages = Stages {
        golden: &golden,
        report,
    };
    stages.run(&dit, None);
    let (x, y) = input();
    stages.check("sample", dit.image(x, t.clone(), y));
    let (x, y) = input();
    let t1 = golden.get("in.t1").float::<Inner, 1>(&device);
    stages.check("sample_t1", dit.image(x, t1, y));
    let (x, y) = input();
    let scale = golden.get("in.cfg").data[0];
    let guided = Guidance::scale(scale).predict(&dit, x, t, 1.0, &y, &y.null());
    stages.check("sample_cfg", guided);
}

/// The forward pass with tokens dropped between mixer and backbone.
pub(super) fn dit_masked(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let dit = golden.load(&Default::default());
    let device = Default::default();
    let tokens = golden.dit().tokens();
    let kept = microdit::Masking::Deferred {
        ratio: golden.number("mask_ratio"),
    }
    .kept(tokens);
    let noise = golden.get("in.mask_noise").to_f32();
    let mask = TokenMask::from_noise(&noise, tokens, kept, MaskStage::AfterMixer, &device);
    let keep = indices(mask.keep());
    report.equal("ids_keep", &keep, &golden.get("out.ids_keep").data);
    let ones = Tensor::<Inner, 3>::ones([keep.len() / kept, kept, 1], &device);
    let dropped = values(mask.scatter(ones).neg() + 1.0);
    report.equal("mask", &dropped, &golden.get("out.mask").data);
    let mut stages = Stages {
        golden: &golden,
        report,
    };
    stages.run(&dit, Some(&mask));
    let x = golden.get("in.x").float::<Inner, 4>(&device);
    let t = golden.get("in.t").float::<Inner, 1>(&device);
    let y = Conditioning {
        captions: golden.get("in.y").captions::<Inner>(&device),
    };
    let [_, _, height, width] = x.dims();
    let out = dit.predict(Inputs {
        selection: Selection {
            keep: Some(mask.clone()),
            ..Selection::all()
        },
        ..Inputs::new(x.clone(), t.clone(), y.clone())
    });
    let whole = mask.scatter(out.patches);
    let whole = unpatchify(whole, dit.patch_size(), [height, width]);
    stages.check("sample", whole);
    stages.check("sample_unmasked", dit.image(x, t, y));
}
