//! What every engine does, on threads.

use super::*;
use crate::{error::TrainError, optim::Gradients, sharding::Shares, step::Computed};
use agreement::differences;
use burn::tensor::Tensor;
use burn_flex::Flex;
use half::bf16;
use microdit::Precision;
use microdit_data::{Batch, Captions};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Patience that nothing should wear out.
fn patient(stop: &AtomicBool) -> Patience<'_> {
    Patience {
        stop,
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(60),
    }
}

/// What `work` returns on each of as many ranks.
fn on_ranks<R: Send>(count: usize, work: impl Fn(&Threads, &Patience<'_>) -> R + Sync) -> Vec<R> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (work, stop) = (&work, &stop);
        let start = |rank: Threads| scope.spawn(move || work(&rank, &patient(stop)));
        let threads: Vec<_> = Threads::new(count).into_iter().map(start).collect();
        let ends = threads.into_iter();
        ends.map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn every_operation_does_what_it_says() {
    for count in [1, 2, 5] {
        let parts: Vec<usize> = (0..count).map(|rank| 2 * rank).collect();
        let all: usize = parts.iter().sum();
        on_ranks(count, |ranks, patience| {
            let rank = ranks.rank();
            for round in 0..50 {
                // Of rank r, the i-th number is i + r.
                let own = |length: usize| -> Vec<f32> {
                    (0..length).map(|i| (i + rank + round) as f32).collect()
                };
                let sum = |i: usize| {
                    (0..count)
                        .map(|rank| (i + rank + round) as f32)
                        .sum::<f32>()
                };
                let sums: Vec<f32> = (0..all).map(sum).collect();
                assert_eq!(ranks.all_reduce(own(all), patience).unwrap(), sums);
                let start: usize = parts[..rank].iter().sum();
                let part = ranks.reduce_scatter(own(all), &parts, patience).unwrap();
                assert_eq!(part, sums[start..start + parts[rank]]);
                let narrow = Operation::ReduceScatterBf16(parts.clone());
                let thirds = own(all).into_iter().map(|number| number / 3.0).collect();
                let part = ranks.collect(&narrow, thirds, patience).unwrap();
                let rounded = |i: usize| -> f32 {
                    let of_rank = |rank| bf16::from_f32((i + rank + round) as f32 / 3.0).to_f32();
                    (0..count).map(of_rank).sum()
                };
                let expected: Vec<f32> = (start..start + parts[rank]).map(rounded).collect();
                assert_eq!(part, expected);
                let gathered = ranks.all_gather(own(parts[rank]), &parts, patience);
                let expected = (0..count).flat_map(|r| (0..parts[r]).map(move |i| i + r + round));
                let expected: Vec<f32> = expected.map(|number| number as f32).collect();
                assert_eq!(gathered.unwrap(), expected);
                let root = round % count;
                let shared = ranks.broadcast(own(3), root, patience).unwrap();
                assert_eq!(shared, [0, 1, 2].map(|i| (i + root + round) as f32));
                ranks.barrier(patience).unwrap();
            }
        });
    }
}

#[test]
fn sums_are_taken_in_the_order_of_the_ranks() {
    // 2^24 + 1 is lost in an f32; in another order it is not.
    let numbers = [16_777_216.0, 1.0, -16_777_216.0];
    let sums = on_ranks(3, |ranks, patience| {
        // The last to come is not always the last rank.
        thread::sleep(Duration::from_millis(10 * (3 - ranks.rank() as u64)));
        ranks.all_reduce(vec![numbers[ranks.rank()]], patience)
    });
    assert!(sums.iter().all(|sum| *sum == Ok(vec![0.0])), "{sums:?}");
}

#[test]
fn ranks_that_are_out_of_step_are_told() {
    let results = on_ranks(2, |ranks, patience| match ranks.rank() {
        0 => ranks.barrier(patience).map(|()| Vec::new()),
        _ => ranks.all_reduce(Vec::new(), patience),
    });
    for result in results {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("at Barrier, another at AllReduce"),
            "{error}"
        );
    }
}

#[test]
fn nobody_waits_for_ever() {
    let stop = AtomicBool::new(false);
    let mut ranks = Threads::new(2).into_iter();
    let (first, second) = (ranks.next().unwrap(), ranks.next());
    let patience = Patience {
        timeout: Duration::from_millis(50),
        ..patient(&stop)
    };
    let began = Instant::now();
    assert_eq!(first.barrier(&patience), Err(Lost::Silent(0)));
    assert!(began.elapsed() >= patience.timeout);
    stop.store(true, Ordering::Relaxed);
    let patience = Patience {
        grace: Duration::from_millis(50),
        ..patient(&stop)
    };
    assert_eq!(first.barrier(&patience), Err(Lost::Stopping));
    drop(second);
    let error = first.barrier(&patient(&stop)).unwrap_err().to_string();
    assert!(error.contains("rank 1 is gone"), "{error}");
}

#[test]
fn ranks_agree_or_learn_what_differs() {
    let facts = |pairs: &[(&str, &str)]| -> Facts {
        let pairs = pairs.iter();
        pairs
            .map(|(name, fact)| ((*name).to_owned(), (*fact).to_owned()))
            .collect()
    };
    let same = facts(&[("seed", "0"), ("version", "1")]);
    let agreed = on_ranks(3, |ranks, patience| agree(ranks, &same, patience));
    assert!(agreed.iter().all(Result::is_ok));
    let other = facts(&[("seed", "1"), ("version", "1"), ("é\nmore", "x")]);
    let differ = on_ranks(3, |ranks, patience| {
        let facts = if ranks.rank() == 1 { &other } else { &same };
        agree(ranks, facts, patience).unwrap_err().to_string()
    });
    for error in differ {
        assert!(error.starts_with("rank 1 differs from rank 0"), "{error}");
        assert!(error.contains("seed: 0 on rank 0, 1 on rank 1"), "{error}");
        assert!(!error.contains("version"), "{error}");
    }
    let only = differences("a\0x\n", "b\0y\n", 2);
    let expected = [
        "a: x on rank 0, nothing on rank 2",
        "b: nothing on rank 0, y on rank 2",
    ];
    assert_eq!(only, expected);
}

#[test]
fn a_failure_of_one_is_known_to_all() {
    let done = on_ranks(3, |ranks, patience| {
        let done = match ranks.rank() {
            1 => Err(TrainError::TooManyPictures),
            rank => Ok(rank),
        };
        together(ranks, patience, done)
    });
    assert!(matches!(done[1], Err(TrainError::TooManyPictures)));
    for rank in [0, 2] {
        assert!(matches!(
            done[rank],
            Err(TrainError::RankFailed { rank: 1, .. })
        ));
    }
    let done = on_ranks(2, |ranks, patience| together(ranks, patience, Ok(5)));
    assert!(done.iter().all(|done| matches!(done, Ok(5))));
}

fn summing<'a>(ranks: &'a Threads, patience: &'a Patience<'_>, shares: &'a Shares) -> Summing<'a> {
    Summing {
        exchange: Exchange {
            ranks,
            patience,
            bucket: 1,
        },
        shares,
        precision: Precision::F32,
        keeps_own: false,
        own: Agreed {
            looks: false,
            in_parts: false,
        },
    }
}

/// Whether all gradients leave at once, or in parts.
#[test]
fn ranks_with_other_gradients_are_told() {
    let numbers = |count: usize| Tensor::from_floats(&vec![1.0; count][..], &Default::default());
    let grads = |names: &[&str]| {
        let named = names.iter().map(|name| ((*name).to_owned(), numbers(2)));
        Gradients::<Flex>::from_tensors(named)
    };
    let batch = Batch {
        keys: Vec::new(),
        texts: Vec::new(),
        captions: Captions::Texts(Vec::new()),
        images: Vec::new(),
        shape: [0; 3],
        next: Default::default(),
    };
    for in_parts in [false, true] {
        let ended = on_ranks(2, |ranks, patience| {
            let shares = Shares::default();
            let summing = summing(ranks, patience, &shares);
            let own = grads(&[["a"], ["b"]][ranks.rank()]);
            let computed = |grads| Computed {
                losses: numbers(1),
                terms: Vec::new(),
                grads,
            };
            let traffic = &mut Traffic::default();
            let sum = match in_parts {
                false => sum(
                    &summing,
                    4,
                    Ok(Some((batch.clone(), computed(own)))),
                    traffic,
                ),
                true => sum_in_parts(&summing, 4, &mut Outbox::new(), traffic, |outbox| {
                    outbox.begin(&[], Gradients::none());
                    outbox.take(own);
                    Ok(Some((batch.clone(), computed(outbox.rest()))))
                }),
            };
            sum.map(drop).unwrap_err().to_string()
        });
        for error in ended {
            assert!(error.contains("rank 1 differs from rank 0"), "{error}");
            assert!(error.contains("the batch after step 4"), "{error}");
        }
    }
}

#[test]
fn a_step_that_fails_on_one_rank_ends_all_of_them() {
    let ended = on_ranks(3, |ranks, patience| {
        let own: Result<Option<Trained<Flex>>, _> = match ranks.rank() {
            1 => Err(TrainError::TooManyPictures),
            _ => Ok(None),
        };
        let shares = Shares::default();
        let summing = summing(ranks, patience, &shares);
        let sum = sum(&summing, 4, own, &mut Traffic::default());
        // What was trained cannot be shown.
        sum.map(drop)
    });
    assert!(matches!(ended[1], Err(TrainError::TooManyPictures)));
    for rank in [0, 2] {
        assert!(matches!(
            ended[rank],
            Err(TrainError::RankFailed {
                rank: 1,
                step: Some(4)
            })
        ));
    }
}

#[test]
fn texts_of_all_ranks_are_gathered() {
    let texts = ["", "one", &"é".repeat(70_000)];
    let gathered = on_ranks(3, |ranks, patience| {
        gather_texts(ranks, texts[ranks.rank()], patience).unwrap()
    });
    assert!(gathered.iter().all(|gathered| gathered == &texts));
}

#[test]
fn bytes_are_counted_as_they_have_to_be_sent() {
    let sent = on_ranks(4, |ranks, patience| {
        let (meter, rank) = (Meter::new(ranks), ranks.rank());
        let mut counts = Vec::new();
        let mut count = |done: Result<Vec<f32>, Lost>| {
            done.unwrap();
            counts.push(meter.sent() - counts.iter().sum::<u64>());
        };
        let parts = [1, 2, 3, 4];
        let narrow = Operation::ReduceScatterBf16(parts.into());
        count(meter.all_reduce(vec![0.0; 8], patience));
        count(meter.reduce_scatter(vec![0.0; 10], &parts, patience));
        count(meter.collect(&narrow, vec![0.0; 10], patience));
        count(meter.all_gather(vec![0.0; parts[rank]], &parts, patience));
        count(meter.broadcast(vec![0.0; 5], 2, patience));
        counts
    });
    for (rank, counts) in sent.into_iter().enumerate() {
        let (own, others) = (rank as u64 + 1, 9 - rank as u64);
        let broadcast = if rank == 2 { 60 } else { 0 };
        let expected = [48, 4 * others, 2 * others, 12 * own, broadcast];
        assert_eq!(counts, expected, "rank {rank}");
    }
}

#[test]
fn a_text_of_any_length_is_shared() {
    for text in ["", "runs/a", &"é".repeat(70_000)] {
        let shared = on_ranks(2, |ranks, patience| {
            let own = if ranks.rank() == 1 { text } else { "other" };
            share_text(ranks, own, 1, patience).unwrap()
        });
        assert!(shared.iter().all(|shared| shared == text));
    }
}
