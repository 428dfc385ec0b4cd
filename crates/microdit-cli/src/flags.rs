//! Every number of the command line has a range: what the parser takes is tried on all of them, whatever they are called.

use crate::Cli;
use clap::{Arg, Command, CommandFactory};
use std::{any::TypeId, path::PathBuf};

/// Texts that are no number in any range, whatever the number is for.
const NEVER: [&str; 12] = [
    "",
    " ",
    "NaN",
    "inf",
    "-inf",
    "1e400",
    "-1e308",
    "0x10",
    "1_000",
    "99999999999999999999999999",
    "one",
    "1;2",
];

/// Numbers at the edges of what programs count with.
const EDGES: [&str; 14] = [
    "0",
    "1",
    "-1",
    "0.5",
    "-0.0",
    "+5",
    "1e3",
    "1e308",
    "1e-308",
    "2147483648",
    "9007199254740992",
    "9223372036854775808",
    "18446744073709551615",
    "-9223372036854775808",
];

/// Whether an argument takes what is neither text, a path, a word of a list nor a name.
fn is_number(arg: &Arg) -> bool {
    let parser = arg.get_value_parser();
    let others = [
        TypeId::of::<String>(),
        TypeId::of::<PathBuf>(),
        TypeId::of::<bool>(),
        TypeId::of::<microdit_train::plan::Gpu>(),
    ];
    let words = parser.possible_values().is_some();
    arg.get_action().takes_values()
        && !words
        && !others.iter().any(|other| parser.type_id() == *other)
}

/// Calls `visit` with every command that has no subcommands, and the words that lead to it.
fn commands(command: &Command, path: &[String], visit: &mut impl FnMut(&[String], &Command)) {
    let below: Vec<&Command> = command.get_subcommands().collect();
    if below.is_empty() {
        visit(path, command);
    }
    for command in below {
        let path = [path, &[command.get_name().to_owned()]].concat();
        commands(command, &path, visit);
    }
}

/// What the parser says of a flag with a value: nothing, or its message. What else the command needs is not there.
fn refused(path: &[String], flag: &str, value: &str) -> Option<String> {
    let words = [
        &["microdit".to_owned()],
        path,
        &[format!("--{flag}={value}")],
    ]
    .concat();
    let error = Cli::command().try_get_matches_from(words).err()?;
    let text = error.to_string();
    text.contains(&format!("for '--{flag} ")).then_some(text)
}

#[test]
fn every_number_has_a_range() {
    let mut found = Vec::new();
    commands(&Cli::command(), &[], &mut |path, command| {
        for arg in command.get_arguments().filter(|arg| is_number(arg)) {
            let flag = arg.get_long().expect("numbers are flags");
            for value in NEVER {
                let message = refused(path, flag, value);
                assert!(message.is_some(), "{path:?} --{flag} takes {value:?}");
            }
            for value in EDGES {
                let message = refused(path, flag, value).unwrap_or_default();
                let shown = message.is_empty() || message.contains(value);
                assert!(shown, "{path:?} --{flag} {value}: {message}");
            }
            let largest = refused(path, flag, "18446744073709551615").is_none();
            let endless = ["seed", "limit", "place"].contains(&flag);
            assert_eq!(largest, endless, "{path:?} --{flag} and its end");
            found.push(format!("{} --{flag}", path.join(" ")));
        }
    });
    // Those that were there when this was written; others are tried without being named.
    assert!(found.len() >= 18, "{found:?}");
}
