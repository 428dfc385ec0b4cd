//! An example under the help of every command.

use crate::Cli;
use clap::{Command, CommandFactory};

/// What is typed for each command, after `microdit`.
const EXAMPLES: [&str; 25] = [
    "train quickstart --run runs/quickstart",
    "sample --run runs/quickstart --prompt 'a large red circle on a white background' --count 8 --out circle.png",
    "eval --run runs/quickstart --guidance 1.5,2,3",
    "fetch sdxl-vae dfn-clip-h14",
    "plan microdit-xl2 --gpu h100 --count 8",
    "sweep cifar10-masking-flops --set data.shards=TRAIN --set evaluation.shards=TEST",
    "convert ep3-ba100-rank0.pt --recipe microdit-xl2 --run runs/continued",
    "merge one.safetensors other.safetensors --lambda 0.5 --out merged.safetensors",
    "ema --run runs/quickstart --sigma-rel 0.15 --out average.safetensors",
    "export --run runs/quickstart --out published --license apache-2.0",
    "push published OWNER/NAME",
    "report runs/quickstart --out quickstart.html",
    "study drawn/a drawn/b --prompts PROMPTS.txt --per-prompt 3 --out study.html",
    "runs",
    "data prepare datasets/cc12m.ron --source TARS --out data/cc12m",
    "data precompute data/cc12m --vae sdxl-vae --text-encoder dfn-clip-h14 --sizes 256,512 --out latents/cc12m",
    "data index latents/cc12m",
    "data inspect latents/cc12m --vae sdxl-vae --sheet latents.png",
    "recipe check quickstart --set batch=64",
    "recipe list",
    "recipe copy quickstart --out mine.ron",
    "recipe init mine --from quickstart",
    "doctor",
    "completions bash > ~/.local/share/bash-completion/completions/microdit",
    "man --out ~/.local/share/man/man1",
];

/// The parser of the command line, with the examples.
pub(crate) fn command() -> Command {
    with_examples(Cli::command(), "")
}

fn with_examples(command: Command, path: &str) -> Command {
    let below: Vec<String> = command
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect();
    let command = match example(path) {
        Some(example) => command.after_help(format!("Example:\n  microdit {example}")),
        None => command,
    };
    below.into_iter().fold(command, |command, name| {
        let path = match path {
            "" => name.clone(),
            path => format!("{path} {name}"),
        };
        command.mut_subcommand(name, |one| with_examples(one, &path))
    })
}

/// The example for the command that is called by the words of `path`; of a group of commands, and of the program itself, the first one.
fn example(path: &str) -> Option<&'static str> {
    let words = path.split(' ').filter(|word| !word.is_empty());
    let is_of = |example: &&&str| example.split(' ').zip(words.clone()).all(|(a, b)| a == b);
    EXAMPLES.iter().find(is_of).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words a shell makes of a line, up to what ends or redirects a command.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::from("microdit")];
        let (mut word, mut quote) = (None::<String>, None);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, ';' | '|' | '#' | '&' | '>') => break,
                (None, c) if c.is_whitespace() => words.extend(word.take()),
                (_, c) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    fn visit(command: &Command, path: &str, seen: &mut usize) {
        let mut below = command.get_subcommands().peekable();
        if below.peek().is_none() {
            *seen += 1;
            let example = example(path).unwrap_or_else(|| panic!("no example of {path}"));
            let parsed = Cli::command().try_get_matches_from(words(example));
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            let help = command.clone().render_long_help().to_string();
            // Help is wrapped to a width.
            let help: Vec<&str> = help.split_whitespace().collect();
            assert!(help.join(" ").contains(example), "{help:?}");
        }
        for one in below {
            let path = format!("{path} {}", one.get_name());
            visit(one, path.trim(), seen);
        }
    }

    /// The `microdit` commands in the blocks for a shell of a text, continued lines joined.
    fn commands(text: &str) -> Vec<String> {
        let blocks = text.split("```sh\n").skip(1);
        let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
        let joined = blocks.map(|block| block.replace("\\\n", " "));
        let lines = joined.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
        lines
            .filter_map(|line| {
                let line = line.trim();
                let command = line.strip_prefix("microdit ");
                let command = command.or_else(|| line.strip_prefix("cargo run -- "));
                command.map(str::to_owned)
            })
            .collect()
    }

    fn pages(folder: &std::path::Path, all: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pages(&path, all),
                false => all.push(path),
            }
        }
        all.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    }

    #[test]
    fn the_commands_of_the_book_can_be_typed() {
        let mut all = Vec::new();
        let book = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src");
        pages(&book, &mut all);
        let mut seen = 0;
        for page in all {
            for line in commands(&std::fs::read_to_string(&page).unwrap()) {
                let parsed = Cli::command().try_get_matches_from(words(&line));
                let wrong = parsed.err().filter(|error| error.use_stderr());
                assert!(
                    wrong.is_none(),
                    "{}: {line}: {}",
                    page.display(),
                    wrong.unwrap()
                );
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} commands");
    }

    #[test]
    fn every_command_has_an_example_that_can_be_typed() {
        let mut seen = 0;
        visit(&command(), "", &mut seen);
        assert_eq!(seen, EXAMPLES.len());
    }
}
