use super::*;

#[test]
fn group_norms() {
    for case in cases(16) {
        let mut draw = Draw::new(case);
        let (batch, groups, of_group) = (draw.size(3), draw.size(6), draw.size(12));
        let (channels, height, width) = (groups * of_group, draw.size(9), 1 + draw.size(9));
        let x = draw.tensor([batch, channels, height, width]);
        let (weight, bias) = (draw.tensor([channels]), draw.tensor([channels]));
        let grad = draw.tensor([batch, channels, height, width]);
        let options = GroupNormOptions {
            groups,
            eps: 1e-5,
            silu: case % 2 == 0,
        };
        let by_hand = composed::group_norm_backward(
            x.clone(),
            weight.clone(),
            bias.clone(),
            options,
            grad.clone(),
        );
        compare_gradients!(
            "group norm",
            grad,
            [x, weight, bias],
            Tracked::group_norm(x.clone(), weight.clone(), bias.clone(), options),
            composed::group_norm(x.clone(), weight.clone(), bias.clone(), options),
            [by_hand.x, by_hand.weight, by_hand.bias]
        );
    }
}

#[test]
fn convolutions() {
    for case in cases(40) {
        let mut draw = Draw::new(case);
        let (batch, mut inputs, mut outputs) = (draw.size(3), draw.size(70), draw.size(90));
        let pair = |draw: &mut Draw, most: usize| [draw.size(most), draw.size(most)];
        // Every fourth case has the kernel of most networks, every third is padded unequally.
        let kernel = match case % 4 {
            0 => [3; 2],
            1 => [1; 2],
            _ => pair(&mut draw, 4),
        };
        let stride = if case % 2 == 0 {
            [1; 2]
        } else {
            pair(&mut draw, 3)
        };
        let dilation = if case % 5 == 4 {
            pair(&mut draw, 2)
        } else {
            [1; 2]
        };
        let [begin, mut end] = [0; 2].map(|_| pair(&mut draw, 3).map(|pad| pad - 1));
        if case % 3 != 0 {
            end = begin;
        }
        let groups = if case % 10 == 9 { 2 } else { 1 };
        (inputs, outputs) = (inputs * groups, outputs * groups);
        // As small as one pixel of output.
        let size = [0, 1].map(|i| dilation[i] * (kernel[i] - 1) + draw.size(20));
        let options = PaddedConvOptions::asymmetric(stride, begin, end, dilation, groups);
        let x = draw.tensor([batch, inputs, size[0], size[1]]);
        let weight = draw.tensor([outputs, inputs / groups, kernel[0], kernel[1]]);
        let bias = draw.tensor([outputs]);
        let expected = composed::convolution(x.clone(), weight.clone(), None, &options);
        let found = Flex::convolution(x.clone(), weight.clone(), None, &options);
        assert_close("convolution without bias", &found, &expected);
        let grad = draw.tensor(expected.dims());
        let (x_grad, weight_grad) =
            composed::convolution_backward(x.clone(), weight.clone(), &options, grad.clone());
        compare_gradients!(
            "convolution",
            grad,
            [x, weight, bias],
            Tracked::convolution(x.clone(), weight.clone(), Some(bias.clone()), &options),
            composed::convolution(x.clone(), weight.clone(), Some(bias.clone()), &options),
            [x_grad, weight_grad, composed::sum_pixels(grad.clone())]
        );
    }
}

#[test]
fn convolutions_without_bias() {
    let mut draw = Draw::new(1);
    let options = PaddedConvOptions::asymmetric([2; 2], [0; 2], [1; 2], [1; 2], 1);
    let x = draw.tensor([2, 5, 8, 6]);
    let weight = draw.tensor([7, 5, 3, 3]);
    let grad = draw.tensor([2, 7, 4, 3]);
    let by_hand = composed::convolution_backward(x.clone(), weight.clone(), &options, grad.clone());
    compare_gradients!(
        "convolution",
        grad,
        [x, weight],
        Tracked::convolution(x.clone(), weight.clone(), None, &options),
        composed::convolution(x.clone(), weight.clone(), None, &options),
        [by_hand.0, by_hand.1]
    );
}
