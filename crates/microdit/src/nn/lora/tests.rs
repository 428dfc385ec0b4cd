use super::*;
use crate::{
    Dit,
    net::{
        Conditioning, Denoiser as _,
        dit::tests::{config, shaken},
    },
    range::OutOfRange,
    weights::StateDict,
};
use burn::{module::AutodiffModule as _, tensor::backend::AutodiffBackend};
use burn_autodiff::Autodiff;
use burn_flex::Flex;

type Tracked = Autodiff<Flex>;

/// Adapters in which nothing is zero.
fn lora<B: DitBackend>(config: &LoraConfig, network: &Dit<B>) -> Lora<B> {
    let fresh = config.init(network, 5, &Default::default()).unwrap();
    let mut count = 0;
    let adapters = fresh.adapters.into_iter().map(|adapter| {
        count += 1;
        let [outputs, rank] = adapter.up.dims();
        let values = Stream::new(6, Purpose::Init, 0, count).normal(outputs * rank);
        let values = TensorData::new(values, [outputs, rank]);
        let up = Tensor::from_data(values, &Default::default()) * 0.1;
        let up = Param::from_tensor(up);
        Adapter { up, ..adapter }
    });
    Lora {
        adapters: adapters.collect(),
    }
}

fn small() -> LoraConfig {
    LoraConfig {
        layers: vec!["qkv".into(), "patch_embed.proj".into(), "w1".into()],
        rank: 3,
        alpha: Some(5.0),
        ..LoraConfig::default()
    }
}

/// A number that depends on every weight.
fn loss<B: DitBackend>(network: &Dit<B>) -> Tensor<B, 1> {
    let device = Default::default();
    let draw = |key, shape: [usize; 4]| {
        let values = Stream::new(3, Purpose::Noise, 0, key).normal(shape.iter().product());
        Tensor::<B, 4>::from_data(TensorData::new(values, shape), &device)
    };
    let captions = draw(1, [1, 2, 5, 12]).reshape([2, 5, 12]);
    let time = Tensor::from_data([0.3f32, -0.4], &device);
    let out = network.image(draw(0, [2, 4, 8, 8]), time, Conditioning { captions });
    (out - draw(2, [2, 4, 8, 8])).powi_scalar(2).mean()
}

fn number<B: Backend>(x: Tensor<B, 1>) -> f64 {
    x.into_data().iter::<f64>().sum()
}

/// What a weight of 2 or 4 dimensions and its gradient are, flattened, by the layer's path.
struct Flat<'a, B: AutodiffBackend>(
    &'a B::Gradients,
    BTreeMap<String, Tensor<B::InnerBackend, 2>>,
);

impl<B: AutodiffBackend> VisitParams<B> for Flat<'_, B> {
    fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
        if let ([layer @ .., WEIGHT], 2 | 4) = (path, D) {
            let grad = param.val().grad(self.0).expect("every weight matters");
            let outputs = grad.dims()[0] as i64;
            self.1.insert(layer.join("."), grad.reshape([outputs, -1]));
        }
    }
}

/// The law that ties an adapter's gradients to that of its layer's weight `W + s up down`: `d down = s up^T dW` and `d up = s dW
/// down^T`. A network whose own weights are those sums gives `dW`.
#[test]
fn gradients_of_adapters_follow_from_those_of_the_weights() {
    let network = shaken::<Tracked>(&config());
    let lora = lora(&small(), &network);
    assert!(lora.adapters.len() > 8, "{}", lora.adapters.len());
    let adapted = lora.apply(network.clone(), 1.0);
    let through = loss(&adapted);
    let found = through.backward();
    let plain = lora.valid().apply(network.valid(), 1.0);
    let plain = StateDict::from_module(&plain);
    let plain = plain.load_into(network, &Default::default()).unwrap();
    let direct = loss(&plain);
    assert_eq!(number(through.inner()), number(direct.clone().inner()));
    let grads = direct.backward();
    let Flat(_, weights) = params::visit(&plain, Flat::<Tracked>(&grads, BTreeMap::new()));
    for adapter in &lora.adapters {
        let weight = weights[&adapter.layer().path].clone() * adapter.scale();
        let [down, up] = [&adapter.down, &adapter.up].map(|param| param.val().inner());
        for (param, expected) in [
            (&adapter.down, up.transpose().matmul(weight.clone())),
            (&adapter.up, weight.matmul(down.transpose())),
        ] {
            let grad = param.val().grad(&found).expect("adapters are trained");
            let norm = |x: Tensor<Flex, 2>| number(x.powi_scalar(2).sum()).sqrt();
            let error = norm(grad - expected.clone()) / norm(expected);
            assert!(error < 1e-5, "{}: {error}", adapter.layer().path);
        }
    }
}

#[test]
fn a_frozen_network_has_no_gradients_and_its_adapters_do() {
    let network = shaken::<Tracked>(&config()).no_grad();
    let lora = lora(&small(), &network);
    let grads = loss(&lora.apply(network.clone(), 1.0)).backward();
    struct Count<'a>(&'a <Tracked as AutodiffBackend>::Gradients, usize);
    impl VisitParams<Tracked> for Count<'_> {
        fn visit<const D: usize>(&mut self, _: &[&str], param: &Param<Tensor<Tracked, D>>) {
            self.1 += usize::from(param.val().grad(self.0).is_some());
        }
    }
    assert_eq!(params::visit(&network, Count(&grads, 0)).1, 0);
    let trained = params::visit(&lora, Count(&grads, 0)).1;
    assert_eq!(trained, 2 * lora.adapters.len());
}

#[test]
fn strength_scales_and_what_was_merged_is_taken_out() {
    let network = shaken::<Flex>(&config());
    let lora = lora(&small(), &network);
    let distance = |a: &Dit<Flex>, b: &Dit<Flex>| {
        let (a, b) = (StateDict::from_module(a), StateDict::from_module(b));
        let squares = a.iter().map(|(name, a)| {
            let b = b.get(name).unwrap();
            let pairs = a.iter::<f64>().zip(b.iter::<f64>());
            pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        });
        squares.sum::<f64>().sqrt()
    };
    let (full, half) = (
        lora.apply(network.clone(), 1.0),
        lora.apply(network.clone(), 0.5),
    );
    let moved = distance(&full, &network);
    assert!((distance(&half, &network) / moved - 0.5).abs() < 1e-5);
    assert!(distance(&lora.apply(full, -1.0), &network) < 1e-6 * moved);
    // Two at once are their sum, whatever their order.
    let other = LoraConfig {
        rslora: true,
        init: LoraInit::Gaussian,
        ..small()
    };
    let other = self::lora(&other, &network);
    let there = other.apply(lora.apply(network.clone(), 0.7), -0.3);
    let back = lora.apply(other.apply(network.clone(), -0.3), 0.7);
    assert!(distance(&there, &back) < 1e-6 * moved);
    assert_eq!(other.adapters[0].scale(), 5.0 / 3f64.sqrt());
    let squares = other.adapters.iter().map(|adapter| {
        let down = adapter.down.val();
        let count = down.shape().num_elements();
        (number(down.powi_scalar(2).sum()), count)
    });
    let (sum, count) = squares.fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    // More than a thousand draws of standard deviation 1/3.
    let variance = 9.0 * sum / count as f64;
    assert!((variance - 1.0).abs() < 0.2, "{variance} of {count}");
}

#[test]
fn dropout_takes_inputs_and_keeps_the_mean() {
    let network = shaken::<Flex>(&config());
    let lora = lora(
        &LoraConfig {
            dropout: 0.25,
            ..small()
        },
        &network,
    );
    let values = |lora: &Lora<Flex>| -> Vec<Vec<f64>> {
        let all = lora.adapters.iter();
        all.map(|adapter| adapter.down.val().into_data().iter().collect())
            .collect()
    };
    let (own, drawn) = (values(&lora), values(&lora.clone().dropping(0, 1, 0)));
    assert_eq!(drawn, values(&lora.clone().dropping(0, 1, 0)));
    for other in [(1, 1, 0), (0, 2, 0), (0, 1, 1)] {
        let (seed, step, part) = other;
        assert_ne!(drawn, values(&lora.clone().dropping(seed, step, part)));
    }
    let (mut dropped, mut inputs) = (0, 0);
    for ((adapter, own), drawn) in lora.adapters.iter().zip(own).zip(drawn) {
        let [rank, columns] = adapter.down.dims();
        let taps: usize = adapter.layer().shape[2..].iter().product();
        for column in (0..columns).step_by(taps) {
            let cells = (0..rank).flat_map(|row| {
                let start = row * columns + column;
                start..start + taps
            });
            let ratios: Vec<f64> = cells.map(|i| drawn[i] / own[i]).collect();
            let kept = ratios[0] > 0.5;
            let expected = if kept { 4.0 / 3.0 } else { 0.0 };
            let all = ratios.iter().all(|ratio| (ratio - expected).abs() < 1e-6);
            assert!(all, "{}: {ratios:?}", adapter.layer().path);
            (dropped, inputs) = (dropped + usize::from(!kept), inputs + 1);
        }
    }
    let share = f64::from(dropped as u32) / f64::from(inputs as u32);
    // Several hundred inputs: five standard errors.
    assert!(
        inputs > 300 && (share - 0.25).abs() < 0.12,
        "{share} of {inputs}"
    );
}

#[test]
fn patterns_are_ends_of_paths_in_whole_names() {
    let network = shaken::<Flex>(&config());
    let chosen = |layers: &[&str], roles: &[Role]| {
        let config = LoraConfig {
            layers: layers.iter().map(|&layer| layer.to_owned()).collect(),
            roles: roles.into(),
            ..LoraConfig::default()
        };
        let lora = config.init(&network, 0, &Default::default())?;
        let paths = lora.adapters.iter().map(|one| one.layer().path.clone());
        Ok::<Vec<String>, LoraConfigError>(paths.collect())
    };
    let all = chosen(&["*"], &[]).unwrap();
    assert_eq!(all.len(), layers(&network).len());
    assert!(all.contains(&"patch_embed.proj".to_owned()));
    let projections = chosen(&["proj"], &[]).unwrap();
    assert!(projections.iter().all(|path| path.ends_with(".proj")));
    assert_eq!(
        chosen(&["blocks.0.*.proj"], &[]).unwrap(),
        [
            "mixer.blocks.0.attn.proj",
            "mixer.blocks.0.cross_attn.proj",
            "blocks.0.attn.proj",
            "blocks.0.cross_attn.proj"
        ]
    );
    let embeddings = chosen(&["*"], &[Role::Embedding]).unwrap();
    assert!(embeddings.contains(&"patch_embed.proj".to_owned()));
    assert!(!embeddings.contains(&"blocks.0.attn.qkv".to_owned()));
    let error = chosen(&["proj", "roj"], &[]).unwrap_err().to_string();
    assert!(
        error.contains("ends in `roj`") && error.contains("proj"),
        "{error}"
    );
    let error = chosen(&["qkv"], &[Role::Router]).unwrap_err().to_string();
    assert!(
        error.contains("Router") && error.contains("Matrix"),
        "{error}"
    );
    let wide = LoraConfig {
        rank: 0,
        ..LoraConfig::default()
    };
    let error = wide.init(&network, 0, &Default::default()).unwrap_err();
    assert!(matches!(error, LoraConfigError::OutOfRange(OutOfRange { key, .. }) if key == "rank"));
}
