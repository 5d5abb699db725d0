//! The report as a picture: a bar for each ratio, to the left of the line "as fast" where mirrorfs is
//! slower than the other one, to its right where it is faster, with a stroke where the goal is.
//!
//! The scale is logarithmic: half as fast is as far from the line as twice as fast. The picture brings
//! its own light background, so that it reads the same on a dark page.

use std::fmt::Write as _;

use crate::figures;
use crate::loads::{Load, Reference};
use crate::run::Run;
use crate::text::short;

const WIDTH: f64 = 880.0;
/// Where the bars are drawn, and which ratios its ends are.
const LEFT: f64 = 310.0;
const RIGHT: f64 = 650.0;
const LOWEST: f64 = 0.05;
const HIGHEST: f64 = 20.0;
const TICKS: [(f64, &str); 9] = [
    (0.05, "1/20"),
    (0.1, "1/10"),
    (0.2, "1/5"),
    (0.5, "1/2"),
    (1.0, "as fast"),
    (2.0, "2 x"),
    (5.0, "5 x"),
    (10.0, "10 x"),
    (20.0, "20 x"),
];

const TOP: f64 = 104.0;
const BAR: f64 = 9.0;
const ROW: f64 = 13.0;
const GAP: f64 = 9.0;

fn colour(of: Reference) -> &'static str {
    match of {
        Reference::Bare => "#4477aa",
        Reference::Twice => "#66ccee",
        Reference::Btrfs => "#aa3377",
        Reference::Better => "#ccaa22",
        Reference::Glusterfs => "#228844",
    }
}

/// Where a ratio lies; what is off the scale lies at its end.
fn at(ratio: f64) -> f64 {
    let part = (ratio.clamp(LOWEST, HIGHEST) / LOWEST).ln() / (HIGHEST / LOWEST).ln();
    LEFT + part * (RIGHT - LEFT)
}

/// One bar: a ratio and the strictest goal for it.
struct Bar {
    of: Reference,
    ratio: f64,
    goal: Option<(f64, bool)>,
}

/// The bars of a load: of the bare filesystem and of both legs without FUSE always, of others where there is a goal.
fn bars(run: &Run, load: &Load) -> Vec<Bar> {
    let bar = |of: Reference| {
        let ratio = figures::ratio(run, load, of)?;
        let goal = load.goals_of(of).next().map(|goal| (goal.factor, figures::reached(ratio, goal)));
        let always = matches!(of, Reference::Bare | Reference::Twice);
        (goal.is_some() || always).then_some(Bar { of, ratio, goal })
    };
    Reference::ALL.into_iter().filter_map(bar).collect()
}

pub fn picture(run: &Run) -> String {
    let groups: Vec<_> = run.loads.iter().map(|load| (load, bars(run, load))).collect();
    let groups: Vec<_> = groups.into_iter().filter(|(_, bars)| !bars.is_empty()).collect();
    let rows: f64 = groups.iter().map(|(_, bars)| bars.len() as f64 * ROW + GAP).sum();
    let bottom = TOP + rows;

    let mut body = head(run);
    body += &scale(bottom);
    let mut y = TOP;
    for (load, bars) in &groups {
        body += &text(16.0, y + BAR, "12", "#222222", &load.title);
        for bar in bars {
            body += &draw(bar, y);
            y += ROW;
        }
        y += GAP;
    }
    let height = bottom + 34.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" role=\"img\">\n\
         <title>What mirrorfs reaches of the speed of others</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"#ffffff\" stroke=\"#bbbbbb\"/>\n{body}</svg>\n",
        WIDTH - 1.0,
        height - 1.0
    )
}

fn head(run: &Run) -> String {
    let mut out = text(16.0, 26.0, "16", "#222222", "What mirrorfs reaches of the speed of others");
    let facts = ["processor", "kernel", "legs", "date"].map(|name| run.fact(name)).join(", ");
    out += &text(16.0, 44.0, "11", "#555555", &facts);
    let mut x = 16.0;
    for of in Reference::ALL {
        let label = format!("of {of}");
        let _ =
            writeln!(out, "<rect x=\"{x}\" y=\"57\" width=\"10\" height=\"10\" fill=\"{}\"/>", colour(of));
        out += &text(x + 15.0, 66.0, "11", "#222222", &label);
        x += 45.0 + 6.0 * label.len() as f64;
    }
    let _ = writeln!(out, "<rect x=\"{x}\" y=\"55\" width=\"2.5\" height=\"14\" fill=\"#000000\"/>");
    out += &text(x + 8.0, 66.0, "11", "#222222", "goal");
    out
}

/// The lines behind the bars, named above and below.
fn scale(bottom: f64) -> String {
    let mut out = String::new();
    for (ratio, name) in TICKS {
        let x = at(ratio);
        let (colour, width) = if ratio == 1.0 { ("#555555", 1.2) } else { ("#dddddd", 1.0) };
        let top = TOP - 6.0;
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
        for y in [TOP - 11.0, bottom + 14.0] {
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y}\" font-size=\"10\" fill=\"#555555\" text-anchor=\"middle\">{name}</text>"
            );
        }
    }
    out
}

fn draw(bar: &Bar, y: f64) -> String {
    let (from, to) = (at(bar.ratio.min(1.0)), at(bar.ratio.max(1.0)));
    let mut out = format!(
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n",
        (to - from).max(1.0),
        colour(bar.of)
    );
    let mut label = short(bar.ratio);
    let mut ink = "#555555";
    if let Some((factor, reached)) = bar.goal {
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"2.5\" height=\"{}\" fill=\"#000000\"/>",
            at(factor) - 1.25,
            y - 1.5,
            BAR + 3.0
        );
        label += &format!(", goal {factor} {}", if reached { "reached" } else { "missed" });
        if !reached {
            ink = "#b00020";
        }
    }
    out + &text(RIGHT + 28.0, y + BAR - 0.5, "11", ink, &label)
}

fn text(x: f64, y: f64, size: &str, colour: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\">{words}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::of;

    #[test]
    fn the_scale_has_equal_speed_in_its_middle_and_ends() {
        assert!((at(1.0) - (LEFT + RIGHT) / 2.0).abs() < 0.01);
        assert!((at(0.5) + at(2.0) - LEFT - RIGHT).abs() < 0.01);
        assert_eq!((at(0.0001), at(5000.0)), (LEFT, RIGHT));
    }

    #[test]
    fn a_bar_for_bare_and_for_each_other_one_with_a_goal() {
        let rates =
            [("bare", [100.0; 2]), ("bindfs", [50.0; 2]), ("mergerfs", [40.0; 2]), ("glusterfs", [9.0; 2])];
        let run = of("create | op/s | create & write | 0.9 better, 0.6 better", [40.0; 2], &rates);
        let bars = bars(&run, &run.loads[0]);
        assert_eq!(bars.iter().map(|bar| bar.of).collect::<Vec<_>>(), [Reference::Bare, Reference::Better]);
        assert_eq!(bars[1].goal, Some((0.9, false)));
        let picture = picture(&run);
        assert!(picture.contains(">0.80, goal 0.9 missed<"), "{picture}");
        assert!(picture.contains(">create &amp; write<"), "{picture}");
    }
}
