//! Names of many shards in one: `train-{000..009}.tar`, `{a,b}/{0..3}.tar`.

/// The most names a pattern may have: at a hundred megabytes per shard, a hundred terabytes.
const MAX_NAMES: u64 = 1_000_000;

/// Bytes of all names at most.
const MAX_BYTES: u64 = 1 << 28;

/// Levels of nested braces at most.
const MAX_DEPTH: usize = 16;

/// The names a pattern stands for, as shells and webdataset understand it; they are counted before they are made.
///
/// # Errors
/// Unbalanced braces, and too many names.
pub(crate) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut parser = Parser { rest: pattern };
    let parts = parser.parts(0)?;
    if !parser.rest.is_empty() {
        return Err("a brace is closed that was not opened; a backslash before it makes it part of the name".into());
    }
    let count = count(&parts);
    if count > MAX_NAMES || count.saturating_mul(pattern.len() as u64) > MAX_BYTES {
        return Err(format!(
            "it stands for {count} names; expected at most {MAX_NAMES}"
        ));
    }
    let mut names = vec![String::new()];
    for part in &parts {
        names = product(names, part);
    }
    Ok(names)
}

enum Part {
    Text(String),
    /// One of several.
    Choice(Vec<Vec<Part>>),
    /// Numbers from first to last, of at least this many digits.
    Numbers {
        first: i64,
        last: i64,
        step: u64,
        digits: usize,
    },
    Letters {
        first: u8,
        last: u8,
        step: u64,
    },
}

fn count(parts: &[Part]) -> u64 {
    let counts = parts.iter().map(|part| match part {
        Part::Text(_) => 1,
        Part::Choice(choices) => choices
            .iter()
            .fold(0, |sum: u64, choice| sum.saturating_add(count(choice))),
        Part::Numbers {
            first, last, step, ..
        } => (first.abs_diff(*last) / step).saturating_add(1),
        Part::Letters { first, last, step } => u64::from(first.abs_diff(*last)) / step + 1,
    });
    counts.fold(1, u64::saturating_mul)
}

/// Every name so far with every text of the next part.
fn product(names: Vec<String>, part: &Part) -> Vec<String> {
    let texts = match part {
        Part::Text(text) => vec![text.clone()],
        Part::Choice(choices) => {
            let one = |choice: &Vec<Part>| choice.iter().fold(vec![String::new()], product);
            choices.iter().flat_map(one).collect()
        }
        Part::Numbers {
            first,
            last,
            step,
            digits,
        } => {
            let number = |i: u64| match last >= first {
                true => first.saturating_add_unsigned(i * step),
                false => first.saturating_sub_unsigned(i * step),
            };
            let text = |i| format!("{:0digits$}", number(i), digits = *digits);
            (0..=first.abs_diff(*last) / step).map(text).collect()
        }
        Part::Letters { first, last, step } => {
            let letter = |i: u64| match last >= first {
                true => first + (i * step) as u8,
                false => first - (i * step) as u8,
            };
            let text = |i| char::from(letter(i)).to_string();
            (0..=u64::from(first.abs_diff(*last)) / step)
                .map(text)
                .collect()
        }
    };
    let with = |name: &String| -> Vec<String> {
        texts.iter().map(|text| format!("{name}{text}")).collect()
    };
    names.iter().flat_map(with).collect()
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// Parts up to the end, or in braces up to a comma or the end of the braces.
    fn parts(&mut self, depth: usize) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.rest.chars().next() {
            match c {
                ',' if depth > 0 => break,
                '}' => break,
                '{' => {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                    parts.extend(self.braces(depth + 1)?);
                }
                _ => {
                    let mut characters = self.rest.chars();
                    characters.next();
                    // A backslash escapes what follows.
                    text.push(if c == '\\' {
                        characters.next().unwrap_or(c)
                    } else {
                        c
                    });
                    self.rest = characters.as_str();
                }
            }
        }
        parts.push(Part::Text(text));
        Ok(parts)
    }

    /// The content of braces.
    fn braces(&mut self, depth: usize) -> Result<Vec<Part>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels of nested braces"));
        }
        self.rest = &self.rest[1..];
        let inside = self.rest;
        let mut choices = vec![self.parts(depth)?];
        while let Some(rest) = self.rest.strip_prefix(',') {
            self.rest = rest;
            choices.push(self.parts(depth)?);
        }
        let Some(rest) = self.rest.strip_prefix('}') else {
            return Err(
                "a brace is not closed; a backslash before it makes it part of the name".into(),
            );
        };
        let inside = &inside[..inside.len() - self.rest.len()];
        self.rest = rest;
        if choices.len() > 1 {
            return Ok(vec![Part::Choice(choices)]);
        }
        if let Some(range) = range(inside)? {
            return Ok(vec![range]);
        }
        // Nothing to choose from: the braces are part of the name.
        let mut parts = vec![Part::Text("{".into())];
        parts.extend(choices.into_iter().flatten());
        parts.push(Part::Text("}".into()));
        Ok(parts)
    }
}

/// `1..9`, `01..09`, `9..1..2` or `a..f`.
fn range(text: &str) -> Result<Option<Part>, String> {
    let mut ends = text.split("..");
    let (Some(first), Some(last), step, None) =
        (ends.next(), ends.next(), ends.next(), ends.next())
    else {
        return Ok(None);
    };
    let step = match step.map(str::parse::<i64>) {
        None | Some(Ok(0)) => 1,
        Some(Ok(step)) => step.unsigned_abs(),
        Some(Err(_)) => return Ok(None),
    };
    let whole = |text: &str| {
        !text.is_empty()
            && text
                .strip_prefix('-')
                .unwrap_or(text)
                .bytes()
                .all(|byte| byte.is_ascii_digit())
    };
    if whole(first) && whole(last) && first != "-" && last != "-" {
        let padded = [first, last].iter().any(|text| {
            let digits = text.trim_start_matches('-');
            digits.len() > 1 && digits.starts_with('0')
        });
        let digits = if padded {
            first.len().max(last.len())
        } else {
            0
        };
        let number = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text} is not a number of a shard"))
        };
        return Ok(Some(Part::Numbers {
            first: number(first)?,
            last: number(last)?,
            step,
            digits,
        }));
    }
    match (first.as_bytes(), last.as_bytes()) {
        ([first], [last]) if first.is_ascii_alphabetic() && last.is_ascii_alphabetic() => {
            Ok(Some(Part::Letters {
                first: *first,
                last: *last,
                step,
            }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_webdataset() {
        for pattern in [
            "plain.tar",
            "",
            "{0..3}.tar",
            "train-{000..012}.tar",
            "{08..11}",
            "{9..7}",
            "{0..10..3}",
            "{10..0..5}",
            "{-2..2}",
            "{a..e}",
            "{e..a..2}",
            "{a,b,c}",
            "x{a,b}y{1,2}z",
            "{a,{b,c}d,{0..2}}",
            "{abc}",
            "{}",
            "{a..}",
            "{1..x}",
            "a\\{b",
            "{a,}",
            "{A..C}{1..2}",
            "é{ä,ö}",
            "{0..0}",
            "{1..2..0}",
        ] {
            let expected = webdataset::braceexpand(pattern).unwrap();
            assert_eq!(expand(pattern).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn enormous_patterns_are_refused_before_memory_is_taken() {
        let doubled = "{a,b}".repeat(64);
        let deep = "{a,".repeat(10_000);
        let long = format!("{}{{0..999999}}", "x".repeat(5_000));
        for pattern in [
            "{0..9223372036854775807}",
            "{-9223372036854775808..9223372036854775807}",
            "{0..1000000}",
            "{0..99999999999999999999}",
            "{0..999}{0..999}{0..999}",
            &doubled,
            &deep,
            &long,
            "{a,{b",
            "a}",
            "{",
        ] {
            assert!(
                expand(pattern).is_err(),
                "{}",
                &pattern[..pattern.len().min(80)]
            );
        }
        let error = expand("{0..9223372036854775807}").unwrap_err();
        assert!(error.contains("at most 1000000"), "{error}");
        assert_eq!(expand("{0..999999}").unwrap().len(), 1_000_000);
        assert_eq!(
            expand("{9223372036854775806..9223372036854775807..5}")
                .unwrap()
                .len(),
            1
        );
    }
}
