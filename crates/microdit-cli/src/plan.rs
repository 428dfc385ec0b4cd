//! `microdit plan`: what a recipe will cost.

mod compare;

use crate::{
    advice::OrAdvise,
    figure::{count, time},
    number::{real, whole},
    recipe::recipe_path,
    say,
};
use microdit_train::{
    Recipe,
    plan::{ConstantWidth, Gpu, Machine, Plan},
};
use miette::miette;
use std::path::PathBuf;

/// Print FLOPs, memory, hours and dollars of every stage of a recipe.
#[derive(clap::Args)]
pub(crate) struct PlanCommand {
    /// Recipe file, or the name of a bundled one; with --compare any number of them
    #[arg(value_name = "RECIPE", value_parser = recipe_path(), required_unless_present = "compare")]
    recipes: Vec<PathBuf>,
    /// Replace a value of the recipe; may be given several times
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Instead, solve for the network without layer-wise scaling whose run costs the same FLOPs, and print what to set
    #[arg(long, conflicts_with_all = ["gpu", "count", "mfu", "usd_per_gpu_hour"])]
    constant_width: bool,
    /// Instead, print what recipes (the bundled ones, unless some are named) and published systems cost, each as a multiple of the
    /// others
    #[arg(long, conflicts_with_all = ["overrides", "constant_width"])]
    compare: bool,
    /// What --compare states every cost as a multiple of: the name of a recipe or of a system [default: MicroDiT XL/2]
    #[arg(long, requires = "compare", value_name = "NAME")]
    base: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a run would be carried out on.
#[derive(clap::Args)]
pub(crate) struct MachineArgs {
    /// Kind of GPU
    #[arg(long, default_value = "h100", value_parser = parse_gpu)]
    gpu: Gpu,
    /// Number of GPUs
    #[arg(long, default_value_t = 8, value_parser = whole(Machine::COUNTS))]
    count: usize,
    /// Model FLOPs utilization, the fraction of the peak rate that is reached; the published run reached 0.185
    #[arg(long, default_value_t = 0.185, value_parser = real(Machine::MFU))]
    mfu: f64,
    /// Price of one GPU for an hour
    #[arg(long, default_value_t = 3.79, value_parser = real(Machine::USD))]
    usd_per_gpu_hour: f64,
}

impl MachineArgs {
    pub(crate) fn machine(self) -> Machine {
        Machine {
            gpu: self.gpu,
            count: self.count,
            mfu: self.mfu,
            usd_per_gpu_hour: self.usd_per_gpu_hour,
        }
    }
}

fn parse_gpu(name: &str) -> Result<Gpu, String> {
    let known = Gpu::known();
    let names: Vec<&str> = known.iter().map(|gpu| gpu.name.as_str()).collect();
    let unknown = format!("known are {}", names.join(", "));
    let found = known.iter().find(|gpu| gpu.name.eq_ignore_ascii_case(name));
    found.cloned().ok_or(unknown)
}

impl PlanCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        if self.compare {
            let machine = self.machine.machine();
            return compare::compare(&self.recipes, self.base.as_deref(), machine, self.json);
        }
        let [recipe] = &self.recipes[..] else {
            return Err(miette!("several recipes are compared by --compare"));
        };
        let recipe = Recipe::load(recipe, &self.overrides).or_advise()?;
        if self.constant_width {
            let found = ConstantWidth::of(&recipe).or_advise()?;
            match self.json {
                true => say!("{}", serde_json::to_string_pretty(&found).or_advise()?),
                false => print_constant(&found),
            }
            return Ok(());
        }
        let plan = Plan::new(&recipe, self.machine.machine());
        if self.json {
            say!("{}", serde_json::to_string_pretty(&plan).or_advise()?);
        } else {
            print(&plan);
        }
        Ok(())
    }
}

fn print_constant(found: &ConstantWidth) {
    say!("{:24}{:>14}{:>12}", "", "parameters / M", "FLOP");
    for (name, parameters, flop) in [
        (
            "as the recipe has it",
            found.scaled_parameters,
            found.scaled_flop,
        ),
        (
            "constant width",
            found.constant_parameters,
            found.constant_flop,
        ),
    ] {
        say!("{name:24}{:>14.1}{flop:>12.4e}", parameters as f64 / 1e6);
    }
    say!(
        "\n{:+.2} % of FLOPs, as near as head_dim and multiple_of allow; set it with:\n",
        100.0 * (found.constant_flop / found.scaled_flop - 1.0)
    );
    let sets: Vec<String> = found
        .overrides
        .iter()
        .map(|set| format!("--set '{set}'"))
        .collect();
    say!("{}", sets.join(" "));
}

fn print(plan: &Plan) {
    let machine = &plan.machine;
    say!(
        "{} on {} x {} at {:.1} % of {} TFLOP/s, ${:.2} per GPU-hour",
        plan.recipe,
        machine.count,
        machine.gpu.name,
        100.0 * machine.mfu,
        machine.gpu.tflops,
        machine.usd_per_gpu_hour
    );
    say!(
        "\n{:24}{:>8}{:>9}{:>9}{:>10}{:>12}{:>10}{:>9}",
        "stage",
        "params",
        "images",
        "GFLOP",
        "FLOP",
        "images/s",
        "time",
        "$"
    );
    say!(
        "{:24}{:>8}{:>9}{:>9}{:>10}{:>12}",
        "",
        "M",
        "M",
        "/image",
        "",
        "/GPU"
    );
    for stage in &plan.stages {
        say!(
            "{:24}{:>8.1}{:>9.2}{:>9.2}{:>10.2e}{:>12.1}{:>10}{:>9}",
            stage.name,
            stage.parameters as f64 / 1e6,
            stage.images as f64 / 1e6,
            stage.flop_per_image / 1e9,
            stage.flop,
            stage.images_per_second_per_gpu,
            time(stage.hours),
            count(stage.usd)
        );
    }
    say!(
        "{:24}{:>8}{:>9}{:>9}{:>10.2e}{:>12}{:>10}{:>9}",
        "total",
        "",
        "",
        "",
        plan.flop,
        "",
        time(plan.hours),
        count(plan.usd)
    );
    for stage in plan.stages.iter().filter(|stage| stage.networks.len() > 1) {
        let held = stage.networks.iter().map(|held| {
            let [all, trained] = [held.parameters, held.trained].map(|count| count as f64 / 1e6);
            format!("{} {all:.1} M ({trained:.1} M trained)", held.name)
        });
        say!("{:24}{}", stage.name, held.collect::<Vec<_>>().join(", "));
    }
    say!(
        "\n{:24}{:>8}{:>9}{:>9}{:>10}{:>12}{:>8}{:>9}",
        "GiB per GPU",
        "batch",
        "weights",
        "grads",
        "optimizer",
        "activations",
        "EMA",
        "total"
    );
    for stage in &plan.stages {
        let memory = &stage.memory;
        let warning = if memory.total > machine.gpu.gib {
            format!(
                "  more than the {} GiB there are: lower micro_batch, or set activation_checkpointing: On or distributed.shard_optimizer: true",
                machine.gpu.gib
            )
        } else if memory.activation_checkpointing {
            "  with activation checkpointing".into()
        } else {
            String::new()
        };
        say!(
            "{:24}{:>8}{:>9.2}{:>9.2}{:>10.2}{:>12.2}{:>8.2}{:>9.2}{warning}",
            stage.name,
            memory.micro_batch,
            memory.weights,
            memory.gradients,
            memory.optimizer,
            memory.activations,
            memory.averages,
            memory.total
        );
    }
    if plan
        .stages
        .iter()
        .any(|stage| stage.memory.shared_optimizer)
    {
        say!(
            "\noptimizer and EMA are shares of {} GPUs (distributed.shard_optimizer)",
            machine.count
        );
    }
    let fed = plan
        .stages
        .iter()
        .filter_map(|stage| Some((stage, stage.feed?)));
    for (i, (stage, feed)) in fed.enumerate() {
        if i == 0 {
            say!(
                "\n{:24}{:>12}{:>8}{:>8}",
                "data",
                "samples/s",
                "MB/s",
                "cores"
            );
        }
        say!(
            "{:24}{:>12.0}{:>8.0}{:>8.1}",
            stage.name,
            feed.samples_per_second,
            feed.megabytes_per_second,
            feed.cores
        );
    }
}
