//! How long the parts of each metric take: `microdit-metrics [PICTURES [DIM [ROUNDS]]]`, medians in seconds.

use microdit::rng::{Purpose, Stream};
use microdit_eval::{
    features::Rows,
    metrics::{
        Moments, frechet, kernel,
        neighbours::{NEIGHBOURS, prdc},
    },
};
use std::{hint::black_box, time::Instant};

/// Features as a network gives them: not negative, and with variances that fall over the dimensions.
fn features(pictures: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut values = Vec::with_capacity(pictures * dim);
    for picture in 0..pictures as u64 {
        let noise = Stream::new(seed, Purpose::Synthetic, 0, picture).normal(dim);
        let scaled = noise
            .into_iter()
            .zip(1u16..)
            .map(|(value, i)| (value / f32::from(i).sqrt()).max(0.0));
        values.extend(scaled);
    }
    values
}

/// Prints the median of some rounds.
fn time<T>(what: &str, rounds: usize, mut work: impl FnMut() -> T) -> T {
    let mut seconds = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        let start = Instant::now();
        last = Some(black_box(work()));
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "| {what} | {:.2} | {:.2} to {:.2} |",
        seconds[seconds.len() / 2],
        seconds[0],
        seconds[seconds.len() - 1]
    );
    last.expect("at least one round")
}

fn main() {
    let number = |place: usize, default: usize| {
        let given = std::env::args()
            .nth(place)
            .map(|text| text.parse().expect("a whole number"));
        given.unwrap_or(default)
    };
    let (pictures, dim, rounds) = (number(1, 10_000), number(2, 2048), number(3, 3));
    let [a, b] = [0, 1].map(|seed| features(pictures, dim, seed));
    let [a, b] = [&a, &b].map(|values| Rows::new(values, dim).expect("finite features"));
    println!("| {pictures} x {dim} | median, s | range, s |\n|---|---|---|");
    let [from, to] = time("FID: moments of both sides", rounds, || {
        [a, b].map(Moments::of)
    })
    .map(|moments| moments.gaussian().expect("two pictures"));
    let reference = time("FID: decomposition of the reference", rounds, || {
        frechet::Reference::new(&to).expect("a covariance")
    });
    time("FID: distance to it", rounds, || {
        reference.distance(&from).expect("a covariance")
    });
    time("KID", rounds, || {
        kernel::distance(a, b, 0).expect("two pictures")
    });
    time("precision, recall, density, coverage", rounds, || {
        prdc(b, a, NEIGHBOURS).expect("more pictures than neighbours")
    });
    time("CMMD", rounds, || kernel::cmmd(a, b).expect("two pictures"));
}
