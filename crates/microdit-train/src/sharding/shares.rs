//! Who owns which parameter.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use microdit::nn::params::{self, VisitParams};
use std::{cmp::Reverse, collections::BTreeMap};

/// The owner of every parameter, by the parameters' paths. Shares are of whole tensors, because LAMB and Muon need those, and as even in
/// bytes as that allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares {
    owners: BTreeMap<String, usize>,
    count: usize,
}

/// A parameter that gets an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parameter {
    path: String,
    size: usize,
    trained: bool,
}

impl Shares {
    /// The shares of `count` owners in the parameters of `module`; the same for the same module and number, wherever they are computed.
    pub(crate) fn of<B: Backend>(module: &impl Module<B>, count: usize) -> Self {
        Self::of_some(module, count, |_| true)
    }

    /// The same in the parameters whose paths `is_shared` accepts.
    pub(super) fn of_some<B: Backend>(
        module: &impl Module<B>,
        count: usize,
        is_shared: impl Fn(&str) -> bool,
    ) -> Self {
        struct Collect<F>(F, Vec<Parameter>);
        impl<B: Backend, F: Fn(&str) -> bool> VisitParams<B> for Collect<F> {
            fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
                let path = path.join(".");
                if (self.0)(&path) {
                    self.1.push(Parameter {
                        path,
                        size: param.shape().num_elements(),
                        trained: param.is_require_grad(),
                    });
                }
            }
        }
        Self::balanced(
            params::visit(module, Collect(is_shared, Vec::new())).1,
            count,
        )
    }

    /// The largest first, each to the owner that has least. Those that are trained come before frozen ones, of which there are no moments.
    fn balanced(mut parameters: Vec<Parameter>, count: usize) -> Self {
        parameters.sort_by(|a, b| {
            let key = |one: &Parameter| (!one.trained, Reverse(one.size));
            key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
        });
        let mut loads = vec![0usize; count];
        let owner = |parameter: Parameter| {
            let least = (0..count).min_by_key(|&owner| loads[owner]);
            let owner = least.expect("there is an owner");
            loads[owner] += parameter.size;
            (parameter.path, owner)
        };
        Self {
            owners: parameters.into_iter().map(owner).collect(),
            count,
        }
    }

    /// The owner of the parameter at `path`, if it has one.
    pub(crate) fn owner(&self, path: &str) -> Option<usize> {
        self.owners.get(path).copied()
    }

    /// Parameters and their owners.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &usize)> {
        self.owners.iter()
    }

    /// Names and values of parameters, in the order they come, by owner.
    pub(crate) fn by_owner<T>(
        &self,
        values: impl Iterator<Item = (String, T)>,
    ) -> (Vec<Vec<String>>, Vec<Vec<T>>) {
        let mut names = vec![Vec::new(); self.count];
        let mut of_owners: Vec<Vec<T>> = (0..self.count).map(|_| Vec::new()).collect();
        for (name, value) in values {
            // What nobody owns is no parameter of the module; the first one takes it.
            let owner = self.owner(&name).unwrap_or(0);
            names[owner].push(name);
            of_owners[owner].push(value);
        }
        (names, of_owners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(sizes: &[usize]) -> Vec<Parameter> {
        let parameter = |(i, &size): (usize, &usize)| Parameter {
            path: format!("p{i:03}"),
            size,
            trained: i % 7 != 6,
        };
        sizes.iter().enumerate().map(parameter).collect()
    }

    /// The largest first is at most a third more than the best there is (Graham, 1969); with many tensors for each owner, nearly even.
    #[test]
    fn shares_are_even_and_the_same_in_any_order() {
        let sizes: Vec<usize> = (0..300).map(|i| 1 + (i * 7919) % 1000).collect();
        for count in [1, 2, 3, 8, 64] {
            let shares = Shares::balanced(parameters(&sizes), count);
            let mut backwards = parameters(&sizes);
            backwards.reverse();
            assert_eq!(Shares::balanced(backwards, count), shares);
            for trained in [true, false] {
                let mut loads = vec![0; count];
                for parameter in parameters(&sizes) {
                    if parameter.trained || !trained {
                        loads[shares.owner(&parameter.path).unwrap()] += parameter.size;
                    }
                }
                let (all, most) = (loads.iter().sum::<usize>(), *loads.iter().max().unwrap());
                let even = all as f64 / count as f64;
                let bound = match (count, trained) {
                    (..=8, _) => 1.02,
                    (_, true) => 4.0 / 3.0,
                    // Frozen ones begin where the others have ended.
                    (_, false) => 1.0 + 1000.0 / even,
                };
                let share = most as f64 / even;
                assert!(share <= bound, "{count}: {most} of {even}");
            }
        }
        // More owners than parameters.
        let few = Shares::balanced(parameters(&[5, 3]), 4);
        assert_eq!([few.owner("p000"), few.owner("p001")], [Some(0), Some(1)]);
        assert_eq!(few.owner("p002"), None);
    }
}
