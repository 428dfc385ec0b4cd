//! Times the steps of settings for budgets of time.

use super::{
    calibration::{Calibration, Pace, device, seconds_per_step, short},
    child::{self, Ended},
    definition::Budget,
    error::SweepError,
    row::{Row, Status},
    runner::{Event, Runner},
    slots::each,
};
use std::{
    fs,
    io::ErrorKind,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

impl Runner<'_> {
    /// Times the steps of every setting that a budget of time needs and nobody has timed yet; none if it was asked to stop.
    ///
    /// # Errors
    /// Finished points in `rows` whose times are gone; steps that cannot be timed.
    pub(super) fn calibrate(
        &self,
        rows: &[Row],
        report: &(impl Fn(Event<'_>) + Sync),
    ) -> Result<Option<Calibration>, SweepError> {
        let mut calibration = self.folder.calibration()?;
        let budget = self.sweep.definition().budget;
        let timed = matches!(budget, Budget::Hours(_) | Budget::Dollars(_));
        // Points of another budget were not timed.
        let of_budget = |row: &Row| {
            let unit = row.budget.as_deref();
            row.status == Status::Finished && unit.is_none_or(|unit| unit == budget.unit())
        };
        if timed && calibration.is_empty() && rows.iter().any(of_budget) {
            return Err(SweepError::NoCalibration {
                folder: self.folder.path().to_owned(),
                unit: budget.unit(),
            });
        }
        let settings = 0..self.sweep.settings().len();
        let known = |setting: &usize| {
            calibration
                .seconds_per_step(&self.sweep.pace(*setting))
                .is_some()
        };
        let missing: Vec<usize> = settings
            .filter(|setting| timed && !known(setting))
            .collect();
        let measured = Mutex::new(&mut calibration);
        let halt = AtomicBool::new(false);
        let stop = || self.stop.load(Ordering::Relaxed) || halt.load(Ordering::Relaxed);
        let work = |slot: usize, setting: &usize| {
            let Some(pace) = self.time(*setting, slot, &stop, report)? else {
                return Ok(());
            };
            let mut calibration = measured.lock().unwrap_or_else(PoisonError::into_inner);
            calibration.insert(self.sweep.pace(*setting), pace);
            self.folder.write_calibration(&calibration)
        };
        // One after the other, so that all are timed under the same load.
        each(&missing, 1, &halt, &stop, &work)?;
        Ok((!stop()).then_some(calibration))
    }

    /// Seconds of a step of each stage of a setting, and the device they were measured on; none if it was asked to stop.
    fn time(
        &self,
        setting: usize,
        slot: usize,
        stop: &impl Fn() -> bool,
        report: &(impl Fn(Event<'_>) + Sync),
    ) -> Result<Option<Pace>, SweepError> {
        let label = self.sweep.settings()[setting].label();
        let wrong = |reason: String| SweepError::Calibration {
            label: label.clone(),
            reason,
        };
        report(Event::Calibrating(&label));
        let seed = self.sweep.definition().seeds[0];
        let own = self.sweep.recipe_of(setting);
        let recipe = self
            .sweep
            .recipe(&self.sweep.settings()[setting], seed, &short(own))?;
        let name = format!("pace-{}", self.sweep.pace(setting));
        let folder = self.folder.run(&name);
        let clear = || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(SweepError::io(&folder)(error))
            }
            _ => Ok(()),
        };
        clear()?;
        let file = self.folder.write_recipe(&name, &recipe.source)?;
        let train = self.train(&file, &folder, slot);
        match child::run(train, &self.folder.log(&name), stop, || ())? {
            Ended::Badly(reason) => return Err(wrong(reason)),
            Ended::Stopped => return Ok(None),
            Ended::Well if stop() => return Ok(None),
            Ended::Well => {}
        }
        let pace = Pace {
            seconds_per_step: seconds_per_step(&recipe, &folder).map_err(wrong)?,
            device: device(&folder),
            label,
        };
        clear()?;
        Ok(Some(pace))
    }
}
