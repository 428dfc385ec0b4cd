//! The page of the book that lists every key of a recipe is what the types say of themselves.
//!
//! After a change, `MICRODIT_UPDATE_DOCS=1 cargo test --workspace --test recipe_reference` writes it again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};
use syn::{Attribute, Fields, GenericArgument, Item, PathArguments, Type};

/// Where the page lies.
const PAGE: &str = "docs/src/reference/recipe.md";

/// The types whose fields are the keys at the top of a recipe, and in its stages.
const ROOTS: [&str; 2] = ["RunConfig", "Stage"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Everything that recipes deserialize, by name.
fn types() -> BTreeMap<String, Item> {
    let mut found = BTreeMap::new();
    for name in [
        "microdit",
        "microdit-data",
        "microdit-encoders",
        "microdit-train",
    ] {
        read(&root().join("crates").join(name).join("src"), &mut found);
    }
    found
}

fn read(folder: &Path, found: &mut BTreeMap<String, Item>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            for item in file.items {
                let (name, attributes) = match &item {
                    Item::Struct(item) => (item.ident.to_string(), &item.attrs),
                    Item::Enum(item) => (item.ident.to_string(), &item.attrs),
                    _ => continue,
                };
                if derives(attributes, "Deserialize") {
                    found.insert(name, item);
                }
            }
        }
    }
}

fn derives(attributes: &[Attribute], name: &str) -> bool {
    let derived = attributes
        .iter()
        .filter(|one| one.path().is_ident("derive"));
    let mut found = false;
    for attribute in derived {
        attribute
            .parse_nested_meta(|meta| {
                found |= meta.path.is_ident(name);
                Ok(())
            })
            .unwrap();
    }
    found
}

/// Whether serde has a default for it; `rename_all` of its container.
fn serde(attributes: &[Attribute]) -> (bool, Option<String>) {
    let (mut default, mut case) = (false, None);
    for attribute in attributes.iter().filter(|one| one.path().is_ident("serde")) {
        attribute
            .parse_nested_meta(|meta| {
                default |= meta.path.is_ident("default");
                if let Ok(value) = meta.value() {
                    let value: syn::LitStr = value.parse()?;
                    if meta.path.is_ident("rename_all") {
                        case = Some(value.value());
                    }
                }
                Ok(())
            })
            .unwrap();
    }
    (default, case)
}

/// The first paragraph of the documentation, as one line without the targets of links: examples are for readers of Rust.
fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let meta = attribute.meta.require_name_value().ok()?;
        match &meta.value {
            syn::Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(text),
                ..
            }) if meta.path.is_ident("doc") => Some(text.value().trim().to_owned()),
            _ => None,
        }
    });
    let first = lines.take_while(|line| !line.is_empty() && !line.starts_with("```"));
    let text = first.collect::<Vec<_>>().join(" ");
    unlinked(text.trim()).replace('|', "\\|")
}

/// `[text](target)` as `text`, but for addresses of the web.
fn unlinked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find('[') {
        let Some(end) = rest[begin..].find(']').map(|length| begin + length) else {
            break;
        };
        out += &rest[..begin];
        let label = &rest[begin + 1..end];
        let after = &rest[end + 1..];
        let target = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'));
        match target {
            Some((target, after)) if target.starts_with("http") => {
                write!(out, "[{label}]({target})").unwrap();
                rest = after;
            }
            Some((_, after)) => {
                out += label;
                rest = after;
            }
            // A range such as [0, 1), or a link without a target.
            None if label.starts_with('`') => {
                out += label;
                rest = after;
            }
            None => {
                write!(out, "[{label}]").unwrap();
                rest = after;
            }
        }
    }
    out + rest
}

/// A type as a reader of recipes knows it; workspace types are noted in `seen`.
fn named(kind: &Type, types: &BTreeMap<String, Item>, seen: &mut Vec<String>) -> String {
    let Type::Path(path) = kind else {
        if let Type::Array(array) = kind {
            return format!("list of {}", named(&array.elem, types, seen));
        }
        return "value".into();
    };
    let last = path.path.segments.last().unwrap();
    let inner: Vec<&Type> = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(kind) => Some(kind),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let name = last.ident.to_string();
    match (name.as_str(), &inner[..]) {
        ("Option" | "Box", [one]) => named(one, types, seen),
        ("Vec" | "BTreeSet", [one]) => format!("list of {}", named(one, types, seen)),
        ("String" | "PathBuf", _) => "text".into(),
        ("bool", _) => "true or false".into(),
        ("f32" | "f64", _) => "number".into(),
        ("u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64", _) => "whole number".into(),
        _ if types.contains_key(&name) => {
            seen.push(name.clone());
            format!("[{name}](#{})", name.to_lowercase())
        }
        _ => format!("`{name}`"),
    }
}

fn is_optional(kind: &Type) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().unwrap().ident == "Option")
}

/// Rows of the table of fields.
fn fields(
    page: &mut String,
    fields: &Fields,
    all_default: bool,
    types: &BTreeMap<String, Item>,
    seen: &mut Vec<String>,
) {
    page.push_str("| key | | value | |\n|---|---|---|---|\n");
    for field in fields {
        let name = field.ident.as_ref().unwrap();
        let need = match all_default || serde(&field.attrs).0 || is_optional(&field.ty) {
            true => "",
            false => "needed",
        };
        let kind = named(&field.ty, types, seen);
        let text = docs(&field.attrs);
        writeln!(page, "| `{name}` | {need} | {kind} | {text} |").unwrap();
    }
}

/// The section of a type.
fn section(name: &str, types: &BTreeMap<String, Item>, seen: &mut Vec<String>) -> String {
    let mut page = format!("## {name}\n\n");
    match &types[name] {
        Item::Struct(item) => {
            writeln!(page, "{}\n", docs(&item.attrs)).unwrap();
            match &item.fields {
                Fields::Named(_) => {
                    let default = serde(&item.attrs).0;
                    fields(&mut page, &item.fields, default, types, seen);
                }
                inner => {
                    for field in inner {
                        let kind = named(&field.ty, types, seen);
                        writeln!(page, "A {kind}.").unwrap();
                    }
                }
            }
        }
        Item::Enum(item) => {
            writeln!(page, "{} One of:\n", docs(&item.attrs)).unwrap();
            let case = serde(&item.attrs).1;
            for variant in &item.variants {
                let mut name = variant.ident.to_string();
                if let Some("snake_case" | "lowercase") = case.as_deref() {
                    name = name.to_lowercase();
                }
                let text = docs(&variant.attrs);
                match &variant.fields {
                    Fields::Unit => writeln!(page, "- `{name}`: {text}").unwrap(),
                    Fields::Unnamed(inner) => {
                        let kinds = inner.unnamed.iter();
                        let kinds: Vec<String> =
                            kinds.map(|field| named(&field.ty, types, seen)).collect();
                        writeln!(page, "- `{name}(...)` of {}: {text}", kinds.join(", ")).unwrap();
                    }
                    inner => {
                        writeln!(page, "- `{name}(...)`: {text}\n").unwrap();
                        fields(&mut page, inner, false, types, seen);
                        page.push('\n');
                    }
                }
            }
        }
        _ => unreachable!("only structs and enums are gathered"),
    }
    page.push('\n');
    page
}

fn page() -> String {
    let types = types();
    let mut page = String::from(
        "# Every key of a recipe\n\n\
         The keys of [RunConfig](#runconfig) stand at the top of a recipe. Those of [Stage](#stage) stand there as well, where they\n\
         hold for every stage, or in the list `stages`, where they hold for one. What is not marked as needed has a default.\n\
         `microdit recipe init NAME --from RECIPE` writes every value that holds. This page is written by a test from the types' own\n\
         documentation.\n\n",
    );
    let mut queue: VecDeque<String> = ROOTS.map(str::to_owned).into();
    let mut done = BTreeSet::new();
    while let Some(name) = queue.pop_front() {
        if done.insert(name.clone()) {
            let mut seen = Vec::new();
            page += &section(&name, &types, &mut seen);
            queue.extend(seen);
        }
    }
    page
}

#[test]
fn the_page_is_what_the_types_say() {
    let path = root().join(PAGE);
    let expected = page();
    if std::env::var_os("MICRODIT_UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &expected).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    if let Some((there, wanted)) = written.lines().zip(expected.lines()).find(|(a, b)| a != b) {
        panic!(
            "{PAGE} says\n{there}\nand the types say\n{wanted}\nwrite it again as this file says"
        );
    }
    assert_eq!(written.len(), expected.len(), "{PAGE} ends differently");
    // No key is left without a word about it.
    for line in expected.lines().filter(|line| line.starts_with("| `")) {
        assert!(!line.ends_with("|  |"), "without documentation: {line}");
    }
}
