//! unet: every block's output, both predictions, the loss, and the gradient of every parameter and input of diffusers' U-Net.

use super::{
    Inner, Train,
    training::{LOSS, gradients},
};
use crate::{
    golden::{Golden, values},
    report::Report,
};
use burn::tensor::Tensor;
use microdit::{
    DitBackend, UNet, UNetConfig,
    net::{Conditioning, Denoiser as _, Inputs, Selection},
};
use microdit_train::optim::Gradients;
use std::path::Path;

struct Case<'a> {
    golden: Golden,
    config: UNetConfig,
    report: &'a mut Report,
}

impl Case<'_> {
    /// Compares values with a tensor of the file, if it has it.
    fn check(&mut self, name: &str, found: &[f64]) {
        let key = format!("out.{name}");
        if self.golden.has(&key) {
            let limit = self.golden.limit(name);
            self.report.close(name, found, self.golden.get(&key), limit);
        }
    }

    fn load<B: DitBackend>(&self, device: &B::Device) -> UNet<B> {
        let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{}: {error}", self.golden.name) };
        let unet = self.config.init(0, device);
        let unet = unet.unwrap_or_else(|error| fail(&error));
        let state = self.golden.state_dict("weights.");
        state
            .load_into(unet, device)
            .unwrap_or_else(|error| fail(&error))
    }

    /// The file's noisy latents with the suffix, their times and captions.
    fn inputs<B: DitBackend>(&self, suffix: &str, device: &B::Device) -> Inputs<B> {
        let get = |name: &str| self.golden.get(&format!("in.{name}{suffix}"));
        let x = get("x");
        let context = self.golden.get("in.context").rows(0..x.shape[0]);
        let conditioning = Conditioning {
            captions: context.float(device),
        };
        Inputs::new(x.float(device), get("t").float(device), conditioning)
    }

    /// The first input, block by block.
    fn blocks(&mut self) {
        let device = Default::default();
        let unet = self.load::<Inner>(&device);
        let inputs = self.inputs("", &device);
        let time = unet.embed_time(inputs.time.clone());
        self.check("time_embedding", &values(time));
        let down = self.config.down.len();
        let mut names: Vec<String> = (0..down).map(|i| format!("down.{i}")).collect();
        names.extend(self.config.mid.as_ref().map(|_| "mid".to_owned()));
        names.extend((0..self.config.up.len()).map(|i| format!("up.{i}")));
        let selection = Selection {
            taps: (0..names.len()).collect(),
            ..Selection::all()
        };
        let first = unet.enter(inputs);
        self.check("conv_in", &values(first.x.clone()));
        let mut ended = 0;
        let last = (0..unet.segments()).fold(first, |carry, i| {
            let carry = unet.segment(i, carry, &selection);
            if carry.features.len() > ended {
                let [batch, channels, height, width] = carry.x.dims();
                assert_eq!(
                    carry.features[ended].dims(),
                    [batch, height * width, channels]
                );
                self.check(&names[ended], &values(carry.x.clone()));
                ended += 1;
            }
            carry
        });
        assert_eq!(ended, names.len(), "every block was tapped");
        assert!(last.skips.is_empty(), "every skip connection was taken");
    }

    /// Both predictions.
    fn samples(&mut self) {
        let device = Default::default();
        let unet = self.load::<Inner>(&device);
        for suffix in ["", "2"] {
            let Inputs {
                x,
                time,
                conditioning,
                ..
            } = self.inputs(suffix, &device);
            let sample = unet.image(x, time, conditioning);
            self.check(&format!("sample{suffix}"), &values(sample));
        }
    }

    /// The loss, and its gradients by the inputs and by every parameter.
    fn gradients(&mut self) {
        let device = Default::default();
        let unet = self.load::<Train>(&device);
        let inputs = self.inputs::<Train>("", &device);
        let x = inputs.x.require_grad();
        let captions = inputs.conditioning.captions.require_grad();
        let conditioning = Conditioning {
            captions: captions.clone(),
        };
        let target = self.golden.get("in.target").float::<Train, 4>(&device);
        let sample = unet.image(x.clone(), inputs.time, conditioning);
        let loss: Tensor<Train, 1> = (sample - target).powi_scalar(2).mean();
        let expected = self.golden.get("out.loss").data[0];
        let found = values(loss.clone())[0];
        self.report
            .at_most("loss", (found / expected - 1.0).abs(), LOSS);
        let mut grads = loss.backward();
        let of_x = x.grad(&grads).expect("the loss depends on the latents");
        self.check("grad_x", &values(of_x));
        let of_captions = captions.grad(&grads);
        let of_captions = of_captions.expect("the loss depends on the captions");
        self.check("grad_context", &values(of_captions));
        let grads = Gradients::collect(&unet, &mut grads);
        let global = self.golden.number("grad_norm");
        gradients(&self.golden, "grad.", global, "", &grads, self.report);
    }
}

/// A U-Net with diffusers' names and configuration.
pub(super) fn unet(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let json = golden.config["unet"].as_object();
    let json = json.unwrap_or_else(|| panic!("{}: no unet in the config", golden.name));
    let config = UNetConfig::from_diffusers(json);
    let config = config.unwrap_or_else(|error| panic!("{}: {error}", golden.name));
    let mut case = Case {
        golden,
        config,
        report,
    };
    case.blocks();
    case.samples();
    case.gradients();
}
