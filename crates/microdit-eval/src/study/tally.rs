//! What votes come to.

use super::{Answer, Ballot, Share, Side, Study, Vote, krippendorff};
use std::{collections::BTreeMap, fmt};

/// The answers in the order they are shown.
const ANSWERS: [Answer; 4] = [Answer::A, Answer::B, Answer::OnPar, Answer::Neither];

/// What one question came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The question.
    pub name: &'static str,
    /// Votes for the first side, the second, on par, neither.
    pub shares: [Share; 4],
    /// Votes for the first side among those for one of the two.
    pub preferred: Share,
    /// Votes for the picture on the left among those for one of the two: half, if the place has no influence.
    pub left: Share,
    /// Krippendorff's alpha, where at least two people voted on the same pairs.
    pub agreement: Option<f64>,
}

/// What the votes of a study come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    study: Study,
    voters: usize,
    /// The better picture, and the better match.
    pub questions: [Question; 2],
}

impl Tally {
    /// Counts the votes.
    pub fn new(study: Study, ballots: &[Ballot]) -> Self {
        let questions = [
            question("better picture", ballots, |vote| vote.better),
            question("better match", ballots, |vote| vote.matches),
        ];
        Self {
            study,
            voters: ballots.len(),
            questions,
        }
    }
}

fn question(
    name: &'static str,
    ballots: &[Ballot],
    answer: impl Fn(&Vote) -> Option<Answer>,
) -> Question {
    let votes = ballots.iter().flat_map(|ballot| &ballot.votes);
    let votes: Vec<(&Vote, Answer)> = votes
        .filter_map(|vote| Some((vote, answer(vote)?)))
        .collect();
    let share_of = |counted: &dyn Fn(&Vote, Answer) -> Option<bool>| {
        let counted = votes
            .iter()
            .filter_map(|(vote, answer)| Some((vote.pair, counted(vote, *answer)?)));
        Share::of(counted)
    };
    let chosen = |answer: Answer| match answer {
        Answer::A => Some(Side::A),
        Answer::B => Some(Side::B),
        Answer::OnPar | Answer::Neither => None,
    };
    let mut units = BTreeMap::<usize, Vec<Answer>>::new();
    for (vote, answer) in &votes {
        units.entry(vote.pair).or_default().push(*answer);
    }
    let units: Vec<Vec<Answer>> = units.into_values().collect();
    Question {
        name,
        shares: ANSWERS.map(|asked| share_of(&|_, answer| Some(answer == asked))),
        preferred: share_of(&|_, answer| Some(chosen(answer)? == Side::A)),
        left: share_of(&|vote, answer| Some(chosen(answer)? == vote.left)),
        agreement: krippendorff(&units),
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            study,
            voters,
            questions,
        } = self;
        writeln!(f, "a is {}, b is {}", study.a, study.b)?;
        writeln!(
            f,
            "{} pairs, {voters} voters; shares with 95 % intervals (Wilson; several votes on one pair count for as many as they are worth)\n",
            study.pairs
        )?;
        writeln!(
            f,
            "{:16}{:>6}  {:24}{:24}{:24}{:24}",
            "", "votes", "a", "b", "on par", "neither"
        )?;
        for question in questions {
            write!(f, "{:16}{:>6}  ", question.name, question.shares[0].all)?;
            for share in question.shares {
                write!(f, "{share:24}")?;
            }
            writeln!(f)?;
        }
        for Question {
            name,
            preferred,
            left,
            agreement,
            ..
        } in questions
        {
            write!(
                f,
                "\n{name}: a is preferred in {preferred} of the {} votes for one of the two",
                preferred.all
            )?;
            write!(f, ", the picture on the left in {left}; ")?;
            match agreement {
                Some(alpha) => write!(f, "agreement between voters {alpha:.3} (Krippendorff's alpha)")?,
                None => f.write_str("agreement between voters unknown: no pair has votes of two, or all votes are the same")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::votes::tests::study;

    #[test]
    fn votes_are_counted_by_question() {
        let vote = |pair, left, better| Vote {
            pair,
            left,
            better,
            matches: None,
        };
        let ballot = |voter: &str, votes: Vec<Vote>| Ballot::of(voter, votes);
        let ballots = [
            ballot(
                "Ann",
                vec![
                    vote(0, Side::A, Some(Answer::A)),
                    vote(1, Side::B, Some(Answer::A)),
                    vote(2, Side::B, Some(Answer::Neither)),
                ],
            ),
            ballot(
                "Bob",
                vec![
                    vote(0, Side::A, Some(Answer::A)),
                    vote(1, Side::B, Some(Answer::B)),
                    vote(2, Side::B, Some(Answer::Neither)),
                ],
            ),
        ];
        let tally = Tally::new(study("a fox"), &ballots);
        let [better, matches] = &tally.questions;
        assert_eq!(better.shares.map(|share| share.count), [3, 1, 0, 2]);
        for share in [better.preferred, better.left] {
            assert_eq!((share.count, share.all), (3, 4));
        }
        // Of 6 values 3, 1 and 2 are the same: one unit of three disagrees, 2 / 6 observed, 22 / 30 expected.
        let alpha = 1.0 - (2.0 / 6.0) / (22.0 / 30.0);
        assert!((better.agreement.unwrap() - alpha).abs() < 1e-12);
        assert_eq!(matches.preferred, Share::default());
        assert_eq!(matches.agreement, None);
        let text = tally.to_string();
        for part in [
            "a is one, b is other",
            "3 pairs, 2 voters",
            // Two pairs have one degree of freedom.
            "75.0 % [1.4, 99.8]",
            "0.545",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
