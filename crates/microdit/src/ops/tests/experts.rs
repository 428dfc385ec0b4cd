use super::*;

#[test]
fn top_k() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (batch, rows, tokens) = (draw.size(3), draw.size(5), draw.size(70));
        let taken = if case == 0 { tokens } else { draw.size(tokens) };
        let scores = draw.tensor([batch, rows, tokens]);
        // Many equal ones in every second case.
        let scores = if case % 2 == 0 {
            scores
        } else {
            (scores * 2.0).round()
        };
        let by_row = scores.to_data().to_vec::<f32>().unwrap();
        let rows = by_row.chunks(tokens);
        let expected = rows.flat_map(|row| {
            let mut row = row.to_vec();
            row.sort_by(|a, b| b.total_cmp(a));
            row.truncate(taken);
            row
        });
        let expected: Vec<f32> = expected.collect();
        for chosen in [
            Flex::top_k(scores.clone(), taken),
            composed::top_k(scores.clone(), taken),
        ] {
            let values = scores.clone().gather(2, chosen.clone()).into_data();
            assert_eq!(values.to_vec::<f32>().unwrap(), expected);
            assert_each_once(chosen, taken);
        }
    }
}

/// A non-finite batch has to reach the loss, where it is noticed, without an index out of range on the way.
#[test]
fn top_k_of_no_numbers() {
    let scores = [f32::NAN, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let scores = Tensor::<Flex, 3>::from_data([[scores, [f32::NAN; 5]]], &Default::default());
    assert_each_once(Flex::top_k(scores.clone(), 5), 5);
    assert_each_once(composed::top_k(scores, 5), 5);
}

/// Asserts that no index occurs twice in a row of `taken`.
#[track_caller]
fn assert_each_once(chosen: Tensor<Flex, 3, Int>, taken: usize) {
    let chosen: Vec<i64> = chosen.into_data().iter().collect();
    for row in chosen.chunks(taken) {
        let distinct: std::collections::BTreeSet<_> = row.iter().collect();
        assert_eq!(distinct.len(), taken, "{row:?}");
    }
}

#[test]
fn expert_layers() {
    for case in cases(16) {
        let mut draw = Draw::new(case);
        let (batch, tokens, experts) = (draw.size(3), draw.size(24), draw.size(5));
        let (dim, hidden) = (draw.size(40), draw.size(60));
        let taken = if case == 0 { tokens } else { draw.size(tokens) };
        let x = draw.tensor([batch, tokens, dim]);
        let weights = draw.tensor([batch, experts, taken]);
        let (w1, w2) = (
            draw.tensor([experts, dim, hidden]),
            draw.tensor([experts, hidden, dim]),
        );
        let grad = draw.tensor([batch, tokens, dim]);
        // Each expert takes the tokens with the largest of some random numbers: none twice.
        let chosen = Flex::top_k(draw.tensor([batch, experts, tokens]), taken);
        let inputs = ExpertInputs {
            x: x.clone(),
            chosen: chosen.clone(),
            weights: weights.clone(),
            w1: w1.clone(),
            w2: w2.clone(),
        };
        let hidden_layer = composed::experts(inputs.clone()).1;
        let by_hand = composed::experts_backward(inputs, hidden_layer, grad.clone());
        let chosen = Tensor::<Tracked, 3, Int>::from_inner(chosen);
        let inputs = |x: &Tensor<Tracked, 3>,
                      weights: &Tensor<Tracked, 3>,
                      w1: &Tensor<Tracked, 3>,
                      w2: &Tensor<Tracked, 3>| ExpertInputs {
            x: x.clone(),
            chosen: chosen.clone(),
            weights: weights.clone(),
            w1: w1.clone(),
            w2: w2.clone(),
        };
        compare_gradients!(
            "experts",
            grad,
            [x, weights, w1, w2],
            Tracked::experts(inputs(&x, &weights, &w1, &w2)).0,
            composed::experts(inputs(&x, &weights, &w1, &w2)).0,
            [by_hand.x, by_hand.weights, by_hand.w1, by_hand.w2]
        );
    }
}

/// Keeping tokens as they come changes nothing: neither values nor gradients.
#[test]
fn experts_that_round_their_tokens_again() {
    for case in cases(4) {
        let mut draw = Draw::new(case);
        let (batch, tokens, experts) = (draw.size(3), draw.size(24), draw.size(5));
        let (dim, hidden, taken) = (draw.size(40), draw.size(60), draw.size(tokens));
        let x = track(&draw.tensor([batch, tokens, dim]));
        let weights = track(&draw.tensor([batch, experts, taken]));
        let w1 = track(&draw.tensor([experts, dim, hidden]));
        let w2 = track(&draw.tensor([experts, hidden, dim]));
        let slopes = draw.tensor([batch, tokens, dim]);
        let chosen = Flex::top_k(draw.tensor([batch, experts, tokens]), taken);
        let inputs = |x: Tensor<Tracked, 3>| ExpertInputs {
            x,
            chosen: Tensor::from_inner(chosen.clone()),
            weights: weights.clone(),
            w1: w1.clone(),
            w2: w2.clone(),
        };
        let all = |y: Tensor<Tracked, 3>| {
            let slopes = Tensor::from_inner(slopes.clone().cast(y.dtype()));
            let grads = (y.clone() * slopes).sum().backward();
            let of = |x: &Tensor<Tracked, 3>| x.grad(&grads).expect("a gradient").into_data();
            (y.into_data(), [&x, &weights, &w1, &w2].map(of))
        };
        for to in [DType::F32, DType::BF16] {
            let expected = all(Tracked::experts(inputs(Tracked::cast(x.clone(), to))).0);
            let found = all(Tracked::experts_as(inputs(x.clone()), to));
            assert_eq!(found, expected, "{to:?}");
        }
    }
}
