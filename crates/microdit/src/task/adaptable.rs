//! Tasks whose network is trained by adapters.

use super::Task;
use crate::{nn::lora::Lora, ops::DitBackend};
use burn::module::Module as _;

/// A task whose network may have adapters that are trained, alone or beside it.
pub trait Adaptable<B: DitBackend>: Task<B> {
    /// The network, the place of its adapters, and whether these are trained alone.
    fn adaptable(&mut self) -> (&mut Self::Denoiser, &mut Option<Lora<B>>, &mut bool);

    /// The same with adapters of its network that are trained, with `alone` while the network itself stays as it is.
    #[must_use]
    fn with_lora(mut self, lora: Lora<B>, alone: bool) -> Self {
        let (network, adapters, frozen) = self.adaptable();
        if alone {
            *network = network.clone().no_grad();
        }
        *adapters = Some(lora);
        *frozen = alone;
        self
    }
}
