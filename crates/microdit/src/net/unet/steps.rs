//! The layers of a U-Net in the order they run: laid out once, for whoever builds, runs or prices them.

use super::{LevelConfig, MidConfig, UNetConfig};
use crate::nn::Precision;

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On the way down.
    Down(usize),
    /// Between.
    Mid,
    /// On the way up.
    Up(usize),
}

/// Sizes of a [`ResnetBlock`](super::resnet::ResnetBlock).
#[derive(Clone, Copy, Debug)]
pub(super) struct ResnetConfig {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) time_channels: usize,
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) precision: Precision,
}

/// Sizes of a [`Transformer`](super::transformer::Transformer).
#[derive(Clone, Copy, Debug)]
pub(super) struct TransformerConfig {
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) depth: usize,
    pub(super) caption_channels: usize,
    pub(super) groups: usize,
    pub(super) linear_projection: bool,
    pub(super) precision: Precision,
}

/// What a step applies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer {
    Resnet(ResnetConfig),
    Attention(TransformerConfig),
    /// Halves height and width; of so many channels.
    Downsample(usize),
    /// Doubles them.
    Upsample(usize),
}

/// A layer at its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) place: Place,
    /// Among the layers of its kind in its block.
    pub(super) index: usize,
    pub(super) layer: Layer,
    /// How often height and width of its output were halved.
    pub(super) level: usize,
    /// Whether it takes the last skip connection.
    pub(super) joins: bool,
    /// Whether its output becomes one.
    pub(super) keeps: bool,
    /// Whether it ends its block.
    pub(super) ends: bool,
    /// Whether its layer had the turn before, too.
    pub(super) again: bool,
}

/// Lays the steps out.
struct Layout<'a> {
    config: &'a UNetConfig,
    steps: Vec<Step>,
    /// Channels of the skip connections that are not taken yet.
    skips: Vec<usize>,
    channels: usize,
    level: usize,
}

impl UNetConfig {
    /// The steps of a network of these sizes, which are valid.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut layout = Layout {
            config: self,
            steps: Vec::new(),
            skips: vec![self.first_channels()],
            channels: self.first_channels(),
            level: 0,
        };
        let halved = self.mid.as_ref().is_some_and(|mid| mid.halved);
        for (i, level) in self.down.iter().enumerate() {
            let last = i + 1 == self.down.len();
            layout.block(Place::Down(i), level);
            if !last || halved {
                layout.level += 1;
                let layer = Layer::Downsample(layout.channels);
                layout.push(Place::Down(i), 0, layer, false, !last);
            }
            layout.end_block();
        }
        if let Some(mid) = &self.mid {
            layout.middle(mid);
        }
        for (i, level) in self.up.iter().enumerate() {
            layout.block(Place::Up(i), level);
            if i + 1 < self.up.len() {
                layout.upsample(Place::Up(i));
            }
            layout.end_block();
        }
        layout.steps
    }
}

impl Layout<'_> {
    fn middle(&mut self, mid: &MidConfig) {
        let level = LevelConfig {
            channels: self.channels,
            resnets: mid.resnets,
            attentions: mid.attentions.clone(),
            heads: mid.heads,
        };
        if mid.first_twice {
            self.resnet(Place::Mid, 0, level.channels, false);
        }
        self.block(Place::Mid, &level);
        if mid.halved {
            self.upsample(Place::Mid);
        }
        self.end_block();
    }

    /// Residual blocks and transformers in turn, then the rest of whichever are more.
    fn block(&mut self, place: Place, level: &LevelConfig) {
        let down = matches!(place, Place::Down(_));
        for i in 0..level.resnets.max(level.attentions.len()) {
            let depth = level.attentions.get(i).copied();
            if i < level.resnets {
                let keeps = down && (depth.is_none() || self.config.skip_before_attention);
                self.resnet(place, i, level.channels, keeps);
            }
            if let Some(depth) = depth {
                let keeps = down && i < level.resnets && !self.config.skip_before_attention;
                self.attention(place, i, level, depth, keeps);
            }
        }
    }

    fn resnet(&mut self, place: Place, index: usize, output: usize, keeps: bool) {
        let joins = matches!(place, Place::Up(_));
        let skip = match joins {
            true => self.skips.pop().unwrap_or_default(),
            false => 0,
        };
        let layer = Layer::Resnet(ResnetConfig {
            input: self.channels + skip,
            output,
            time_channels: self.config.time_channels(),
            groups: self.config.norm_groups,
            eps: self.config.norm_eps,
            precision: self.config.precision,
        });
        self.channels = output;
        self.push(place, index, layer, joins, keeps);
    }

    fn attention(
        &mut self,
        place: Place,
        index: usize,
        level: &LevelConfig,
        depth: usize,
        keeps: bool,
    ) {
        let layer = Layer::Attention(TransformerConfig {
            channels: level.channels,
            heads: level.heads,
            depth,
            caption_channels: self.config.caption_channels,
            groups: self.config.norm_groups,
            linear_projection: self.config.linear_projection,
            precision: self.config.precision,
        });
        self.push(place, index, layer, false, keeps);
    }

    fn upsample(&mut self, place: Place) {
        self.level = self.level.saturating_sub(1);
        self.push(place, 0, Layer::Upsample(self.channels), false, false);
    }

    fn push(&mut self, place: Place, index: usize, layer: Layer, joins: bool, keeps: bool) {
        if keeps {
            self.skips.push(self.channels);
        }
        let resnet = |layer: &Layer| matches!(layer, Layer::Resnet(_));
        let again = self.steps.last().is_some_and(|last| {
            (last.place, last.index) == (place, index) && resnet(&last.layer) && resnet(&layer)
        });
        self.steps.push(Step {
            place,
            index,
            layer,
            level: self.level,
            joins,
            keeps,
            ends: false,
            again,
        });
    }

    fn end_block(&mut self) {
        if let Some(step) = self.steps.last_mut() {
            step.ends = true;
        }
    }
}
