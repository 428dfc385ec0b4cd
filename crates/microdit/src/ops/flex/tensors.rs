//! Tensors as kernels take them, and kernels by the type of their numbers.

use super::number::Number;
use crate::ops::DitBackend as _;
use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_flex::{Flex, FlexTensor};

/// The tensor in one piece of memory.
pub(super) fn flat<const D: usize>(x: Tensor<Flex, D>) -> FlexTensor {
    x.into_primitive().tensor().to_contiguous()
}

/// A tensor of new values.
pub(super) fn tensor<N: Number, const D: usize>(
    values: Vec<N>,
    shape: [usize; D],
) -> Tensor<Flex, D> {
    let data = burn::tensor::TensorData::new(values, Shape::from(shape));
    Tensor::from_primitive(TensorPrimitive::Float(FlexTensor::from_data(data)))
}

pub(super) fn is_f32<const D: usize>(x: &Tensor<Flex, D>) -> bool {
    x.dtype() == DType::F32
}

/// Whether it is of a type that products take.
pub(super) fn is_narrow<const D: usize>(x: &Tensor<Flex, D>) -> bool {
    x.dtype() == DType::BF16
}

/// The elements of contiguous tensors.
pub(super) fn slices<N: Number, const K: usize>(tensors: &[FlexTensor; K]) -> [&[N]; K] {
    tensors.each_ref().map(FlexTensor::storage)
}

/// `$run` with `$N` the type of all of these tensors, if that is f32 or bf16, else `$otherwise`.
macro_rules! by_number {
    ([$first:expr $(, $x:expr)*], $N:ident => $run:expr, $otherwise:expr) => {
        match ($first.dtype(), true $(&& $x.dtype() == $first.dtype())*) {
            (burn::tensor::DType::F32, true) => {
                type $N = f32;
                $run
            }
            (burn::tensor::DType::BF16, true) => {
                type $N = burn::tensor::bf16;
                $run
            }
            _ => $otherwise,
        }
    };
}

/// The same in f32.
pub(super) fn wide<const D: usize>(x: Tensor<Flex, D>) -> Tensor<Flex, D> {
    Flex::cast(x, DType::F32)
}

pub(super) use by_number;
