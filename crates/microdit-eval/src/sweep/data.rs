//! The data that points are trained on. Where they lie is no part of a point's identity; what they are must not change under it.

use super::{
    error::SweepError,
    folder::Folder,
    points::{Point, Sweep},
    row::{Row, Status},
};
use microdit_train::Recipe;

/// Looks at the data of every point that can be looked at.
pub(super) fn look_at(points: &mut [Point]) {
    // Most points read the same.
    let mut known: Vec<(Recipe, Option<String>)> = Vec::new();
    for point in points {
        let same = |(recipe, _): &&(Recipe, _)| recipe.reads_what(&point.recipe);
        if let Some((_, data)) = known.iter().find(same) {
            point.data.clone_from(data);
            continue;
        }
        // What is not there fails the point when it is trained, with its reason.
        point.data = point.recipe.trained_on().ok();
        known.push((point.recipe.clone(), point.data.clone()));
    }
}

/// The checksums of data as a row tells them, one of each list: the words around them may change.
fn checksums(data: &str) -> impl Iterator<Item = &str> {
    data.split("; ").filter_map(|list| list.rsplit(", ").next())
}

impl Folder {
    /// Checks that the points finished in `rows` were trained on the data that `points` read now. Rows of older versions do not say.
    ///
    /// # Errors
    /// Each point of other data.
    pub(super) fn require_same_data(
        &self,
        sweep: &Sweep,
        points: &[Point],
        rows: &[Row],
    ) -> Result<(), SweepError> {
        let changed = |point: &Point| {
            let finished = |row: &&Row| row.point == point.id && row.status == Status::Finished;
            let then = rows.iter().find(finished)?.data.as_ref()?;
            let now = point.data.as_ref();
            let now = now.filter(|now| checksums(now).ne(checksums(then)))?;
            let label = sweep.settings()[point.setting].label();
            let seed = point.seed;
            Some(format!("{label}, seed {seed}: {then} then, {now} now"))
        };
        let differences: Vec<String> = points.iter().filter_map(changed).collect();
        match differences.is_empty() {
            true => Ok(()),
            false => Err(SweepError::OtherData {
                folder: self.path().to_owned(),
                differences,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{
        folder::tests::row,
        points::tests::{MASKS, points, read},
    };

    #[test]
    fn finished_points_keep_their_data() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Folder::enter(folder.path()).unwrap();
        let (sweep, mut own) = (read(MASKS, &[]).unwrap(), points(MASKS, &[]));
        look_at(&mut own);
        // Generated data have no shards, and are told all the same.
        assert!(own.iter().all(|point| point.data.is_some()));
        let mut rows = vec![row(&sweep, &own[3], "a"), row(&sweep, &own[0], "a")];
        let check = |rows: &[Row], points: &[Point]| {
            let checked = opened.require_same_data(&sweep, points, rows);
            checked.map_err(|error| error.to_string())
        };
        // Of an older version.
        check(&rows, &own).unwrap();
        rows[0].data.clone_from(&own[3].data);
        check(&rows, &own).unwrap();
        rows[0].data = Some("1 shards of 10240 bytes, 0123abcd".into());
        let said = check(&rows, &own).unwrap_err();
        assert!(
            said.contains("naive, seed 3: 1 shards of 10240 bytes, 0123abcd then, 0 shards"),
            "{said}"
        );
        // Only the checksum tells data apart, not how they are told.
        let told = own[3].data.as_deref().unwrap();
        let checksum = told.rsplit(", ").next().unwrap();
        rows[0].data = Some(format!("generated, {checksum}"));
        check(&rows, &own).unwrap();
        rows[0].data = Some("1 shards of 10240 bytes, 0123abcd".into());
        // Data that are not here say nothing, and what failed is trained again.
        own[3].data = None;
        check(&rows, &own).unwrap();
        look_at(&mut own);
        rows[0].status = Status::Failed;
        check(&rows, &own).unwrap();
    }
}
