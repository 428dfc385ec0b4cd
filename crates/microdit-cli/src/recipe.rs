//! `microdit recipe`: look at recipes without running them, and take one for one's own.

use crate::{advice::OrAdvise, output, say};
use clap::builder::{PathBufValueParser, TypedValueParser};
use microdit::atomic_file;
use microdit_train::{Recipe, recipe::Bundled};
use miette::{IntoDiagnostic, WrapErr, miette};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Look at recipes without running them, and copy those that come with the program.
#[derive(clap::Subcommand)]
pub(crate) enum RecipeCommand {
    /// Check a recipe, and print it with everything it extends
    Check {
        /// Recipe file, or the name of a bundled one
        #[arg(value_parser = recipe_path())]
        recipe: PathBuf,
        /// Replace a value of the recipe; may be given several times
        #[arg(long = "set", value_name = "PATH=VALUE")]
        overrides: Vec<String>,
    },
    /// List the recipes and sweeps that come with the program
    List,
    /// Write a bundled recipe or sweep, with its comments, to a file
    Copy {
        /// Its name
        name: String,
        /// File to write, which must not exist [default: the name, in this directory]
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Begin a recipe of your own: a file that extends another one, with every value it could change as a comment
    Init {
        /// Name of the recipe, and of its file NAME.ron
        name: String,
        /// Recipe it begins with: a file, or the name of a bundled one
        #[arg(long, default_value = "quickstart", value_parser = recipe_path())]
        from: PathBuf,
    },
}

/// Reads an argument that names a recipe: a file, or else a bundled one.
pub(crate) fn recipe_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(file_or_bundled)
}

fn file_or_bundled(path: PathBuf) -> Result<PathBuf, String> {
    // Whatever looks like a path is one, and the error says what is wrong with it.
    let plain = path.extension().is_none() && path.components().count() <= 2;
    let is_folder = path.is_dir();
    let Some(name) = path.to_str().filter(|_| is_folder || !path.exists()) else {
        return Ok(path);
    };
    // No directory is a recipe, so that one of that name hides nothing.
    if let Some(bundled) = Bundled::find(name) {
        return Ok(bundled.path());
    }
    if is_folder || !plain || path.is_absolute() || name.starts_with('.') {
        return Ok(path);
    }
    Err(match Bundled::nearest(name) {
        Some(near) => format!("there is no such file, and no bundled recipe; did you mean {near}?"),
        None => "there is no such file, and no bundled recipe; see `microdit recipe list`".into(),
    })
}

impl RecipeCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        match self {
            Self::Check { recipe, overrides } => {
                let recipe = Recipe::load(&recipe, &overrides).or_advise()?;
                // What `train` refuses is refused here.
                recipe.require_shards().or_advise()?;
                say!("{}", recipe.source.trim_end());
            }
            Self::List => {
                // What is trained as it stands comes first, and sweeps and their bases last.
                let mut all = Bundled::all();
                all.sort_by_key(|bundled| bundled.name.starts_with("ablations/"));
                let width = all.iter().map(|bundled| bundled.name.len()).max();
                let width = width.unwrap_or_default();
                for bundled in all {
                    say!("{:<width$} {}", bundled.name, bundled.about());
                }
            }
            Self::Copy { name, out } => {
                let bundled = find(&name)?;
                let last = bundled.name.rsplit('/').next().unwrap_or_default();
                let out = out.unwrap_or_else(|| PathBuf::from(format!("{last}.ron")));
                create(&out, &bundled.copy())?;
            }
            Self::Init { name, from } => {
                let out = PathBuf::from(format!("{name}.ron"));
                let from = match from.is_relative() && from.exists() {
                    true => std::path::absolute(&from).into_diagnostic()?,
                    false => from,
                };
                let text = beginning(&name, &from)?;
                create(&out, &text)?;
                // As it will be loaded; the name may be none.
                if let Err(error) = Recipe::load(&out, &[]).or_advise() {
                    fs::remove_file(&out).into_diagnostic()?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

fn find(name: &str) -> miette::Result<Bundled> {
    Bundled::find(name).ok_or_else(|| {
        miette!(
            help = "see them with: microdit recipe list",
            "no bundled recipe is called `{name}`"
        )
    })
}

/// Writes a file that is not there yet.
fn create(path: &Path, text: &str) -> miette::Result<()> {
    output::file(path)?;
    if path.exists() {
        return Err(miette!(
            "{} is there already; give another name",
            path.display()
        ));
    }
    atomic_file::write(path, |path| fs::write(path, text))
        .into_diagnostic()
        .wrap_err_with(|| format!("{} cannot be written", path.display()))?;
    say!("wrote {}", path.display());
    Ok(())
}

/// A recipe `name` that extends the one at `from` and changes nothing yet.
fn beginning(name: &str, from: &Path) -> miette::Result<String> {
    let recipe = Recipe::load(from, &[]).or_advise()?;
    let mut text = format!(
        "// Changes to {0}. A key that is set here replaces the one below it in the comments;\n\
         // `microdit recipe check {name}.ron` prints the whole, and `microdit plan {name}.ron` its cost.\n\
         (\n    extends: {0:?},\n    name: {name:?},\n",
        from.display().to_string()
    );
    let inner = recipe.source.trim().lines();
    let inner = inner.skip(1).take_while(|line| *line != ")");
    for line in inner.filter(|line| !line.starts_with("    name:")) {
        text += &format!("    // {}\n", line.strip_prefix("    ").unwrap_or(line));
    }
    Ok(text + ")\n")
}
