//! How the width of attention splits into heads, and what is done to their scores.

/// How the width splits into heads.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Heads<'a> {
    pub(super) count: usize,
    /// What is added to the variances of queries and keys; none where they are not normalized.
    pub(super) eps: Option<f32>,
    scaling: Scaling,
    /// What is added to scores, `[heads, queries, words]`.
    bias: Option<&'a [f32]>,
    /// The same of words, for every head and query: `[samples, words]`.
    padding: Option<&'a [f32]>,
}

/// What becomes of products of queries and keys. All but the first is for the forward pass alone.
#[derive(Clone, Copy, Debug)]
enum Scaling {
    /// They are divided by the root of a head's width.
    Scaled,
    /// And a query does not see the words behind its own place.
    Causal,
    /// They are taken as they are.
    Plain,
}

impl<'a> Heads<'a> {
    pub(in super::super) fn normed(count: usize, eps: f64) -> Self {
        Self {
            eps: Some(eps as f32),
            ..Self::plain(count)
        }
    }

    pub(in super::super) fn plain(count: usize) -> Self {
        Self {
            count,
            eps: None,
            scaling: Scaling::Scaled,
            bias: None,
            padding: None,
        }
    }

    pub(in super::super) fn causal(count: usize) -> Self {
        Self {
            scaling: Scaling::Causal,
            ..Self::plain(count)
        }
    }

    /// Scores are not scaled, but `bias` `[heads, queries, words]` and `padding` `[samples, words]` are added to them.
    pub(in super::super) fn biased(
        count: usize,
        bias: &'a [f32],
        padding: Option<&'a [f32]>,
    ) -> Self {
        Self {
            scaling: Scaling::Plain,
            bias: Some(bias),
            padding,
            ..Self::plain(count)
        }
    }

    /// Those of a sample with so many words.
    pub(super) fn of_sample(self, sample: usize, words: usize) -> Self {
        let of_sample = |padding: &'a [f32]| &padding[sample * words..][..words];
        Self {
            padding: self.padding.map(of_sample),
            ..self
        }
    }

    /// What is done to the scores of a head of a sample.
    pub(super) fn of_head(self, head: usize) -> Rule<'a> {
        let of_head = |bias: &'a [f32]| {
            let len = bias.len() / self.count;
            &bias[head * len..][..len]
        };
        Rule {
            is_scaled: !matches!(self.scaling, Scaling::Plain),
            place: matches!(self.scaling, Scaling::Causal).then_some(0),
            bias: self.bias.map(of_head),
            padding: self.padding,
        }
    }
}

/// What is done to the scores of some queries of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule<'a> {
    pub(super) is_scaled: bool,
    /// Of the first query, where none sees the words behind its own place.
    pub(super) place: Option<usize>,
    /// `[queries, words]`.
    pub(super) bias: Option<&'a [f32]>,
    /// `[words]`.
    pub(super) padding: Option<&'a [f32]>,
}

impl Rule<'_> {
    /// They are scaled, and nothing else.
    pub(super) const SCALED: Self = Self {
        is_scaled: true,
        place: None,
        bias: None,
        padding: None,
    };

    /// That of the queries from `first` on.
    pub(super) fn at_query(self, first: usize, words: usize) -> Self {
        Self {
            place: self.place.map(|place| place + first),
            bias: self.bias.map(|bias| &bias[first * words..]),
            ..self
        }
    }
}
