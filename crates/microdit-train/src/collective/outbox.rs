//! Gradients that leave for the other ranks while the backward pass computes those of layers before them.
//!
//! A parameter can be used in several segments of the network, and its gradient is whole after the last of them. Which that is, a stage's first
//! step finds out.

use crate::optim::Gradients;
use burn::tensor::Tensor;
use microdit::DitBackend;
use std::{collections::BTreeMap, mem, sync::mpsc::Sender};

/// Gradients by name, in some order.
pub(super) type Named<B> = Vec<(String, Tensor<B, 1>)>;

/// What leaves.
#[derive(Debug)]
pub(super) enum Leaving<B: DitBackend> {
    /// Before all others: the backward pass of the last samples of the batch with these keys will be taken to its end.
    Begins(Vec<String>),
    /// While the pass goes on.
    Early(Named<B>),
    /// Once it is through.
    Last(Named<B>),
}

/// Where gradients are collected, and from which they leave while it is open.
#[derive(Debug)]
pub(crate) struct Outbox<B: DitBackend> {
    /// After how many parts of the backward pass each was whole, in the steps so far and in this one.
    order: BTreeMap<String, usize>,
    found: BTreeMap<String, usize>,
    /// Parts that came in this step.
    parts: usize,
    /// Sums of the samples before.
    before: Gradients<B>,
    /// What has not left.
    held: Gradients<B>,
    way: Option<Sender<Leaving<B>>>,
}

impl<B: DitBackend> Outbox<B> {
    /// One that is closed.
    pub(crate) fn new() -> Self {
        Self {
            order: BTreeMap::new(),
            found: BTreeMap::new(),
            parts: 0,
            before: Gradients::none(),
            held: Gradients::none(),
            way: None,
        }
    }

    pub(super) fn open(&mut self, way: Sender<Leaving<B>>) {
        self.way = Some(way);
    }

    pub(super) fn close(&mut self) {
        self.way = None;
    }

    /// What is computed next are the last samples of the batch with these keys; the gradients of those before are given.
    pub(crate) fn begin(&mut self, keys: &[String], before: Gradients<B>) {
        self.parts = 0;
        self.before = before;
        self.send(Leaving::Begins(keys.into()));
    }

    /// Takes a part of the gradients, which are sums of all parts.
    pub(crate) fn take(&mut self, part: Gradients<B>) {
        self.parts += 1;
        let names = part.iter().map(|(name, _)| (name.clone(), self.parts));
        self.found.extend(names);
        self.held.add(part);
        if self.way.is_none() {
            return;
        }
        let mut whole = Vec::new();
        for name in self.held.names() {
            // Whatever is new is kept to the end.
            if self.order.get(&name).is_none_or(|last| *last > self.parts) {
                continue;
            }
            let Some(sum) = self.held.take(&name) else {
                continue;
            };
            let sum = match self.before.take(&name) {
                Some(before) => before + sum,
                None => sum,
            };
            whole.push((name, sum));
        }
        if !whole.is_empty() {
            self.send(Leaving::Early(whole));
        }
    }

    /// After the last part: what remains here, which is all if it is closed.
    pub(crate) fn rest(&mut self) -> Gradients<B> {
        for (name, last) in mem::take(&mut self.found) {
            let known = self.order.entry(name).or_default();
            *known = last.max(*known);
        }
        let rest = self.before.take_all().plus(self.held.take_all());
        if self.way.is_none() {
            return rest;
        }
        self.send(Leaving::Last(rest.into_iter().collect()));
        Gradients::none()
    }

    /// After an error nobody listens.
    fn send(&self, leaving: Leaving<B>) {
        if let Some(way) = &self.way {
            let _ = way.send(leaving);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use burn_flex::Flex;
    use std::sync::mpsc;

    fn grads(named: &[(&str, f32)]) -> Gradients<Flex> {
        let tensor = |number| Tensor::from_data(TensorData::from([number]), &Default::default());
        let tensors = named.iter();
        Gradients::from_tensors(tensors.map(|(name, number)| ((*name).into(), tensor(*number))))
    }

    fn named(grads: impl IntoIterator<Item = (String, Tensor<Flex, 1>)>) -> Vec<(String, f32)> {
        let numbers = grads.into_iter();
        numbers
            .map(|(name, grad)| (name, grad.into_scalar()))
            .collect()
    }

    /// A step of three parts: what left before its end, what then, and what stays.
    fn step(outbox: &mut Outbox<Flex>, parts: &[Gradients<Flex>]) -> [Vec<(String, f32)>; 3] {
        let (way, left) = mpsc::channel();
        outbox.open(way);
        let rest = pass(outbox, parts);
        outbox.close();
        let (mut early, mut last) = (Vec::new(), Vec::new());
        let mut left = left.into_iter();
        assert!(matches!(left.next(), Some(Leaving::Begins(keys)) if keys == ["a"]));
        for leaving in left {
            match leaving {
                Leaving::Early(grads) => early.extend(named(grads)),
                Leaving::Last(grads) => last.extend(named(grads)),
                Leaving::Begins(_) => panic!("it began twice"),
            }
        }
        [early, last, named(rest.into_iter())]
    }

    fn pass(outbox: &mut Outbox<Flex>, parts: &[Gradients<Flex>]) -> Gradients<Flex> {
        outbox.begin(&["a".into()], grads(&[("late", 0.5), ("used twice", 4.0)]));
        for part in parts {
            outbox.take(part.clone());
        }
        outbox.rest()
    }

    #[test]
    fn a_gradient_leaves_when_it_is_whole_and_not_before() {
        let parts = [
            grads(&[("late", 1.0), ("used twice", 1.0)]),
            grads(&[("early", 7.0), ("used twice", 2.0)]),
            grads(&[("late", 2.0)]),
        ];
        let of = |names: &[(&str, f32)]| -> Vec<(String, f32)> {
            let names = names.iter();
            names
                .map(|(name, number)| ((*name).into(), *number))
                .collect()
        };
        let sums = of(&[("early", 7.0), ("late", 3.5), ("used twice", 7.0)]);
        let mut outbox = Outbox::new();
        // While it is closed, all stays.
        assert_eq!(named(pass(&mut outbox, &parts).into_iter()), sums);
        let early = of(&[("early", 7.0), ("used twice", 7.0), ("late", 3.5)]);
        assert_eq!(step(&mut outbox, &parts), [early, vec![], vec![]]);
        // A parameter that is new waits for the end; what comes to one that has left follows it.
        let mut more = parts.clone();
        more[0].add(grads(&[("new", 3.0)]));
        more[2].add(grads(&[("early", 1.0)]));
        let early = [
            ("early", 7.0),
            ("used twice", 7.0),
            ("early", 1.0),
            ("late", 3.5),
        ];
        let last = of(&[("new", 3.0)]);
        assert_eq!(step(&mut outbox, &more), [of(&early), last, vec![]]);
        // From then on it waits as well.
        let early = of(&[
            ("new", 3.0),
            ("used twice", 7.0),
            ("early", 8.0),
            ("late", 3.5),
        ]);
        assert_eq!(step(&mut outbox, &more), [early, vec![], vec![]]);
    }
}
