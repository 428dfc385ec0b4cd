//! Activation checkpointing between the segments of a network (arXiv 1604.06174): the forward pass keeps what flows from
//! segment to segment, and the backward pass recomputes one segment at a time, so that no more than one segment's
//! activations exist at once.

use crate::optim::Gradients;
use burn::{
    module::Module,
    tensor::{Tensor, backend::AutodiffBackend},
};
use microdit::{
    TrainBackend,
    net::{Carry, CarryVisitor, Denoiser, Inputs, Output, Selection, TrainDenoiser},
};

/// A prediction whose network is not recorded, and what is needed to compute its gradients.
pub(crate) struct Checkpointed<B: TrainBackend, D: TrainDenoiser<B>> {
    inputs: Inputs<B>,
    /// What flowed into each segment, and out of the last.
    carries: Vec<<D::Carry as Carry<B>>::Inner>,
    /// The prediction, at whose tensors the loss's own gradient ends.
    pub(crate) output: Output<B>,
}

/// Runs the network without recording.
pub(crate) fn predict<B: TrainBackend, D: TrainDenoiser<B>>(
    denoiser: &D,
    inputs: Inputs<B>,
) -> Checkpointed<B, D> {
    let (plain, plain_inputs) = (denoiser.valid(), inputs.clone().inner());
    let selection = plain_inputs.selection.clone();
    let mut carries = vec![plain.enter(plain_inputs)];
    for i in 0..plain.segments() {
        let carry = carries[i].clone();
        carries.push(plain.segment(i, carry, &selection));
    }
    let last = carries[plain.segments()].clone();
    let output = plain.leave(last, &selection);
    let output = Output {
        patches: Carry::record(output.patches),
        keep: output.keep.and(inputs.selection.keep.clone()),
        features: Carry::record(output.features),
    };
    Checkpointed {
        inputs,
        carries,
        output,
    }
}

impl<B: TrainBackend, D: TrainDenoiser<B>> Checkpointed<B, D> {
    /// Gradients of the parameters of `task`, whose network `denoiser` is, from those of the prediction, which are taken out
    /// of `grads`: given to `each` segment by segment, from the last to the first. One parameter can be in several.
    pub(crate) fn backward(
        self,
        task: &impl Module<B>,
        denoiser: &D,
        grads: &mut B::Gradients,
        mut each: impl FnMut(Gradients<B::InnerBackend>),
    ) {
        let Self {
            inputs,
            mut carries,
            output,
        } = self;
        let selection: Selection<B> = inputs.selection.clone();
        let mut back = Back::of(&(output.patches, output.features), grads);
        // From the last segment to the first: what flowed in is recorded, what flowed out meets its gradient.
        for i in (0..=denoiser.segments()).rev() {
            let carry = D::Carry::record(carries.pop().expect("a carry before each segment"));
            let through = match i == denoiser.segments() {
                true => {
                    let output = denoiser.leave(carry.clone(), &selection);
                    back.along(&(output.patches, output.features))
                }
                false => back.along(&denoiser.segment(i, carry.clone(), &selection)),
            };
            let mut found = through.backward();
            each(Gradients::collect(task, &mut found));
            back = Back::of(&carry, &mut found);
        }
        let mut found = back.along(&denoiser.enter(inputs)).backward();
        each(Gradients::collect(task, &mut found));
    }
}

/// Gradients of what flows between two segments, flattened; none for what later segments do not use.
struct Back<B: AutodiffBackend>(Vec<Option<Tensor<B::InnerBackend, 1>>>);

impl<B: AutodiffBackend> Back<B> {
    /// The gradients of a recorded carry, which are taken out of `grads`.
    fn of<C: Carry<B>>(carry: &C, grads: &mut B::Gradients) -> Self {
        struct Take<'a, B: AutodiffBackend>(&'a mut B::Gradients, Back<B>);
        impl<B: AutodiffBackend> CarryVisitor<B> for Take<'_, B> {
            fn tensor<const D: usize>(&mut self, tensor: &Tensor<B, D>) {
                let grad = tensor.grad_remove(self.0);
                self.1.0.push(grad.map(|grad| {
                    let count = grad.shape().num_elements();
                    grad.reshape([count])
                }));
            }
        }
        let mut take = Take(grads, Self(Vec::new()));
        carry.visit(&mut take);
        take.1
    }

    /// A number whose gradient in a carry of the same tensors is this.
    fn along<C: Carry<B>>(self, carry: &C) -> Tensor<B, 1> {
        struct Along<B: AutodiffBackend> {
            back: std::vec::IntoIter<Option<Tensor<B::InnerBackend, 1>>>,
            sum: Option<Tensor<B, 1>>,
        }
        impl<B: AutodiffBackend> CarryVisitor<B> for Along<B> {
            fn tensor<const D: usize>(&mut self, tensor: &Tensor<B, D>) {
                let Some(Some(grad)) = self.back.next() else {
                    return;
                };
                let grad = Tensor::<B, D>::from_inner(grad.reshape(tensor.shape()));
                let term = (tensor.clone() * grad).sum();
                self.sum = Some(match self.sum.take() {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        let mut along = Along {
            back: self.0.into_iter(),
            sum: None,
        };
        carry.visit(&mut along);
        along.sum.expect("the loss depends on the network's output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::of_prepared;
    use burn::tensor::TensorData;
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use microdit::{
        LevelConfig, MidConfig, UNetConfig,
        diffusion::{Diffusion as _, DiffusionConfig, Vp},
        net::{Conditioning, Network, NetworkConfig},
        rng::{Purpose, Stream},
        task::{DenoiseConfig, Noised},
        weights::StateDict,
    };

    type Tracked = Autodiff<Flex>;

    fn draw<const D: usize>(key: u64, shape: [usize; D]) -> Tensor<Tracked, D> {
        let values = Stream::new(3, Purpose::Noise, 0, key).normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    /// Skip connections flow past the segments between their ends; one residual block is used twice.
    #[test]
    fn a_unet_has_the_same_gradients_either_way() {
        let level = |channels, resnets, attentions: &[usize]| LevelConfig {
            channels,
            resnets,
            attentions: attentions.to_vec(),
            heads: 2,
        };
        let config = UNetConfig {
            caption_channels: 6,
            down: vec![level(8, 1, &[]), level(16, 1, &[2])],
            mid: Some(MidConfig {
                resnets: 1,
                attentions: vec![1],
                heads: 2,
                halved: true,
                first_twice: true,
            }),
            up: vec![level(16, 2, &[1]), level(8, 2, &[])],
            norm_groups: 4,
            ..UNetConfig::sd_1()
        };
        let device = Default::default();
        let network: Network<Tracked> = NetworkConfig::UNet(config).init(0, &device).unwrap();
        // Nothing may be zero, or its inputs have no gradients.
        let state = StateDict::from_module(&network);
        let shaken = state.iter().enumerate().map(|(i, (name, data))| {
            let values = Stream::new(1, Purpose::Init, 0, i as u64).normal(data.num_elements());
            let values: Vec<f32> = values.into_iter().map(|x| 0.2 * x).collect();
            (name.clone(), TensorData::new(values, data.shape.clone()))
        });
        let network = StateDict::from_tensors(shaken)
            .load_into(network, &device)
            .unwrap();
        let settings = DenoiseConfig {
            diffusion: DiffusionConfig::Vp(Vp::default()),
            ..DenoiseConfig::default()
        };
        let task = settings.init(network).unwrap();
        let noised = Noised {
            clean: draw(0, [2, 4, 5, 6]),
            noise: draw(1, [2, 4, 5, 6]),
            rows: task.family().rows(&[10.0, 700.0]),
            conditioning: Conditioning {
                captions: draw(2, [2, 3, 6]),
            },
            dropout: None,
            keep: None,
        };
        let [kept, again] = [false, true].map(|way| of_prepared(&task, &noised, 2, way).grads);
        assert_eq!(kept.iter().count(), state.iter().count());
        for (name, expected) in kept.iter() {
            let found = again.iter().find(|(other, _)| *other == name);
            let found = found.expect("every parameter has a gradient").1.clone();
            let size = expected.clone().abs().max().into_scalar();
            let error = (found - expected.clone()).abs().max().into_scalar();
            assert!(
                size > 0.0 && error < 1e-4 * size,
                "{name}: {error} of {size}"
            );
        }
    }
}
