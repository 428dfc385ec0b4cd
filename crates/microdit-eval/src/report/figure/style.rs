//! How figures look: one style sheet, whose colors are variables in a page and values in a file.

/// Colors by name: on a light ground, and on a dark one. The first ten of lines are for runs, the others, from dark to
/// light, for noise levels.
const COLORS: [[&str; 3]; 24] = [
    ["paper", "#ffffff", "#14171c"],
    ["card", "#f6f7f9", "#1c2027"],
    ["ink", "#1c2127", "#e6e9ee"],
    ["muted", "#5c6672", "#9aa5b3"],
    ["rule", "#dde1e7", "#323944"],
    ["accent", "#1f5fbf", "#7db1ff"],
    ["s0", "#1f6fd0", "#6aa8ff"],
    ["s1", "#d1570a", "#ff9a57"],
    ["s2", "#1b8a4b", "#5fd08c"],
    ["s3", "#a3269c", "#e58be0"],
    ["s4", "#94780a", "#e7c84a"],
    ["s5", "#c42b3b", "#ff7f8b"],
    ["s6", "#0f8c96", "#58d0d8"],
    ["s7", "#6b4bd1", "#b09cff"],
    ["s8", "#7a5230", "#cfa27c"],
    ["s9", "#59626e", "#b3bcc8"],
    ["l0", "#3b0f70", "#9a6bd6"],
    ["l1", "#5a1f8a", "#b46fd9"],
    ["l2", "#7a2a86", "#cc74d0"],
    ["l3", "#a0337c", "#e07dbb"],
    ["l4", "#c43e66", "#ee8a9c"],
    ["l5", "#d9533c", "#f6a07c"],
    ["l6", "#cb6a14", "#fbbb6a"],
    ["l7", "#a67c00", "#fbd968"],
];

/// Names of the colors of lines.
const LINES: [&str; 18] = [
    "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "l0", "l1", "l2", "l3", "l4", "l5",
    "l6", "l7",
];

/// The rules of figures, over variables; [`rules`] has those of the lines.
pub(in crate::report) const FIGURE_CSS: &str = include_str!("figure.css");

/// Definitions of the variables, for the two kinds of ground.
pub(in crate::report) fn variables() -> String {
    let defined = |which: usize| -> String {
        let all = COLORS.iter();
        all.map(|color| format!("--{}:{};", color[0], color[which]))
            .collect()
    };
    format!(
        ":root{{color-scheme:light dark;{}}}@media (prefers-color-scheme:dark){{:root{{{}}}}}",
        defined(1),
        defined(2)
    )
}

/// The rules of the lines, over variables.
pub(in crate::report) fn rules() -> String {
    let rule = |name: &&str| {
        format!(".{name}{{stroke:var(--{name})}}.dot.{name}{{fill:var(--{name});stroke:none}}")
    };
    LINES.iter().map(rule).collect()
}

/// The whole style of a file: the variables are replaced by the colors on a light ground.
pub(super) fn of_file() -> String {
    let css = format!("{FIGURE_CSS}{}", rules());
    COLORS.iter().fold(css, |css, [name, light, _]| {
        css.replace(&format!("var(--{name})"), light)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_no_variables() {
        let css = of_file();
        assert!(css.contains("#1f6fd0") && !css.contains("var("), "{css}");
    }

    /// Contrast of two colors (WCAG 2.2, relative luminance).
    fn contrast(one: &str, other: &str) -> f64 {
        let luminance = |color: &str| {
            let part = |at: usize| {
                let value = u8::from_str_radix(&color[at..at + 2], 16).unwrap();
                let value = f64::from(value) / 255.0;
                match value <= 0.040_45 {
                    true => value / 12.92,
                    false => ((value + 0.055) / 1.055).powf(2.4),
                }
            };
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5) + 0.05
        };
        let (one, other) = (luminance(one), luminance(other));
        one.max(other) / one.min(other)
    }

    /// What WCAG 2.2 asks for: 4.5 for text, 3 for what a figure is read by. In a page, figures lie on cards.
    #[test]
    fn colors_can_be_told_from_the_ground() {
        for which in [1, 2] {
            let card = COLORS[1][which];
            for color in &COLORS[2..] {
                let least = match color[0] {
                    "rule" => 1.2,
                    "ink" | "muted" | "accent" => 4.5,
                    _ => 3.0,
                };
                let found = contrast(card, color[which]);
                assert!(found >= least, "{color:?} on {card}: {found}");
            }
        }
    }
}
