//! The trait of every network that denoises.

use super::{Carry, Conditioning, NetworkConfig, TokenMask};
use crate::{
    net::dit::embed::unpatchify,
    nn::params::Roles,
    ops::{DitBackend, TrainBackend},
};
use burn::{
    module::{AutodiffModule, Module, ModuleDisplay},
    tensor::{Tensor, TensorData, backend::AutodiffBackend},
};

/// What a denoiser is given.
#[derive(Clone, Debug)]
pub struct Inputs<B: DitBackend> {
    /// The noised images, scaled by the family's `c_in`: `[batch, channels, height, width]`.
    pub x: Tensor<B, 4>,
    /// The noise levels as the family's `c_noise`: `[batch]`, or `[1]` for all alike.
    pub time: Tensor<B, 1>,
    /// What they are conditioned on.
    pub conditioning: Conditioning<B>,
    /// What is wanted of them.
    pub selection: Selection<B>,
}

/// Which tokens a network computes, and which of its features are wanted besides its prediction.
#[derive(Clone, Debug, Default)]
pub struct Selection<B: DitBackend> {
    /// The tokens that are kept; all of them if absent.
    pub keep: Option<TokenMask<B>>,
    /// Blocks of the backbone whose tokens are wanted, in ascending order.
    pub taps: Vec<usize>,
}

impl<B: DitBackend> Selection<B> {
    /// Every token, and no features.
    pub fn all() -> Self {
        Self {
            keep: None,
            taps: Vec::new(),
        }
    }

    /// The kept ones of all tokens `[batch, tokens, width]`.
    pub fn kept(&self, tokens: Tensor<B, 3>) -> Tensor<B, 3> {
        kept(&self.keep, tokens)
    }

    /// The same without automatic differentiation.
    pub fn inner(&self) -> Selection<B::InnerBackend>
    where
        B: AutodiffBackend<InnerBackend: DitBackend>,
    {
        Selection {
            keep: self.keep.as_ref().map(TokenMask::inner),
            taps: self.taps.clone(),
        }
    }
}

impl<B: DitBackend> Inputs<B> {
    /// Inputs for which every token is computed.
    pub fn new(x: Tensor<B, 4>, time: Tensor<B, 1>, conditioning: Conditioning<B>) -> Self {
        Self {
            x,
            time,
            conditioning,
            selection: Selection::all(),
        }
    }

    /// The same without automatic differentiation.
    pub fn inner(self) -> Inputs<B::InnerBackend>
    where
        B: AutodiffBackend<InnerBackend: DitBackend>,
    {
        Inputs {
            x: self.x.inner(),
            time: self.time.inner(),
            conditioning: self.conditioning.inner(),
            selection: self.selection.inner(),
        }
    }
}

/// What a denoiser predicts.
#[derive(Clone, Debug)]
pub struct Output<B: DitBackend> {
    /// The prediction by patches `[batch, tokens, patch x patch x channels]`, in the order of
    /// [`patchify`](crate::net::dit::embed::patchify).
    pub patches: Tensor<B, 3>,
    /// Which tokens these are, row by row; all of them in order if absent.
    pub keep: Option<TokenMask<B>>,
    /// The features asked for, `[batch, tokens, width]` each.
    pub features: Vec<Tensor<B, 3>>,
}

impl<B: DitBackend> Output<B> {
    /// A prediction of all tokens, without features.
    pub fn all(patches: Tensor<B, 3>) -> Self {
        Self::of(patches, &Selection::all())
    }

    /// A prediction of the selected tokens, without features.
    pub fn of(patches: Tensor<B, 3>, selection: &Selection<B>) -> Self {
        Self {
            patches,
            keep: selection.keep.clone(),
            features: Vec::new(),
        }
    }

    /// The prediction of the kept tokens alone, if it is one of all tokens.
    #[must_use]
    pub fn only(&self, mask: Option<&TokenMask<B>>) -> Self {
        match (mask, &self.keep) {
            (Some(mask), None) => Self {
                patches: mask.gather(self.patches.clone()),
                keep: Some(mask.clone()),
                features: self.features.clone(),
            },
            _ => self.clone(),
        }
    }

    /// The predicted ones of all tokens `[batch, tokens, width]`.
    pub fn chosen(&self, tokens: Tensor<B, 3>) -> Tensor<B, 3> {
        kept(&self.keep, tokens)
    }
}

fn kept<B: DitBackend>(keep: &Option<TokenMask<B>>, tokens: Tensor<B, 3>) -> Tensor<B, 3> {
    match keep {
        Some(keep) => keep.gather(tokens),
        None => tokens,
    }
}

/// A network that predicts from a noised image, its noise level and its conditioning.
///
/// It is a chain of segments, so that training can keep what flows between them and recompute the rest: a segment sees
/// nothing but its [carry](Carry) and the selection.
pub trait Denoiser<B: DitBackend>: Module<B> + ModuleDisplay + Roles + Sync {
    /// What flows from segment to segment.
    type Carry: Clone + Send;

    /// Side of a patch in latent pixels; height and width of the images are multiples of it.
    fn patch_size(&self) -> usize;

    /// What files of its weights say about it; none for a network from outside the library.
    fn config(&self) -> Option<NetworkConfig> {
        None
    }

    /// Tensors that the reference keeps beside its parameters and expects in a file of weights, by its names.
    fn buffers(&self) -> Vec<(String, TensorData)> {
        Vec::new()
    }

    /// Segments between [`enter`](Self::enter) and [`leave`](Self::leave).
    fn segments(&self) -> usize;

    /// From the inputs to the first segment.
    fn enter(&self, inputs: Inputs<B>) -> Self::Carry;

    /// Segment `index`, below [`segments`](Self::segments).
    fn segment(&self, index: usize, carry: Self::Carry, selection: &Selection<B>) -> Self::Carry;

    /// From the last segment to the prediction.
    fn leave(&self, carry: Self::Carry, selection: &Selection<B>) -> Output<B>;

    /// The prediction.
    fn predict(&self, inputs: Inputs<B>) -> Output<B> {
        let selection = inputs.selection.clone();
        let through = |carry, i| self.segment(i, carry, &selection);
        let carry = (0..self.segments()).fold(self.enter(inputs), through);
        self.leave(carry, &selection)
    }

    /// The prediction for every pixel: `x` `[batch, channels, height, width]` and `time` as in [`Inputs`], to the shape of
    /// `x`.
    fn image(
        &self,
        x: Tensor<B, 4>,
        time: Tensor<B, 1>,
        conditioning: Conditioning<B>,
    ) -> Tensor<B, 4> {
        let [_, _, height, width] = x.dims();
        let output = self.predict(Inputs::new(x, time, conditioning));
        unpatchify(output.patches, self.patch_size(), [height, width])
    }
}

/// A denoiser that can be trained: with the carry of its inner network, so that one can continue where the other stopped.
pub trait TrainDenoiser<B: TrainBackend>:
    Denoiser<B, Carry: Carry<B, Inner = <Self::InnerModule as Denoiser<B::InnerBackend>>::Carry>>
    + AutodiffModule<B, InnerModule: Denoiser<B::InnerBackend>>
{
}

impl<B, D> TrainDenoiser<B> for D
where
    B: TrainBackend,
    D: AutodiffModule<B, InnerModule: Denoiser<B::InnerBackend>>,
    D: Denoiser<
            B,
            Carry: Carry<B, Inner = <Self::InnerModule as Denoiser<B::InnerBackend>>::Carry>,
        >,
{
}
