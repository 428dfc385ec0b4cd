//! Every number on the command line has a range. The flags are found in the parser itself, so a new one is tried without
//! being named here.

use crate::Cli;
use clap::{Arg, Command, CommandFactory};
use std::{any::TypeId, path::PathBuf};

/// Texts that no flag accepts as a number.
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

/// Numbers at the edges of the types that programs count with.
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

/// Whether an argument takes a number: neither text, a path (with or without a scale), a switch, one of a list of words, nor the
/// name of a GPU.
fn is_number(arg: &Arg) -> bool {
    let parser = arg.get_value_parser();
    let others = [
        TypeId::of::<String>(),
        TypeId::of::<PathBuf>(),
        TypeId::of::<crate::source::Adapters>(),
        TypeId::of::<bool>(),
        TypeId::of::<microdit_train::plan::Gpu>(),
    ];
    let words = parser.possible_values().is_some();
    arg.get_action().takes_values()
        && !words
        && !others.iter().any(|other| parser.type_id() == *other)
}

/// Calls `visit` with every command that has no subcommands, and with the words it is called by.
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

/// The parser's complaint about this value of a flag, if it has one; complaints that other arguments are missing do not count.
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
    // As many as there were when this was written: the search must not quietly find none.
    assert!(found.len() >= 18, "{found:?}");
}
