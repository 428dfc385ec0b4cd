//! Uses a network of a file: `cargo run --example predict -- WEIGHTS INPUTS OUTPUT` runs it on the tensors `x`, `time` and `captions` of
//! a second file, and writes what it predicts for every pixel as `predicted` to a third.

use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::Flex;
use microdit::{
    net::{Conditioning, Denoiser as _},
    weights::{StateDict, WeightsFile},
};
use std::{error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [weights, inputs, output] = &paths[..] else {
        return Err("name weights, inputs and output".into());
    };
    // Files that are trained here say what they are.
    let description = WeightsFile::open(weights)?.description()?;
    let config = description.and_then(|own| own.network);
    let config = config.ok_or("the file does not say what network it holds")?;
    let device = Default::default();
    let network = config.init::<Flex>(0, &device)?;
    let trained = StateDict::read(weights)?.denoiser();
    let network = trained.load_into(network, &device)?;

    let inputs = StateDict::read(inputs)?;
    let input = |name: &str| -> Result<TensorData, String> {
        let found = inputs.get(name).cloned();
        found.ok_or_else(|| format!("no tensor `{name}` among the inputs"))
    };
    let predicted = network.image(
        Tensor::from_data(input("x")?, &device),
        Tensor::from_data(input("time")?, &device),
        Conditioning {
            captions: Tensor::from_data(input("captions")?, &device),
        },
    );
    let predicted = ("predicted".to_owned(), predicted.into_data());
    StateDict::from_tensors([predicted]).write_safetensors(output, DType::F32, None)?;
    Ok(())
}
