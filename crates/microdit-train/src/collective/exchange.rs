//! The exchange of many tensors in buckets: while one is on its way, the next is read from the device.
//!
//! Every tensor belongs to a rank. A bucket has a part for each of them, which is a part of its tensors laid one after the other; so all
//! ranks send and receive alike, however large single tensors are.

use super::{Collective, Lost, Operation, Patience};
use burn::tensor::{Tensor, backend::Backend};
use microdit::Precision;
use std::{
    collections::VecDeque,
    ops::Range,
    panic,
    sync::mpsc::{self, sync_channel},
    thread,
};

/// The ranks, and how tensors are exchanged with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) ranks: &'a dyn Collective,
    pub(crate) patience: &'a Patience<'a>,
    /// Most numbers in a bucket.
    pub(crate) bucket: usize,
}

/// Tensors with one dimension, laid one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<B: Backend>(Vec<Tensor<B, 1>>);

impl<B: Backend> Pieces<B> {
    pub(crate) fn new(tensors: Vec<Tensor<B, 1>>) -> Self {
        Self(tensors)
    }

    /// Numbers in them.
    fn len(&self) -> usize {
        self.0.iter().map(|tensor| tensor.dims()[0]).sum()
    }

    /// The tensors and parts of tensors in a range of the numbers.
    fn of(&self, range: &Range<usize>) -> Vec<Tensor<B, 1>> {
        let mut start = 0;
        let mut found = Vec::new();
        for tensor in &self.0 {
            let size = tensor.dims()[0];
            let from = range.start.max(start);
            let to = range.end.min(start + size);
            if from < to {
                found.push(tensor.clone().narrow(0, from - start, to - from));
            }
            start += size;
        }
        found
    }
}

/// The numbers of tensors, read at once from the first one's device.
fn read<B: Backend>(tensors: Vec<Tensor<B, 1>>) -> Vec<f32> {
    let Some(device) = tensors.first().map(Tensor::device) else {
        return Vec::new();
    };
    let here = tensors.into_iter().map(|tensor| tensor.to_device(&device));
    // As they lie in memory, where they are f32.
    let data = Tensor::cat(here.collect(), 0).into_data().convert::<f32>();
    data.into_vec().expect("they were converted to f32")
}

/// Parts that arrive, cut into tensors of these sizes.
#[derive(Debug)]
struct Cut {
    sizes: VecDeque<usize>,
    rest: Vec<f32>,
}

impl Cut {
    fn new(sizes: &[usize]) -> Self {
        Self {
            sizes: sizes.iter().copied().collect(),
            rest: Vec::new(),
        }
    }

    /// What is complete with these numbers.
    fn push(&mut self, numbers: &[f32]) -> Vec<Vec<f32>> {
        self.rest.extend_from_slice(numbers);
        let (mut start, mut complete) = (0, Vec::new());
        while let Some(size) = self.sizes.front().copied()
            && start + size <= self.rest.len()
        {
            self.sizes.pop_front();
            complete.push(self.rest[start..start + size].to_vec());
            start += size;
        }
        self.rest.drain(..start);
        complete
    }
}

impl Exchange<'_> {
    /// This rank's tensors of the sum over the ranks, each of which brings the tensors of all ranks: numbers of those of this rank, whose
    /// sizes are `own`, one tensor after the other.
    pub(crate) fn reduce_scatter<B: Backend>(
        &self,
        tensors: &[Pieces<B>],
        own: &[usize],
        precision: Precision,
    ) -> Result<Vec<Vec<f32>>, Lost> {
        let lengths: Vec<usize> = tensors.iter().map(Pieces::len).collect();
        let buckets = buckets(&lengths, self.bucket);
        let operations = buckets.iter().map(|ranges| {
            let parts = ranges.iter().map(Range::len).collect();
            match precision {
                Precision::F32 => Operation::ReduceScatter(parts),
                Precision::Bf16 => Operation::ReduceScatterBf16(parts),
            }
        });
        let operations: Vec<Operation> = operations.collect();
        let (mut cut, mut sums) = (Cut::new(own), Vec::new());
        let prepare = |i: usize| {
            let parts = tensors.iter().zip(&buckets[i]);
            read(
                parts
                    .flat_map(|(tensors, range)| tensors.of(range))
                    .collect(),
            )
        };
        self.pipelined(&operations, prepare, |_, numbers| {
            sums.extend(cut.push(&numbers));
        })?;
        Ok(sums)
    }

    /// The tensors of all other ranks, which have these `sizes` by rank, and of which this one brings its `own`. Each is given to `take` with
    /// its rank and its number there.
    pub(crate) fn all_gather<B: Backend>(
        &self,
        own: &Pieces<B>,
        sizes: &[Vec<usize>],
        mut take: impl FnMut(usize, usize, Vec<f32>),
    ) -> Result<(), Lost> {
        let rank = self.ranks.rank();
        let lengths: Vec<usize> = sizes.iter().map(|sizes| sizes.iter().sum()).collect();
        let buckets = buckets(&lengths, self.bucket);
        let operations = buckets.iter().map(|ranges| {
            let parts = ranges.iter().map(Range::len).collect();
            Operation::AllGather(parts)
        });
        let operations: Vec<Operation> = operations.collect();
        let mut cuts: Vec<(usize, Cut)> = sizes.iter().map(|sizes| (0, Cut::new(sizes))).collect();
        let prepare = |i: usize| read(own.of(&buckets[i][rank]));
        self.pipelined(&operations, prepare, |i, numbers| {
            let mut start = 0;
            for (of, (range, (count, cut))) in buckets[i].iter().zip(&mut cuts).enumerate() {
                let part = &numbers[start..start + range.len()];
                start += range.len();
                if of == rank {
                    continue;
                }
                for tensor in cut.push(part) {
                    take(of, *count, tensor);
                    *count += 1;
                }
            }
        })
    }

    /// Takes part in the operations, one after the other, on another thread, while this one prepares the numbers of the next and takes
    /// what came of those before.
    fn pipelined(
        &self,
        operations: &[Operation],
        mut prepare: impl FnMut(usize) -> Vec<f32>,
        mut take: impl FnMut(usize, Vec<f32>),
    ) -> Result<(), Lost> {
        thread::scope(|scope| {
            let (give, given) = sync_channel::<(usize, Vec<f32>)>(1);
            let (tell, told) = mpsc::channel();
            let engine = scope.spawn(move || {
                for (i, numbers) in given {
                    let done = self.ranks.collect(&operations[i], numbers, self.patience);
                    let ends = done.is_err();
                    if tell.send((i, done)).is_err() || ends {
                        break;
                    }
                }
            });
            for i in 0..operations.len() {
                // After an error nobody listens.
                if give.send((i, prepare(i))).is_err() {
                    break;
                }
                for (i, done) in told.try_iter() {
                    take(i, done?);
                }
            }
            drop(give);
            for (i, done) in told {
                take(i, done?);
            }
            engine
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic));
            Ok(())
        })
    }
}

/// The ranges of the ranks' numbers, of which there are so many, that are exchanged together: in every bucket as many of each, up to
/// their ends.
fn buckets(lengths: &[usize], most: usize) -> Vec<Vec<Range<usize>>> {
    let part = (most / lengths.len()).max(1);
    let longest = lengths.iter().max().copied().unwrap_or(0);
    let bucket = |i: usize| {
        let range = |&length: &usize| (i * part).min(length)..((i + 1) * part).min(length);
        lengths.iter().map(range).collect()
    };
    (0..longest.div_ceil(part)).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Threads;
    use burn::tensor::TensorData;
    use burn_flex::Flex;
    use std::{sync::atomic::AtomicBool, time::Duration};

    #[test]
    fn buckets_hold_every_number_once() {
        assert_eq!(
            buckets(&[3, 0, 5], 6),
            [
                vec![0..2, 0..0, 0..2],
                vec![2..3, 0..0, 2..4],
                vec![3..3, 0..0, 4..5],
            ]
        );
        assert_eq!(buckets(&[2, 2], 1), [vec![0..1, 0..1], vec![1..2, 1..2]]);
        assert!(buckets(&[0, 0], 8).is_empty());
    }

    fn tensor(numbers: impl Iterator<Item = usize>) -> Tensor<Flex, 1> {
        let numbers: Vec<f32> = numbers.map(|number| number as f32).collect();
        let count = numbers.len();
        Tensor::from_data(TensorData::new(numbers, [count]), &Default::default())
    }

    /// Tensors larger and smaller than a bucket, of ranks with many, few and none.
    #[test]
    fn tensors_arrive_whole_whatever_the_buckets() {
        let sizes = [vec![3, 11, 1], vec![], vec![7]];
        for bucket in [1, 4, 9, 1000] {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for ranks in Threads::new(3) {
                    let (sizes, stop) = (&sizes, &stop);
                    scope.spawn(move || {
                        let patience = Patience {
                            stop,
                            timeout: Duration::from_secs(60),
                            grace: Duration::from_secs(60),
                        };
                        let exchange = Exchange {
                            ranks: &ranks,
                            patience: &patience,
                            bucket,
                        };
                        let rank = ranks.rank();
                        // Of rank r, tensor t of owner o: 100 o + 10 t + r and one more for each place.
                        let numbers = |of: usize, i: usize, rank: usize| {
                            (0..sizes[of][i]).map(move |place| 100 * of + 10 * i + rank + place)
                        };
                        let of = |of: usize| {
                            let tensors = 0..sizes[of].len();
                            Pieces::new(tensors.map(|i| tensor(numbers(of, i, rank))).collect())
                        };
                        let all: Vec<Pieces<Flex>> = (0..3).map(of).collect();
                        let sums = exchange.reduce_scatter(&all, &sizes[rank], Precision::F32);
                        let sums = sums.unwrap();
                        assert_eq!(sums.len(), sizes[rank].len());
                        for (i, sum) in sums.iter().enumerate() {
                            let one = numbers(rank, i, 0);
                            // Three ranks, which add 0, 1 and 2.
                            assert!(sum.iter().copied().eq(one.map(|x| (3 * x + 3) as f32)));
                        }
                        let mut found = Vec::new();
                        exchange
                            .all_gather(&all[rank], sizes, |of, i, numbers| {
                                found.push((of, i, numbers));
                            })
                            .unwrap();
                        found.sort_by_key(|&(of, i, _)| (of, i));
                        let others = (0..3).filter(|&of| of != rank);
                        let expected = others.flat_map(|of| {
                            (0..sizes[of].len()).map(move |i| {
                                let numbers = numbers(of, i, of).map(|number| number as f32);
                                (of, i, numbers.collect::<Vec<f32>>())
                            })
                        });
                        assert_eq!(found, expected.collect::<Vec<_>>(), "bucket {bucket}");
                    });
                }
            });
        }
    }
}
