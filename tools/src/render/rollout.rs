// SPDX-License-Identifier: GPL-3.0-only
//! What holds for some VMs first.

use policyd_api::{Refusals, Rollout};

use super::plain;
use super::policy_history::{second, sets};

/// `xmesh policy-rollout`.
pub fn status(rollout: &Rollout) -> String {
    let Some(stage) = &rollout.stage else {
        return "nothing is being rolled out\n".to_owned();
    };
    let until = match stage.until_ns {
        Some(until) => format!("for all at {} unless refusals rise", second(until)),
        None => "until policy-promote or policy-abandon".to_owned(),
    };
    let text = format!(
        "sets    {}\nvms     {}\nbegan   {}\nuntil   {until}\nbefore  {}\nsince   {}\n",
        sets(&stage.edits),
        stage.vms.join(" "),
        second(stage.since_ns),
        refusals(rollout.before),
        refusals(rollout.since)
    );
    text.lines().map(|line| plain(line) + "\n").collect()
}

fn refusals(of: Refusals) -> String {
    let share = of.refused as f64 / of.flows.max(1) as f64 * 100.0;
    format!("{} of {} flows refused ({share:.1} %)", of.refused, of.flows)
}

#[cfg(test)]
mod tests {
    use policyd_api::{Edit, Stage, Version};

    use super::*;

    #[test]
    fn a_roll_out_is_told_in_lines() {
        assert_eq!(status(&Rollout::default()), "nothing is being rolled out\n");
        let version = |text: &str| {
            Some(Version {
                text: text.into(),
                file: "shop.yaml".into(),
            })
        };
        let of = |refused, flows| Refusals { flows, refused };
        let rollout = Rollout {
            stage: Some(Stage {
                vms: vec!["web1".into(), "web2*".into()],
                since_ns: 1_000_000_000_000_000_000,
                until_ns: Some(1_000_000_600_000_000_000),
                edits: vec![Edit {
                    set: "shop".into(),
                    before: version("0"),
                    after: version("1"),
                }],
            }),
            before: of(2, 1200),
            since: of(0, 40),
        };
        assert_eq!(
            status(&rollout),
            "sets    shop\nvms     web1 web2*\nbegan   2001-09-09T01:46:40Z\n\
             until   for all at 2001-09-09T01:56:40Z unless refusals rise\n\
             before  2 of 1200 flows refused (0.2 %)\nsince   0 of 40 flows refused (0.0 %)\n"
        );
    }
}
