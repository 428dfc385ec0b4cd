//! A run directory, as far as a report needs it.

use super::{
    error::ReportError,
    grids::{self, Grid},
    log::Log,
    text::legible,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

/// Largest JSON file and recipe that is read.
const MOST_BYTES: u64 = 64 << 20;

/// Grids of a run that are shown.
const GRIDS: usize = 6;

/// Bytes of them.
const GRID_BYTES: u64 = 8 << 20;

/// What a recipe says that a report needs; whoever can read recipes fills it in.
#[derive(Clone, Debug, Default)]
pub struct RecipeFacts {
    /// The name of the run.
    pub name: String,
    /// Steps of all stages.
    pub steps: u64,
    /// Values by their dotted keys.
    pub values: BTreeMap<String, String>,
    /// FLOPs of an image, forward and backward, by the name of the stage.
    pub flop_per_image: BTreeMap<String, f64>,
    /// What the meaning of its held-out losses depends on, by key; none if it measures none.
    pub held_out: Option<BTreeMap<String, String>>,
    /// The prompts of the sample grids, a row each.
    pub prompts: Vec<String>,
}

/// A run.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// What it is called beside others.
    pub label: String,
    /// Its log.
    pub log: Log,
    /// What its recipe says, where that could be read.
    pub recipe: Option<RecipeFacts>,
    /// The recipe as it stands in the directory.
    pub(super) source: String,
    /// The processes that trained it, in order.
    pub(super) processes: Vec<Process>,
    pub(super) grids: Vec<Grid>,
    pub(super) grids_left_out: usize,
    /// The rows of `eval.json`.
    pub(super) results: Vec<Map<String, Value>>,
    /// Whether its final weights are there.
    pub(super) is_finished: bool,
    /// What could not be read, in words.
    pub(super) notes: Vec<String>,
}

/// A process that trained a run, as `run.json` describes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub(super) version: String,
    pub(super) commit: String,
    pub(super) arguments: Vec<String>,
    pub(super) devices: Vec<String>,
    pub(super) gpu: Option<Gpu>,
    pub(super) processor: Option<String>,
    /// Processes; one in records that do not say.
    pub(super) ranks: Option<u64>,
    pub(super) started: u64,
}

impl Process {
    /// Devices of all processes.
    pub(super) fn device_count(&self) -> u64 {
        let devices = self.devices.len() as u64;
        devices.saturating_mul(self.ranks.unwrap_or(1)).max(1)
    }

    /// What it ran on, in words.
    pub(super) fn hardware(&self) -> String {
        let kind = match (&self.gpu, &self.processor) {
            (Some(gpu), _) => gpu.name.clone(),
            (None, Some(processor)) => processor.clone(),
            (None, None) => self.devices.join(", "),
        };
        match self.device_count() {
            1 => kind,
            count => format!("{count} x {kind}"),
        }
    }
}

/// A kind of GPU.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Gpu {
    pub(super) name: String,
}

impl Run {
    /// Whether a directory holds a run.
    pub fn is_at(folder: &Path) -> bool {
        ["metrics.jsonl", "recipe.ron"]
            .iter()
            .any(|name| folder.join(name).is_file())
    }

    /// The run in `folder`, of which nothing is read yet.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(folder: &Path) -> Result<Self, ReportError> {
        if !Self::is_at(folder) {
            return Err(ReportError::Nothing(folder.to_owned()));
        }
        Ok(Self::new(folder))
    }

    /// The run in `folder`, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = absolute.file_name().unwrap_or(absolute.as_os_str());
        Self {
            folder: folder.to_owned(),
            label: legible(&name.to_string_lossy()),
            log: Log::new(folder),
            recipe: None,
            source: String::new(),
            processes: Vec::new(),
            grids: Vec::new(),
            grids_left_out: 0,
            results: Vec::new(),
            is_finished: false,
            notes: Vec::new(),
        }
    }

    /// Leaves out all grids but the newest, which is enough where many runs are side by side.
    pub fn keep_newest_grid(&mut self) {
        let older = self.grids.len().saturating_sub(1);
        self.grids.drain(..older);
        self.grids_left_out += older;
    }

    /// Its directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads what is there: of the log what was added since the last call, of the rest everything.
    ///
    /// # Errors
    /// If the directory or its log cannot be read. Other files that are damaged are told in the report.
    pub fn read(&mut self) -> Result<(), ReportError> {
        let folder = self.folder.clone();
        self.notes.clear();
        self.log.read().map_err(ReportError::io(&folder))?;
        let found = grids::find(&folder, GRIDS, GRID_BYTES);
        (self.grids, self.grids_left_out) = found.map_err(ReportError::io(&folder))?;
        self.is_finished = folder.join("finished.json").is_file();
        let recipe = bytes(&folder.join("recipe.ron"));
        self.source = self.noted("recipe.ron", recipe, |bytes| {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        });
        let processes = bytes(&folder.join("run.json"));
        self.processes = self.noted("run.json", processes, |bytes| {
            serde_json::from_slice(bytes).map_err(|error| error.to_string())
        });
        let results = bytes(&folder.join("eval.json"));
        let results: Results = self.noted("eval.json", results, |bytes| {
            serde_json::from_slice(bytes).map_err(|error| error.to_string())
        });
        self.results = results.results;
        Ok(())
    }

    /// What `parse` makes of a file's bytes, if it is there; what is wrong with it becomes a note.
    fn noted<T: Default>(
        &mut self,
        name: &str,
        bytes: io::Result<Option<Vec<u8>>>,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> T {
        let parsed = match bytes {
            Ok(None) => return T::default(),
            Ok(Some(bytes)) => parse(&bytes),
            Err(error) => Err(error.to_string()),
        };
        parsed.unwrap_or_else(|problem| {
            self.notes.push(format!("{name} is left out: {problem}"));
            T::default()
        })
    }

    /// FLOPs of the images seen, where the recipe tells what one takes.
    pub(super) fn flop(&self) -> Option<f64> {
        let of_image = &self.recipe.as_ref()?.flop_per_image;
        let stages = self.log.images_of.iter();
        let flop = stages.map(|(stage, images)| Some(*of_image.get(stage)? * *images as f64));
        flop.sum()
    }

    /// Hours of all devices together.
    pub(super) fn device_hours(&self) -> Option<f64> {
        let newest = self.processes.last()?;
        Some(self.log.last.hours? * newest.device_count() as f64)
    }
}

/// Names runs of the same name by their paths.
pub fn tell_apart(runs: &mut [Run]) {
    let labels: Vec<String> = runs.iter().map(|run| run.label.clone()).collect();
    for run in runs {
        if labels.iter().filter(|label| **label == run.label).count() > 1 {
            run.label = legible(&run.folder.to_string_lossy());
        }
    }
}

/// What `eval.json` holds.
#[derive(Default, Deserialize)]
struct Results {
    results: Vec<Map<String, Value>>,
}

/// The bytes of a file, if it is there and not too large.
fn bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(io::Error::other(format!(
            "it is larger than {} MiB",
            MOST_BYTES >> 20
        ))),
        false => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_notes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(matches!(
            Run::open(folder.path()),
            Err(ReportError::Nothing(_))
        ));
        fs::write(
            path("metrics.jsonl"),
            "{\"step\":1,\"images\":4,\"stage\":\"a\",\"hours\":2.0}\n",
        )
        .unwrap();
        fs::write(path("run.json"), b"[{\"version\": \"\xff").unwrap();
        fs::write(path("eval.json"), "{\"results\": 3}").unwrap();
        fs::write(path("recipe.ron"), b"(name: \"\xff\")").unwrap();
        let mut run = Run::open(folder.path()).unwrap();
        run.read().unwrap();
        run.read().unwrap();
        assert_eq!(run.notes.len(), 2, "{:?}", run.notes);
        assert!(run.notes[0].contains("run.json"), "{:?}", run.notes);
        assert_eq!(run.source, "(name: \"\u{fffd}\")");
        assert_eq!((run.flop(), run.device_hours()), (None, None));
        let recipe = RecipeFacts {
            flop_per_image: BTreeMap::from([("a".to_owned(), 2e9)]),
            ..RecipeFacts::default()
        };
        run.recipe = Some(recipe);
        let processes =
            r#"[{"devices": ["x"]}, {"devices": ["x", "y"], "ranks": 2, "gpu": {"name": "h100"}}]"#;
        fs::write(path("run.json"), processes).unwrap();
        run.read().unwrap();
        assert_eq!((run.flop(), run.device_hours()), (Some(8e9), Some(8.0)));
        assert_eq!(run.processes[1].hardware(), "4 x h100");
    }
}
