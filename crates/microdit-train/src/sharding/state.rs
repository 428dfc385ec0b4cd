//! A run's state, whole and in shares.

use super::Sharding;
use crate::{
    checkpoint::State,
    collective::{Exchange, Lost},
    optim::{Optimizer, Slots},
};
use microdit::{DitBackend, TrainBackend, ema::Ema, task::TrainTask};
use std::collections::BTreeMap;

impl<B: TrainBackend, T: TrainTask<B>> State<B, T> {
    /// What a rank keeps of a whole state.
    pub(crate) fn shared(self, sharding: &Sharding<B::InnerBackend>) -> Self {
        let place = |(path, slots): (String, Slots<B::InnerBackend>)| {
            let slots = slots.into_iter();
            let slots = slots.map(|(slot, tensor)| (slot, sharding.place(&path, tensor)));
            let slots = slots.collect();
            (path, slots)
        };
        let keep = |emas: Vec<Ema<T::InnerModule>>| {
            let emas = emas.into_iter();
            emas.map(|ema| ema.map(|average| sharding.kept(average)))
                .collect()
        };
        Self {
            optimizer: with_slots(self.optimizer, |all| {
                let own = all.into_iter().filter(|(path, _)| sharding.owns(path));
                own.map(place).collect()
            }),
            emas: keep(self.emas),
            post_hoc: keep(self.post_hoc),
            ..self
        }
    }

    /// The state as a stage leaves it, whole on every rank, of what each keeps; the optimizer's `slots` only if they are needed. The
    /// averages whose snapshots are kept end with the stage.
    pub(crate) fn united(
        self,
        sharding: &Sharding<B::InnerBackend>,
        exchange: &Exchange<'_>,
        slots: bool,
    ) -> Result<Self, Lost> {
        let live = self.task.valid();
        let mut emas = Vec::new();
        for ema in self.emas {
            emas.push(ema.try_map(|kept| sharding.average(exchange, live.clone(), &kept))?);
        }
        let mut optimizer = self.optimizer;
        if slots {
            let all = sharding.slots(exchange, optimizer.configs(), &live, optimizer.slots())?;
            optimizer = with_slots(optimizer, |_| all);
        }
        Ok(Self {
            emas,
            optimizer,
            post_hoc: Vec::new(),
            ..self
        })
    }
}

fn with_slots<B: DitBackend>(
    optimizer: Optimizer<B>,
    change: impl FnOnce(BTreeMap<String, Slots<B>>) -> BTreeMap<String, Slots<B>>,
) -> Optimizer<B> {
    let (configs, steps) = (optimizer.configs().clone(), optimizer.steps());
    Optimizer::resume(configs, steps, change(optimizer.into_slots()))
}
