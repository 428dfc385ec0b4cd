use super::*;
use crate::features::FeatureNetwork;
use image::RgbImage;

/// Sees the mean of red and of green, and tells apart which is more.
struct Means(FeatureNetwork);

impl Extractor for Means {
    fn network(&self) -> &FeatureNetwork {
        &self.0
    }

    fn dim(&self) -> usize {
        2
    }

    fn features(&self, pictures: &[RgbImage]) -> Vec<f32> {
        let mean = |picture: &RgbImage, channel: usize| {
            let values = picture.pixels().map(|pixel| f32::from(pixel.0[channel]));
            values.sum::<f32>() / (picture.width() * picture.height()) as f32
        };
        let both = |picture| [mean(picture, 0), mean(picture, 1)];
        pictures.iter().flat_map(both).collect()
    }

    fn logits(&self, features: &[f32]) -> Option<(usize, Vec<f32>)> {
        Some((2, features.to_vec()))
    }
}

fn evaluation(cache: &std::path::Path, wanted: &[&str]) -> Evaluation {
    let network = FeatureNetwork {
        family: Family::Inception,
        name: "means".into(),
        sha256: "00".into(),
        resize: "none".into(),
        source: None,
    };
    Evaluation {
        networks: vec![Box::new(Means(network))],
        against: Some(Against::open("shapes", Some(12), 16).unwrap()),
        wanted: wanted.iter().map(|name| name.parse().unwrap()).collect(),
        cache: cache.to_owned(),
        max_damage: 0.0,
    }
}

#[test]
fn what_few_pictures_do_not_allow_is_left_out_unless_it_was_named() {
    let cache = tempfile::tempdir().unwrap();
    let measure = |wanted: &[&str], count| {
        let set = PictureSet::of_shapes(16, count).unwrap();
        let found = evaluation(cache.path(), wanted).measure(&set, &AtomicBool::new(false), |_| ());
        found.map(|rows| {
            let rows = rows.unwrap().into_iter().map(|row| row.metric);
            rows.filter(|metric| !metric.starts_with("prompt-accuracy"))
                .collect::<Vec<_>>()
        })
    };
    // Five have no five neighbours, and no ten splits.
    let five = measure(&[], 5).unwrap();
    assert_eq!(five, ["fid", "kid"]);
    assert_eq!(measure(&[], 9).unwrap().len(), 6);
    // A covariance needs two; prompts are read whatever the number.
    assert_eq!(measure(&[], 1).unwrap(), [""; 0]);
    for (named, part) in [
        ("precision", "at least 6 are needed"),
        ("inception-score", "at least 10 are needed"),
    ] {
        let error = measure(&["fid", named], 5).unwrap_err().to_string();
        assert!(error.contains(part), "{named}: {error}");
    }
}

#[test]
fn prompts_that_no_metric_reads_are_refused_before_anything_is_drawn() {
    let cache = tempfile::tempdir().unwrap();
    let of = |network: bool, wanted: &[&str], prompt: &str| {
        let mut evaluation = evaluation(cache.path(), wanted);
        evaluation.networks.retain(|_| network);
        evaluation.check_prompts(&[prompt.to_owned()])
    };
    let (fox, square) = (
        "a fox",
        microdit_data::Shapes { size: 16 }.sample(0, 0).caption,
    );
    for (network, wanted, prompt) in [
        (true, &[][..], fox),
        (true, &["fid"], fox),
        (false, &[], &square),
        (true, &["prompt-accuracy"], &square),
    ] {
        assert!(
            of(network, wanted, prompt).is_ok(),
            "{network} {wanted:?} {prompt}"
        );
    }
    for (network, wanted, part) in [
        (false, &[][..], "nothing can be measured"),
        (true, &["prompt-accuracy"], "nothing can be measured"),
        (
            true,
            &["class-accuracy"],
            "none of the prompts of 1 pictures",
        ),
    ] {
        let error = of(network, wanted, fox).unwrap_err().to_string();
        assert!(error.contains(part), "{wanted:?}: {error}");
    }
}
