//! Pictures that others are compared with, and what is computed of them once.

use crate::{
    error::EvalError,
    features::{Features, Rows},
    measured::ReferenceSet,
    metrics::{
        Gaussian, Moments, frechet,
        kernel::{self, Discrepancy, Within},
        neighbours::{self, Balls, Prdc},
    },
};
use std::cell::OnceCell;

/// Pictures that others are compared with, as a network sees them. What a metric needs of them is computed when it is first asked
/// for, and then kept.
#[derive(Debug)]
pub struct Reference {
    known: Known,
    set: ReferenceSet,
    frechet: OnceCell<frechet::Reference>,
    balls: OnceCell<Balls>,
    /// Features of unit length, and what they are like within themselves by CMMD's kernel.
    cmmd: OnceCell<(Vec<f32>, Within)>,
}

#[derive(Debug)]
enum Known {
    Features(Features),
    Statistics(Box<Gaussian>),
}

impl Reference {
    fn new(known: Known, set: ReferenceSet) -> Self {
        Self {
            known,
            set,
            frechet: OnceCell::new(),
            balls: OnceCell::new(),
            cmmd: OnceCell::new(),
        }
    }

    /// Pictures of which the features are known.
    pub fn of_features(features: Features, set: ReferenceSet) -> Self {
        Self::new(Known::Features(features), set)
    }

    /// Pictures of whose features no more than mean and covariance are known.
    pub fn of_statistics(gaussian: Gaussian, set: ReferenceSet) -> Self {
        Self::new(Known::Statistics(Box::new(gaussian)), set)
    }

    /// Which pictures they are.
    pub fn set(&self) -> &ReferenceSet {
        &self.set
    }

    /// Their features, where these are known.
    pub fn rows(&self) -> Option<Rows<'_, f32>> {
        match &self.known {
            Known::Features(features) => Some(features.rows()),
            Known::Statistics(_) => None,
        }
    }

    fn all_rows(&self) -> Result<Rows<'_, f32>, EvalError> {
        self.rows().ok_or_else(|| EvalError::TooFew {
            what: self.set.name.clone(),
            found: 0,
            needed: 1,
            why: ": it holds their mean and covariance only".into(),
        })
    }

    /// Fréchet distances from them.
    ///
    /// # Errors
    /// No more pictures than features, a matrix that is no covariance.
    pub fn frechet(&self) -> Result<&frechet::Reference, EvalError> {
        once(&self.frechet, || {
            let of_features;
            let gaussian = match &self.known {
                Known::Features(features) => {
                    of_features = Moments::of(features.rows()).gaussian()?;
                    &of_features
                }
                Known::Statistics(gaussian) => gaussian,
            };
            gaussian.check_reference()?;
            frechet::Reference::new(gaussian)
        })
    }

    /// Precision, recall, density and coverage of pictures.
    ///
    /// # Errors
    /// Features of another size, too few pictures on a side, a reference of which only statistics are known.
    pub fn prdc(&self, pictures: Rows<'_, f32>) -> Result<Prdc, EvalError> {
        let rows = self.all_rows()?;
        let balls = once(&self.balls, || {
            Balls::of("the reference", rows, neighbours::NEIGHBOURS)
        })?;
        neighbours::prdc_among(rows, balls, pictures)
    }

    /// CMMD of pictures whose features are of [unit] length.
    ///
    /// # Errors
    /// As for [`prdc`](Self::prdc).
    pub(super) fn cmmd(&self, pictures: Rows<'_, f32>) -> Result<Discrepancy, EvalError> {
        let rows = self.all_rows()?;
        let (values, within) = once(&self.cmmd, || {
            let values = unit(rows);
            let unit = Rows::new(&values, rows.dim())?;
            let within = Within::of("the reference", unit, kernel::CMMD)?;
            Ok((values, within))
        })?;
        kernel::cmmd_from(pictures, Rows::new(values, rows.dim())?, within)
    }
}

/// What `cell` holds, made now if it is empty.
fn once<T>(
    cell: &OnceCell<T>,
    make: impl FnOnce() -> Result<T, EvalError>,
) -> Result<&T, EvalError> {
    match cell.get() {
        Some(made) => Ok(made),
        None => {
            let made = make()?;
            Ok(cell.get_or_init(|| made))
        }
    }
}

/// Rows brought to unit length, row by row.
pub(super) fn unit(rows: Rows<'_, f32>) -> Vec<f32> {
    let row = |i| {
        let row: &[f32] = rows.row(i);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(move |x| x / length.max(f32::MIN_POSITIVE))
    };
    (0..rows.len()).flat_map(row).collect()
}
