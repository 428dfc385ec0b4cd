//! Files of votes, as the page writes them.

use super::{Side, Study, StudyError};
use crate::report::text::legible;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

/// What a file of votes says it is.
const FORMAT: &str = "microdit study votes 1";

/// Bytes of the largest file of votes.
const LARGEST: u64 = 64 << 20;

/// What somebody thinks of two pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// The first side's is better.
    A,
    /// The second side's is.
    B,
    /// Both are as good.
    OnPar,
    /// Neither is any good.
    Neither,
}

/// A vote on a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Number of the pair.
    pub pair: usize,
    /// Whose picture stood on the left.
    pub left: Side,
    /// Which is the better picture.
    pub better: Option<Answer>,
    /// Which shows better what it was to show.
    pub matches: Option<Answer>,
}

/// The votes of one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// Who.
    pub voter: String,
    /// At most one for each pair.
    pub votes: Vec<Vote>,
    /// The file.
    path: PathBuf,
}

#[cfg(test)]
impl Ballot {
    /// The votes of `voter`, from no file.
    pub(super) fn of(voter: &str, votes: Vec<Vote>) -> Self {
        Self {
            voter: voter.into(),
            votes,
            path: PathBuf::new(),
        }
    }
}

/// A file of votes.
#[derive(Deserialize)]
struct Content {
    format: String,
    study: String,
    voter: String,
    votes: Vec<Cast>,
}

/// A vote as the page writes it: pictures by their tokens.
#[derive(Deserialize)]
struct Cast {
    pair: usize,
    left: String,
    better: Option<String>,
    #[serde(rename = "match")]
    matches: Option<String>,
}

/// Reads files of votes, all of one study and each of another voter.
///
/// # Errors
/// Files that are none or damaged, votes of other studies, and voters that occur twice.
///
/// # Panics
/// If there are no files.
pub fn read_ballots(paths: &[PathBuf]) -> Result<(Study, Vec<Ballot>), StudyError> {
    let mut known: Option<(Study, PathBuf)> = None;
    let mut ballots: Vec<Ballot> = Vec::new();
    for path in paths {
        let (study, ballot) = read(path)?;
        match &known {
            Some((first, at)) if *first != study => {
                return Err(StudyError::Foreign {
                    path: path.clone(),
                    first: at.clone(),
                });
            }
            Some(_) => {}
            None => known = Some((study, path.clone())),
        }
        if let Some(other) = ballots.iter().find(|other| other.voter == ballot.voter) {
            return Err(StudyError::Twice {
                voter: ballot.voter,
                first: other.path.clone(),
                second: path.clone(),
            });
        }
        ballots.push(ballot);
    }
    let (study, _) = known.expect("there is a file of votes");
    Ok((study, ballots))
}

fn read(path: &Path) -> Result<(Study, Ballot), StudyError> {
    let problem = |message: String| StudyError::Votes {
        path: path.to_owned(),
        message,
    };
    let file = File::open(path).map_err(StudyError::io(path))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(StudyError::io(path))?;
    if bytes.len() as u64 > LARGEST {
        return Err(problem(format!(
            "larger than the {} MiB votes may take",
            LARGEST >> 20
        )));
    }
    let content: Content = serde_json::from_slice(&bytes)
        .map_err(|error| problem(format!("not a file of votes: {error}")))?;
    if content.format != FORMAT {
        let found = legible(&content.format);
        return Err(problem(format!(
            "its format is {found:?}, expected {FORMAT:?}"
        )));
    }
    let study = Study::decode(&content.study)
        .ok_or_else(|| problem("what it says about its study is damaged".into()))?;
    let (mut votes, mut seen) = (Vec::new(), BTreeSet::new());
    for cast in content.votes {
        let number = cast.pair;
        let wrong = |message: &str| problem(format!("vote on pair {number}: {message}"));
        if number >= study.pairs {
            return Err(wrong(&format!("there are {} pairs", study.pairs)));
        }
        if !seen.insert(number) {
            return Err(wrong("it occurs twice"));
        }
        let side = |token: &str| {
            study
                .side(number, token)
                .ok_or_else(|| wrong("it names a picture that is not in this pair"))
        };
        let answer = |token: Option<String>| {
            let answer = |token: String| {
                Ok(match token.as_str() {
                    "on par" => Answer::OnPar,
                    "neither" => Answer::Neither,
                    token => match side(token)? {
                        Side::A => Answer::A,
                        Side::B => Answer::B,
                    },
                })
            };
            token.map(answer).transpose()
        };
        votes.push(Vote {
            pair: number,
            left: side(&cast.left)?,
            better: answer(cast.better)?,
            matches: answer(cast.matches)?,
        });
    }
    let ballot = Ballot {
        voter: legible(&content.voter),
        votes,
        path: path.to_owned(),
    };
    Ok((study, ballot))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::study::Pair;
    use serde_json::json;
    use std::fs;

    /// A study of three pairs.
    pub(in crate::study) fn study(name: &str) -> Study {
        let pair = |number: u8| Pair {
            prompt: name.into(),
            pictures: [vec![number, 1], vec![number, 2]],
        };
        Study::new("one", "other", &[0, 1, 2].map(pair))
    }

    fn file(folder: &Path, name: &str, content: &serde_json::Value) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, content.to_string()).unwrap();
        path
    }

    fn votes(study: &Study, voter: &str, votes: serde_json::Value) -> serde_json::Value {
        json!({"format": FORMAT, "study": study.encode(), "voter": voter, "votes": votes})
    }

    #[test]
    fn votes_are_read_by_their_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let study = study("a fox");
        let cast = json!([
            {"pair": 2, "left": study.token(2, Side::B), "better": study.token(2, Side::A), "match": "on par"},
            {"pair": 0, "left": study.token(0, Side::A), "better": "neither", "match": null},
        ]);
        let path = file(folder.path(), "v.json", &votes(&study, "Ann", cast));
        let (found, ballots) = read_ballots(std::slice::from_ref(&path)).unwrap();
        assert_eq!(found, study);
        let expected = [
            Vote {
                pair: 2,
                left: Side::B,
                better: Some(Answer::A),
                matches: Some(Answer::OnPar),
            },
            Vote {
                pair: 0,
                left: Side::A,
                better: Some(Answer::Neither),
                matches: None,
            },
        ];
        assert_eq!(ballots[0].votes, expected);
        assert_eq!(ballots[0].voter, "Ann");
    }

    #[test]
    fn what_is_wrong_with_votes_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (one, other) = (study("a fox"), study("a hare"));
        let vote = |pair: usize, left: String| json!({"pair": pair, "left": left, "better": null, "match": null});
        let left = one.token(0, Side::A);
        for (content, part) in [
            (json!({"votes": []}), "not a file of votes: missing field"),
            (
                json!({"format": "x", "study": "", "voter": "", "votes": []}),
                "its format is \"x\"",
            ),
            (
                json!({"format": FORMAT, "study": "e30=", "voter": "", "votes": []}),
                "its study is damaged",
            ),
            (
                votes(&one, "Ann", json!([vote(3, left.clone())])),
                "pair 3: there are 3 pairs",
            ),
            (
                votes(
                    &one,
                    "Ann",
                    json!([vote(0, left.clone()), vote(0, left.clone())]),
                ),
                "pair 0: it occurs twice",
            ),
            (
                votes(&one, "Ann", json!([vote(1, left.clone())])),
                "pair 1: it names a picture",
            ),
        ] {
            let path = file(at, "bad.json", &content);
            let error = read_ballots(&[path]).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("bad.json"),
                "{error}"
            );
        }
        let none = json!([]);
        let ann = file(at, "ann.json", &votes(&one, "Ann", none.clone()));
        let again = file(at, "again.json", &votes(&one, "Ann", none.clone()));
        let foreign = file(at, "foreign.json", &votes(&other, "Bob", none));
        for (second, parts) in [
            (again, ["again.json", "both are votes of Ann"]),
            (foreign, ["foreign.json", "another study"]),
        ] {
            let error = read_ballots(&[ann.clone(), second])
                .unwrap_err()
                .to_string();
            for part in parts {
                assert!(
                    error.contains(part) && error.contains("ann.json"),
                    "{error}"
                );
            }
        }
        let torn = at.join("torn.json");
        fs::write(&torn, &fs::read(&ann).unwrap()[..20]).unwrap();
        assert!(
            read_ballots(&[torn])
                .unwrap_err()
                .to_string()
                .contains("not a file of votes")
        );
    }
}
