// SPDX-License-Identifier: GPL-3.0-only
use super::*;
use crate::top::key::Key;
use crate::top::look::Told;
use crate::top::sample::{HOSTILE, asked, look, model};

fn press(model: &mut Model, keys: &[Key]) -> Effect {
    let mut effect = Effect::Draw;
    for key in keys {
        effect = model.key(*key);
    }
    effect
}

fn typed(model: &mut Model, text: &str) -> Effect {
    let keys: Vec<Key> = text.chars().map(Key::Char).collect();
    press(model, &keys)
}

/// What a row shows in a column.
fn shown(model: &Model, row: usize, column: &str) -> String {
    let columns = model.view().columns();
    let i = columns.iter().position(|c| c.name == column).expect(column);
    model.rows()[row].cells[i].shown.clone()
}

/// What a column shows, from the top.
fn down(model: &Model, column: &str) -> Vec<String> {
    (0..model.rows().len())
        .map(|row| shown(model, row, column))
        .collect()
}

/// Another look, with traffic as before.
fn again(model: &mut Model, at: u64) {
    let look = look(at, at - 10, model);
    model.take(look);
}

#[test]
fn rates_of_domains_come_with_the_second_look() {
    let mut model = Model::new("dom0".into(), &asked(View::Domains, None));
    model.take(look(10, 0, &model));
    assert_eq!(down(&model, "New/s"), ["-", "-", "-"]);
    again(&mut model, 12);
    // Sorted by what they send.
    assert_eq!(down(&model, "Name")[..2], ["db1", "web1"]);
    assert_eq!(down(&model, "New/s"), ["5.0", "5.0", "0"]);
    assert_eq!(down(&model, "Denied/s"), ["0", "1.0", "0"]);
    assert_eq!(down(&model, "Out/s"), ["3.0M", "1.0M", "0"]);
    assert_eq!(down(&model, "In/s"), ["1.0M", "3.0M", "0"]);
    assert_eq!(down(&model, "Threats"), ["1", "1", "0"]);
    let totals = model.picture.totals();
    assert_eq!((totals.flows, totals.denied), (Some(5.0), Some(1.0)));
    assert_eq!(totals.bytes_out, Some(4_194_304.0));
}

#[test]
fn a_daemon_that_began_anew_gives_no_rate_below_zero() {
    let mut model = model(View::Domains, None);
    // All counters are smaller than at the look before.
    model.take(look(15, 0, &model));
    // Who never counted anything may still be sitting there doing nothing.
    assert_eq!(down(&model, "Name")[1..], ["db1", "web1"]);
    assert_eq!(down(&model, "Out/s"), ["0", "-", "-"]);
    assert_eq!(down(&model, "New/s"), ["0", "-", "-"]);
    model.take(look(17, 2, &model));
    assert_eq!(down(&model, "Out/s")[..2], ["3.0M", "1.0M"]);
}

#[test]
fn a_daemon_without_signals_is_borne() {
    let mut model = model(View::Pairs, None);
    let mut older = look(14, 4, &model);
    older.signals = Some(Told {
        at: older.at,
        answer: Err("this policyd does not tell that".into()),
    });
    model.take(older);
    assert!(model.rows().is_empty());
    assert_eq!(model.refused(), Some("this policyd does not tell that"));
    // The header has TCP connections and packets instead.
    let totals = model.picture.totals();
    assert_eq!((totals.flows, totals.denied), (Some(10.0), Some(1.0)));
    typed(&mut model, "1");
    assert_eq!((model.rows().len(), model.refused()), (3, None));
}

#[test]
fn a_daemon_that_is_away_leaves_the_last_picture_and_comes_back() {
    let mut model = model(View::Domains, None);
    model.take(Look {
        at: Duration::from_secs(15),
        away: Some("cannot reach policyd".into()),
        ..Look::default()
    });
    assert_eq!(model.rows().len(), 3);
    assert_eq!(model.told, Some(Duration::from_secs(12)));
    assert_eq!(down(&model, "Out/s")[..2], ["3.0M", "1.0M"]);
    again(&mut model, 22);
    assert_eq!(
        (model.away.as_deref(), model.told),
        (None, Some(Duration::from_secs(22)))
    );
    // Of all the time that it was away.
    assert_eq!(down(&model, "Out/s")[..2], ["3.0M", "1.0M"]);
}

#[test]
fn one_goes_down_from_domain_to_process_to_flow_and_back() {
    let mut model = model(View::Domains, None);
    assert_eq!(model.wants(), Wants::default());
    // web1 is the second.
    assert_eq!(press(&mut model, &[Key::Down, Key::Enter]), Effect::Ask);
    assert_eq!(model.place().scope, Scope::Processes("web1".into()));
    assert_eq!(model.wants().processes.as_deref(), Some("web1"));
    assert_eq!(model.wants().flows, Some(Some("web1".into())));
    assert!(!model.looked() && model.rows().is_empty(), "nobody told that yet");
    again(&mut model, 14);
    again(&mut model, 16);
    // nginx has two flows, of 2 KiB out and 1 KiB in a second each.
    assert_eq!(down(&model, "PID"), ["400", "401", "2"]);
    assert_eq!(down(&model, "Flows"), ["2", "1", "0"]);
    assert_eq!(down(&model, "Denied"), ["0", "1", "0"]);
    assert_eq!(down(&model, "Out/s"), ["4.0K", "2.0K", "-"]);
    assert_eq!(shown(&model, 0, "Container"), "0123456789ab");
    assert_eq!(shown(&model, 2, "Exe"), "[kworker]");

    assert_eq!(press(&mut model, &[Key::Enter]), Effect::Ask);
    assert_eq!(model.view(), View::Flows);
    // The same flows were asked for already.
    assert_eq!(down(&model, "From"), ["10.0.0.1:40000", "10.0.0.1:40001"]);
    assert_eq!(down(&model, "Bytes/s"), ["3.0K", "3.0K"]);
    assert_eq!(down(&model, "RTT"), ["95 µs", "95 µs"]);
    assert_eq!(
        keys::path(model.path()),
        "Domains > Processes of web1 > Flows of web1:/usr/sbin/nginx (400)"
    );

    assert_eq!(press(&mut model, &[Key::Esc, Key::Esc]), Effect::Ask);
    assert_eq!(model.view(), View::Domains);
    assert_eq!(model.marked().map(|row| row.key.as_str()), Some("web1"));
    assert_eq!(
        press(&mut model, &[Key::Esc]),
        Effect::Draw,
        "there is nothing behind it"
    );
    assert_eq!(
        model.wants(),
        Wants::default(),
        "nothing is asked for that is not shown"
    );
    // All flows of the domain at once.
    press(&mut model, &[Key::Char('f')]);
    again(&mut model, 18);
    assert_eq!(model.rows().len(), 3);
}

#[test]
fn flows_of_a_pair_are_those_that_fit_it() {
    let mut model = model(View::Pairs, None);
    assert_eq!(down(&model, "From")[0], "shop/front");
    assert_eq!(down(&model, "Conn/s"), ["4.0", "1.0"]);
    assert_eq!(down(&model, "Denied/s"), ["0", "1.0"]);
    assert_eq!(down(&model, "Setup"), ["120 µs", "-"]);
    assert_eq!(down(&model, "p99"), ["1.1 ms", "-"]);
    assert_eq!(down(&model, "1st byte"), ["1.2 ms", "-"]);
    press(&mut model, &[Key::Enter]);
    // Of the end that is a domain: that one need be asked only.
    assert_eq!(model.wants().flows, Some(Some("db1".into())));
    again(&mut model, 14);
    assert_eq!(down(&model, "To"), ["10.0.0.2:5432"]);
    assert_eq!(down(&model, "Domain"), ["db1"]);
    // What a finding is about is a pair, too.
    typed(&mut model, "6");
    assert_eq!(down(&model, "Slower"), ["9.5x"]);
    press(&mut model, &[Key::Enter]);
    assert_eq!(down(&model, "To"), ["10.0.0.2:5432"]);
}

#[test]
fn pairs_by_two_routes_are_two() {
    let mut model = Model::new("dom0".into(), &asked(View::Pairs, None));
    // The same ends, port and version; one route has far more than the other.
    for (at, traffic) in [(10, 0), (12, 2)] {
        let mut look = look(at, traffic, &model);
        if let Some(Told {
            answer: Ok(signals), ..
        }) = &mut look.signals
        {
            signals.pairs.truncate(1);
            let mut other = signals.pairs[0].clone();
            signals.pairs[0].route = Some("shop/a".into());
            other.route = Some("shop/b".into());
            other.total.connections = 7000 + 100 * traffic;
            signals.pairs.push(other);
        }
        model.take(look);
    }
    assert_eq!(down(&model, "Route"), ["shop/b", "shop/a"]);
    assert_eq!(down(&model, "Conn/s"), ["100", "4.0"]);
}

#[test]
fn columns_are_chosen_and_turned() {
    let mut model = model(View::Domains, None);
    press(&mut model, &[Key::Char('s')]);
    assert!(matches!(model.mode, Mode::Sorting(_)));
    press(&mut model, &[Key::Home, Key::Enter]);
    assert_eq!(model.mode, Mode::Looking);
    let names = down(&model, "Name");
    assert_eq!(names[0], "db1");
    assert_eq!(names[2], "web1");
    press(&mut model, &[Key::Char('r')]);
    assert_eq!(down(&model, "Name")[0], "web1");
    // The next column, of numbers: the largest first.
    press(&mut model, &[Key::Char('>')]);
    assert_eq!(down(&model, "ID"), ["3", "2", "1"]);
    press(&mut model, &[Key::Char('<'), Key::Char('<')]);
    assert_eq!(model.sorted().column, model.view().columns().len() - 1);
    press(&mut model, &[Key::Char('F'), Key::Home, Key::Esc]);
    assert_eq!(
        model.sorted().column,
        model.view().columns().len() - 1,
        "Esc chooses nothing"
    );
    // Each view has its own.
    typed(&mut model, "3");
    assert_eq!(model.view().columns()[model.sorted().column].name, "Conn/s");
}

#[test]
fn a_filter_hides_and_esc_shows_all_again() {
    let mut model = model(View::Domains, None);
    typed(&mut model, "/WEBx");
    assert_eq!((model.rows().len(), model.hidden()), (0, 3));
    press(&mut model, &[Key::Backspace]);
    assert_eq!(
        (down(&model, "Name"), model.hidden()),
        (vec!["web1".to_owned()], 2)
    );
    // Keys are text while one types.
    typed(&mut model, "q");
    assert_eq!(model.place().filter, "WEBq");
    press(&mut model, &[Key::Backspace, Key::Enter]);
    assert_eq!(model.mode, Mode::Looking);
    again(&mut model, 14);
    assert_eq!(model.rows().len(), 1, "it holds for what comes, too");
    press(&mut model, &[Key::Esc]);
    assert_eq!((model.rows().len(), model.place().filter.as_str()), (3, ""));
}

#[test]
fn the_mark_follows_its_row_and_stays_on_the_screen() {
    let mut model = model(View::Domains, None);
    model.resize(2);
    assert_eq!(press(&mut model, &[Key::Down, Key::Down]), Effect::Draw);
    assert_eq!(model.visible().0, 1);
    assert_eq!(model.marked().map(|r| r.key.as_str()), Some(HOSTILE));
    // By name it is between the others.
    press(&mut model, &[Key::Char('s'), Key::Home, Key::Enter]);
    assert_eq!(model.marked().map(|r| r.key.as_str()), Some(HOSTILE));
    assert_eq!(model.place().index, 1);
    press(&mut model, &[Key::End]);
    assert_eq!((model.place().index, model.visible().0), (2, 1));
    press(&mut model, &[Key::PageUp]);
    assert_eq!((model.place().index, model.visible().0), (0, 0));
    press(&mut model, &[Key::Up, Key::PageDown, Key::PageDown, Key::Down]);
    assert_eq!(model.place().index, 2);
    model.resize(50);
    assert_eq!(model.visible().0, 0, "no room is left empty");
    // At the top one sees whoever comes first.
    press(&mut model, &[Key::Home, Key::Char('r')]);
    assert_eq!(model.place().index, 0);
}

#[test]
fn a_row_that_goes_leaves_the_mark_where_it_was() {
    let mut model = model(View::Domains, None);
    press(&mut model, &[Key::End]);
    let mut fewer = look(14, 4, &model);
    if let Some(Told {
        answer: Ok(domains), ..
    }) = &mut fewer.domains
    {
        domains.retain(|domain| domain.name != HOSTILE);
    }
    model.take(fewer);
    assert_eq!(model.place().index, 1);
    let mut none = look(16, 6, &model);
    none.domains = Some(Told {
        at: none.at,
        answer: Ok(Vec::new()),
    });
    model.take(none);
    assert_eq!((model.place().index, model.marked().is_none()), (0, true));
    assert_eq!(press(&mut model, &[Key::Enter, Key::Char('f')]), Effect::Draw);
    assert_eq!(model.view(), View::Domains);
}

#[test]
fn delays_are_typed_and_what_is_none_is_said() {
    let mut model = model(View::Domains, None);
    typed(&mut model, "d0.5");
    assert_eq!(press(&mut model, &[Key::Enter]), Effect::Ask);
    assert_eq!(model.delay, Duration::from_millis(500));
    typed(&mut model, "d0.1x");
    press(&mut model, &[Key::Enter]);
    assert_eq!(model.delay, Duration::from_millis(500));
    let remark = model.remark.clone().unwrap_or_default();
    assert!(
        remark.contains("`0.1`") && remark.contains("0.5 to 3600"),
        "{remark}"
    );
    typed(&mut model, "d9");
    press(&mut model, &[Key::Esc]);
    assert_eq!((model.delay.as_millis(), model.remark.as_ref()), (500, None));
}

#[test]
fn views_have_numbers_and_tab_goes_around() {
    let mut model = model(View::Domains, None);
    for (key, view) in "123456".chars().zip(View::ALL) {
        assert_eq!(press(&mut model, &[Key::Char(key)]), Effect::Ask);
        assert_eq!(model.view(), view);
        assert!(model.path().len() <= 2, "Esc leads where one began");
    }
    press(&mut model, &[Key::Tab]);
    assert_eq!(model.view(), View::Domains);
    press(&mut model, &[Key::BackTab]);
    assert_eq!(model.view(), View::Findings);
    assert!(!model.wants().threats_now);
    press(&mut model, &[Key::BackTab]);
    assert!(model.wants().threats_now);
    assert_eq!(down(&model, "Last"), ["12:34:56", "12:30:00"]);
}

#[test]
fn processes_are_those_of_the_domain_that_one_is_at() {
    let mut model = model(View::Domains, None);
    press(&mut model, &[Key::Down, Key::Char('2')]);
    assert_eq!(model.place().scope, Scope::Processes("web1".into()));
    // An id is the domain's that has it.
    let mut by_id = Model::new("dom0".into(), &asked(View::Flows, Some("2")));
    by_id.take(look(10, 0, &by_id));
    assert_eq!(by_id.wants().flows, Some(Some("db1".into())));
    // Without one, of the first; and who began there before anything was known gets it, too.
    let mut fresh = Model::new("dom0".into(), &asked(View::Processes, None));
    assert_eq!(fresh.wants(), Wants::default());
    fresh.take(look(10, 0, &fresh));
    assert_eq!(fresh.place().scope, Scope::Processes("web1".into()));
    assert_eq!(fresh.wants().processes.as_deref(), Some("web1"));
}

#[test]
fn what_a_guest_says_is_shown_and_does_nothing() {
    for (view, domain) in [
        (View::Domains, None),
        (View::Processes, Some("web1")),
        (View::Pairs, None),
        (View::Flows, None),
        (View::Threats, None),
        (View::Findings, None),
    ] {
        let model = model(view, domain);
        assert!(!model.rows().is_empty(), "{view:?}");
        let texts = model.rows().iter().flat_map(|row| {
            let cells = row.cells.iter().map(|cell| &cell.shown);
            cells.chain(&row.detail)
        });
        for text in texts {
            let moves = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!text.contains(moves), "{view:?}: {text:?}");
        }
    }
    let scope = Scope::Processes(HOSTILE.into());
    assert_eq!(scope.title(), "Processes of evil\\u{1b}[2J\\u{1b}[31m\\u{202e}");
}

#[test]
fn keys_end_pause_and_help() {
    let mut model = model(View::Domains, None);
    assert_eq!(press(&mut model, &[Key::Char('p')]), Effect::Ask);
    assert!(model.paused);
    assert_eq!(press(&mut model, &[Key::Char(' ')]), Effect::Ask);
    assert!(!model.paused);
    press(&mut model, &[Key::Char('?'), Key::Down]);
    assert_eq!(model.mode, Mode::Helping(1));
    press(&mut model, &[Key::Char('q')]);
    assert_eq!(model.mode, Mode::Looking, "q leaves the help first");
    assert_eq!(press(&mut model, &[Key::Ctrl('z')]), Effect::Suspend);
    assert_eq!(press(&mut model, &[Key::Char('q')]), Effect::Quit);
    typed(&mut model, "/");
    assert_eq!(
        press(&mut model, &[Key::Ctrl('c')]),
        Effect::Quit,
        "whatever one does"
    );
}

#[test]
fn no_line_of_the_help_is_too_wide() {
    for line in HELP {
        assert!(line.chars().count() <= 78, "{line}");
    }
}
