// SPDX-License-Identifier: GPL-3.0-only
//! The views, and the columns of each.

use clap::ValueEnum;

use super::rows;
use super::table::Column;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// All domains.
    Domains,
    /// The processes of a domain.
    Processes,
    /// Who talks to whom: services, domains and the world.
    Pairs,
    /// Flows at the interfaces of domains.
    Flows,
    /// What looks like an attack.
    Threats,
    /// What makes pairs slow.
    Findings,
}

impl View {
    /// In the order of their keys, 1 to 6.
    pub const ALL: [View; 6] = [
        View::Domains,
        View::Processes,
        View::Pairs,
        View::Flows,
        View::Threats,
        View::Findings,
    ];

    /// Its place in [`View::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name on the screen.
    pub fn title(self) -> &'static str {
        match self {
            View::Domains => "Domains",
            View::Processes => "Processes",
            View::Pairs => "Pairs",
            View::Flows => "Flows",
            View::Threats => "Threats",
            View::Findings => "Findings",
        }
    }

    /// The word for it in arguments and JSON.
    pub fn word(self) -> &'static str {
        match self {
            View::Domains => "domains",
            View::Processes => "processes",
            View::Pairs => "pairs",
            View::Flows => "flows",
            View::Threats => "threats",
            View::Findings => "findings",
        }
    }

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        match self {
            View::Domains => rows::domains::COLUMNS,
            View::Processes => rows::processes::COLUMNS,
            View::Pairs => rows::pairs::COLUMNS,
            View::Flows => rows::flows::COLUMNS,
            View::Threats => rows::threats::COLUMNS,
            View::Findings => rows::findings::COLUMNS,
        }
    }

    /// The column by which it is sorted at first.
    pub fn sorted_by(self) -> &'static str {
        match self {
            View::Domains => "Out/s",
            View::Processes => "Flows",
            View::Pairs => "Conn/s",
            View::Flows => "Bytes/s",
            View::Threats => "Last",
            View::Findings => "Slower",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_has_the_column_it_is_sorted_by_and_names_that_tell_columns_apart() {
        for view in View::ALL {
            let columns = view.columns();
            assert!(
                columns.iter().any(|column| column.name == view.sorted_by()),
                "{view:?}"
            );
            for name in [|c: &Column| c.name, |c: &Column| c.json] {
                let mut names: Vec<&str> = columns.iter().map(name).collect();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), columns.len(), "{view:?}");
            }
            assert_eq!(View::ALL[view.index()], view);
            assert_eq!(
                view.to_possible_value()
                    .map(|v| v.get_name().to_owned())
                    .as_deref(),
                Some(view.word())
            );
        }
    }
}
