//! `microdit recipe`: look at a recipe without running it.

use crate::advice::OrAdvise;
use crate::say;
use microdit_train::Recipe;
use std::path::PathBuf;

/// Look at a recipe without running it.
#[derive(clap::Subcommand)]
pub(crate) enum RecipeCommand {
    /// Check a recipe, and print it with everything it extends
    Check {
        /// Recipe file
        recipe: PathBuf,
        /// Replace a value of the recipe; may be given several times
        #[arg(long = "set", value_name = "PATH=VALUE")]
        overrides: Vec<String>,
    },
}

impl RecipeCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        let Self::Check { recipe, overrides } = self;
        let recipe = Recipe::load(&recipe, &overrides).or_advise()?;
        // What `train` refuses is refused here.
        recipe.require_shards().or_advise()?;
        say!("{}", recipe.source.trim_end());
        Ok(())
    }
}
