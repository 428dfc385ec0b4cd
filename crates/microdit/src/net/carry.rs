//! What flows between the segments of a network, in a form that activation checkpointing can cut and join again.

use burn::tensor::{Tensor, backend::AutodiffBackend};

/// What flows from segment to segment while gradients are recorded: tensors, and whatever else is cheap to clone.
///
/// Implemented for tensors, and for options, vectors, pairs and triples of carries; a struct of your own visits its fields
/// in a fixed order.
pub trait Carry<B: AutodiffBackend>: Clone + Send {
    /// The same without automatic differentiation: the carry of the inner network.
    type Inner: Clone + Send;

    /// A carry of the same numbers whose tensors are leaves that record gradients.
    fn record(inner: Self::Inner) -> Self;

    /// Shows all tensors to `visitor`: always the same ones in the same order.
    fn visit(&self, visitor: &mut impl CarryVisitor<B>);
}

/// Sees the tensors of a [`Carry`].
pub trait CarryVisitor<B: AutodiffBackend> {
    /// The next of them.
    fn tensor<const D: usize>(&mut self, tensor: &Tensor<B, D>);
}

impl<B: AutodiffBackend, const D: usize> Carry<B> for Tensor<B, D> {
    type Inner = Tensor<B::InnerBackend, D>;

    fn record(inner: Self::Inner) -> Self {
        Tensor::from_inner(inner).require_grad()
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        visitor.tensor(self);
    }
}

impl<B: AutodiffBackend, C: Carry<B>> Carry<B> for Option<C> {
    type Inner = Option<C::Inner>;

    fn record(inner: Self::Inner) -> Self {
        inner.map(C::record)
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.iter().for_each(|carry| carry.visit(visitor));
    }
}

impl<B: AutodiffBackend, C: Carry<B>> Carry<B> for Vec<C> {
    type Inner = Vec<C::Inner>;

    fn record(inner: Self::Inner) -> Self {
        inner.into_iter().map(C::record).collect()
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.iter().for_each(|carry| carry.visit(visitor));
    }
}

impl<B: AutodiffBackend, A: Carry<B>, C: Carry<B>> Carry<B> for (A, C) {
    type Inner = (A::Inner, C::Inner);

    fn record((a, c): Self::Inner) -> Self {
        (A::record(a), C::record(c))
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.0.visit(visitor);
        self.1.visit(visitor);
    }
}

impl<B: AutodiffBackend, A: Carry<B>, C: Carry<B>, E: Carry<B>> Carry<B> for (A, C, E) {
    type Inner = (A::Inner, C::Inner, E::Inner);

    fn record((a, c, e): Self::Inner) -> Self {
        (A::record(a), C::record(c), E::record(e))
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.0.visit(visitor);
        self.1.visit(visitor);
        self.2.visit(visitor);
    }
}
