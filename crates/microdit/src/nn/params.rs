//! Parameters of a module by their path, and what each is for.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a parameter is for, which decides how an optimizer treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Weight of a linear map between tokens.
    Matrix,
    /// Map between data and tokens, and learned tokens and positions.
    Embedding,
    /// Weight of a norm.
    Norm,
    /// Bias.
    Bias,
    /// Rows that vote for experts.
    Router,
    /// Stack of the matrices of experts.
    Expert,
    /// Factor of a low-rank adapter.
    Adapter,
}

impl Role {
    /// What a layer's parameter is for unless a module says otherwise: what is called `bias` is one, other vectors are weights
    /// of norms, and everything else is a matrix.
    pub fn plain(path: &[&str], rank: usize) -> Self {
        match (path.last(), rank) {
            (Some(&"bias"), _) => Self::Bias,
            (_, 1) => Self::Norm,
            _ => Self::Matrix,
        }
    }

    /// The same for a module that maps between data and tokens: its matrices are embeddings.
    #[must_use]
    pub fn in_embedding(self) -> Self {
        match self {
            Self::Matrix => Self::Embedding,
            other => other,
        }
    }
}

/// A module that says what its parameters are for.
///
/// ```
/// use microdit::nn::params::{Role, Roles};
/// struct Network;
/// impl Roles for Network {
///     fn role(&self, path: &[&str], rank: usize) -> Role {
///         match path {
///             ["mask_token"] => Role::Embedding,
///             _ => Role::plain(path, rank),
///         }
///     }
/// }
/// assert_eq!(Network.role(&["mask_token"], 3), Role::Embedding);
/// assert_eq!(Network.role(&["blocks", "0", "proj", "weight"], 2), Role::Matrix);
/// ```
pub trait Roles {
    /// The role of the parameter of `rank` dimensions at `path`, the names of fields from this module down. A module
    /// delegates to those it holds.
    fn role(&self, path: &[&str], rank: usize) -> Role {
        Role::plain(path, rank)
    }
}

impl<M: Roles> Roles for Option<M> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match self {
            Some(module) => module.role(path, rank),
            None => Role::plain(path, rank),
        }
    }
}

impl<M: Roles> Roles for Vec<M> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        let module = path
            .first()
            .and_then(|index| self.get(index.parse::<usize>().ok()?));
        match module {
            Some(module) => module.role(&path[1..], rank),
            None => Role::plain(path, rank),
        }
    }
}

/// The roles of a module's parameters by their paths, joined by dots.
pub fn roles<B: Backend, M: Module<B> + Roles>(module: &M) -> BTreeMap<String, Role> {
    struct Collect<'a, M>(&'a M, BTreeMap<String, Role>);
    impl<B: Backend, M: Roles> VisitParams<B> for Collect<'_, M> {
        fn visit<const D: usize>(&mut self, path: &[&str], _param: &Param<Tensor<B, D>>) {
            self.1.insert(path.join("."), self.0.role(path, D));
        }
    }
    visit(module, Collect(module, BTreeMap::new())).1
}

/// Sees the float parameters of a module, one after the other.
pub trait VisitParams<B: Backend> {
    /// The parameter at `path`.
    fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>);
}

/// Replaces the float parameters of a module, one after the other.
pub trait MapParams<B: Backend> {
    /// The new parameter at `path`.
    fn map<const D: usize>(
        &mut self,
        path: &[&str],
        param: Param<Tensor<B, D>>,
    ) -> Param<Tensor<B, D>>;
}

/// Shows the parameters of `module` to `visitor`, and returns it.
///
/// Paths are the names of fields and the positions in lists. The variant of an enum is not part of them: a layer keeps its name
/// whatever it is.
pub fn visit<B: Backend, V: VisitParams<B>>(module: &impl Module<B>, visitor: V) -> V {
    let mut walk = Walk {
        path: Vec::new(),
        inner: visitor,
    };
    module.visit(&mut walk);
    walk.inner
}

/// The module with its parameters replaced by `mapper`; paths as [`visit`] has them.
pub fn map<B: Backend, M: Module<B>>(module: M, mapper: &mut impl MapParams<B>) -> M {
    module.map(&mut Walk {
        path: Vec::new(),
        inner: mapper,
    })
}

struct Walk<T> {
    path: Vec<String>,
    inner: T,
}

impl<T> Walk<T> {
    fn enter(&mut self, name: &str, container: &str) {
        if !is_variant(container) {
            self.path.push(name.to_owned());
        }
    }

    fn exit(&mut self, container: &str) {
        if !is_variant(container) {
            self.path.pop();
        }
    }
}

/// Burn calls what holds a variant `Enum:` and its type.
fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}

fn borrowed(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

impl<B: Backend, V: VisitParams<B>> ModuleVisitor<B> for Walk<V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.inner.visit(&borrowed(&self.path), param);
    }
}

impl<B: Backend, F: MapParams<B>> ModuleMapper<B> for Walk<&mut F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        self.inner.map(&borrowed(&self.path), param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Dit, Linear,
        net::dit::tests::config,
        nn::init::{Init, STD},
    };
    use burn_flex::Flex;

    #[test]
    fn a_network_says_what_its_parameters_are_for() {
        let dit: Dit<Flex> = config().init(0, &Default::default()).unwrap();
        let roles = roles(&dit);
        struct Count(usize);
        impl<B: Backend> VisitParams<B> for Count {
            fn visit<const D: usize>(&mut self, _path: &[&str], _param: &Param<Tensor<B, D>>) {
                self.0 += 1;
            }
        }
        let count = visit(&dit, Count(0)).0;
        assert_eq!(roles.len(), count, "two parameters have one path");
        for (name, role) in [
            ("patch_embed.proj.weight", Role::Embedding),
            ("patch_embed.proj.bias", Role::Bias),
            ("noise_embed.fc2.weight", Role::Embedding),
            ("caption_projection.fc1.weight", Role::Embedding),
            ("caption_projection.norm.weight", Role::Norm),
            ("caption_block.attn.qkv.weight", Role::Matrix),
            ("pooled_caption.fc1.weight", Role::Embedding),
            ("mixer.map_in.linear.weight", Role::Matrix),
            ("mixer.blocks.0.mlp.w1.weight", Role::Matrix),
            ("mixer.blocks.1.mlp.w1", Role::Expert),
            ("blocks.0.mlp.w1.weight", Role::Matrix),
            ("blocks.0.modulation.bias", Role::Bias),
            ("blocks.1.mlp.w2", Role::Expert),
            ("blocks.1.mlp.gate.weight", Role::Router),
            ("blocks.1.norm2.weight", Role::Norm),
            ("final_layer.linear.weight", Role::Embedding),
            ("final_layer.modulation.weight", Role::Matrix),
        ] {
            assert_eq!(roles.get(name), Some(&role), "{name} of {roles:#?}");
        }
    }

    #[derive(Module, Debug)]
    struct Own<B: Backend> {
        mask_token: Param<Tensor<B, 3>>,
        stack: Param<Tensor<B, 3>>,
    }

    impl<B: Backend> Roles for Own<B> {
        fn role(&self, path: &[&str], rank: usize) -> Role {
            match path {
                ["mask_token"] => Role::Embedding,
                _ => Role::plain(path, rank),
            }
        }
    }

    #[test]
    fn three_dimensions_make_no_expert() {
        let device = Default::default();
        let init = Init::<Flex>::new(0, &device);
        let own = Own {
            mask_token: init.constant([1, 1, 8], 0.0),
            stack: init.constant([2, 4, 8], 0.0),
        };
        let expected = [("mask_token", Role::Embedding), ("stack", Role::Matrix)];
        let expected = expected.map(|(name, role)| (name.to_owned(), role));
        assert_eq!(roles(&own), expected.into());
    }

    #[test]
    fn what_is_mapped_is_what_was_visited() {
        struct Double(Vec<String>);
        impl<B: Backend> MapParams<B> for Double {
            fn map<const D: usize>(
                &mut self,
                path: &[&str],
                param: Param<Tensor<B, D>>,
            ) -> Param<Tensor<B, D>> {
                self.0.push(path.join("."));
                param.map(|tensor| tensor * 2.0)
            }
        }
        let layer: Linear<Flex> = Init::new(0, &Default::default()).linear(4, 4, true, STD);
        let mut double = Double(Vec::new());
        let doubled = map(layer.clone(), &mut double);
        assert!(double.0.iter().eq(roles(&layer).keys().rev()));
        let difference = doubled.weight.val() - layer.weight.val() * 2.0;
        assert_eq!(difference.abs().max().into_scalar(), 0.0);
    }
}
