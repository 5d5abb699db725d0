//! The loads and their goals, as loads.table tells them.

use std::fmt;

/// What mirrorfs is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    Bare,
    /// The least that a mirror has to do, by one program without FUSE.
    Twice,
    Btrfs,
    /// The better of bindfs and mergerfs.
    Better,
    Glusterfs,
}

impl Reference {
    pub const ALL: [Self; 5] = [Self::Bare, Self::Twice, Self::Btrfs, Self::Better, Self::Glusterfs];

    /// The peers of which the best one is the reference, by the names scripts/bench has for them.
    pub fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Bare => &["bare"],
            Self::Twice => &["twice"],
            Self::Btrfs => &["btrfs"],
            Self::Better => &["bindfs", "mergerfs"],
            Self::Glusterfs => &["glusterfs"],
        }
    }

    /// Its name in loads.table and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Twice => "twice",
            Self::Btrfs => "btrfs",
            Self::Better => "better",
            Self::Glusterfs => "glusterfs",
        }
    }
}

/// For people.
impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Bare => "bare",
            Self::Twice => "both legs without FUSE",
            Self::Btrfs => "btrfs raid1",
            Self::Better => "the better of bindfs and mergerfs",
            Self::Glusterfs => "GlusterFS",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    pub factor: f64,
    pub of: Reference,
}

#[derive(Clone, Debug)]
pub struct Load {
    pub name: String,
    pub unit: String,
    pub title: String,
    pub goals: Vec<Goal>,
}

impl Load {
    /// The goals against one reference, in the order of the table: the strictest first.
    pub fn goals_of(&self, of: Reference) -> impl Iterator<Item = Goal> + '_ {
        self.goals.iter().copied().filter(move |goal| goal.of == of)
    }
}

pub fn parse(table: &str) -> Result<Vec<Load>, String> {
    let lines = table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| load(line).ok_or(format!("this is no line of a table of loads: {line}"))).collect()
}

fn load(line: &str) -> Option<Load> {
    let fields: Vec<&str> = line.split('|').map(str::trim).collect();
    let [name, unit, title, goals] = fields.as_slice() else { return None };
    let goals = goals.split(',').map(str::trim).filter(|words| !words.is_empty()).map(goal);
    Some(Load {
        name: (*name).to_owned(),
        unit: (*unit).to_owned(),
        title: (*title).to_owned(),
        goals: goals.collect::<Option<_>>()?,
    })
}

fn goal(words: &str) -> Option<Goal> {
    let (factor, of) = words.split_once(' ')?;
    let of = Reference::ALL.into_iter().find(|reference| reference.name() == of)?;
    Some(Goal { factor: factor.parse().ok()?, of })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = include_str!("../loads.table");

    #[test]
    fn the_table_of_the_bench_is_read_in_full() {
        let loads = parse(TABLE).expect("loads.table is well formed");
        assert_eq!(
            loads.len(),
            TABLE.lines().filter(|line| line.contains(" | ") && !line.starts_with('#')).count()
        );
        let fsync = loads.iter().find(|load| load.name == "fsync").expect("there is a load fsync");
        assert_eq!(fsync.goals_of(Reference::Bare).map(|goal| goal.factor).collect::<Vec<_>>(), [0.75, 0.7]);
        assert_eq!(fsync.goals_of(Reference::Btrfs).map(|goal| goal.factor).collect::<Vec<_>>(), [2.0]);
        assert_eq!(fsync.goals_of(Reference::Better).count(), 0);
    }

    #[test]
    fn of_two_goals_against_one_the_stricter_stands_first() {
        for load in parse(TABLE).expect("loads.table is well formed") {
            for of in Reference::ALL {
                let factors: Vec<f64> = load.goals_of(of).map(|goal| goal.factor).collect();
                assert!(factors.is_sorted_by(|one, next| one > next), "{} of {of}: {factors:?}", load.name);
            }
        }
    }

    #[test]
    fn what_is_no_goal_is_refused() {
        for goals in ["0.9", "0.9 nobody", "much bare", "0.9 bare 1.0 better"] {
            assert!(parse(&format!("a | op/s | b | {goals}")).is_err(), "{goals}");
        }
        assert!(parse("a | op/s | b").is_err());
        assert!(parse("a | op/s | b |").expect("no goals are no fault")[0].goals.is_empty());
    }
}
