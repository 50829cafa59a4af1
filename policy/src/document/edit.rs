// SPDX-License-Identifier: GPL-3.0-only
//! Changes to the text of a document that leave all else in it as it is, comments too.

use super::Document;
use super::node::{self, Node, Value};
use crate::problem::{Place, Problem, Problems};

/// Gives backends of a route other weights. `weights`: by the place of the entry in the route's list, from 0.
///
/// What comes of it is read again, and must say the same as before but for these weights; so a text in which that cannot be done by changing
/// the weights alone (an alias that stands for one) is refused, and never changed in another place.
///
/// # Errors
/// A text that is no document, or has no such route or entry; one in which a weight cannot be changed alone.
pub fn set_weights(
    file: &str,
    text: &str,
    route: &str,
    weights: &[(usize, u16)],
) -> Result<String, Problems> {
    let before = Document::parse(file, text)?;
    let problem = |place: Place, what: String, remedy: &str| {
        Problems::from(Problem {
            file: file.to_owned(),
            line: place.line,
            column: place.column,
            what,
            remedy: remedy.to_owned(),
        })
    };
    let root = node::parse(file, text).map_err(|problem| Problems::from(*problem))?;
    let backends = field(&root, "routes")
        .and_then(|routes| field(routes, route))
        .and_then(|route| field(route, "backends"));
    let Some(backends) = backends else {
        let what = format!("there is no route `{route}` in this set");
        return Err(problem(Place::START, what, "`xmesh routes` lists them"));
    };
    // A list of one may be written without brackets.
    let entries: Vec<&Node> = match &backends.value {
        Value::List(list) => list.iter().collect(),
        _ => vec![backends],
    };
    let mut edits = Vec::new();
    let mut after = before.clone();
    for (at, weight) in weights {
        let written = after
            .routes
            .get_mut(route)
            .and_then(|route| route.backends.get_mut(*at));
        let (Some(entry), Some(written)) = (entries.get(*at), written) else {
            let what = format!("route `{route}` has no backend number {at}");
            return Err(problem(
                backends.place,
                what,
                "read the document again: it has changed",
            ));
        };
        if written.weight == *weight {
            continue;
        }
        written.weight = *weight;
        let edit = edit(text, entry, *weight);
        edits.push(edit.ok_or_else(|| {
            let what = format!("the weight of this backend of `{route}` cannot be changed by itself");
            problem(entry.place, what, "change it with `xmesh policy-edit`")
        })?);
    }
    // From the end on, so that what is before stays where it is.
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.at));
    let mut text_after = text.to_owned();
    for edit in edits {
        text_after.replace_range(edit.at..edit.at + edit.length, &edit.text);
    }
    match Document::parse(file, &text_after) {
        Ok(document) if document == after => Ok(text_after),
        _ => {
            let what = format!("the weights of route `{route}` cannot be changed without changing more");
            Err(problem(
                backends.place,
                what,
                "change them with `xmesh policy-edit`",
            ))
        }
    }
}

/// A part of a text, in bytes, and what comes in its place.
struct Edit {
    at: usize,
    length: usize,
    text: String,
}

fn edit(text: &str, entry: &Node, weight: u16) -> Option<Edit> {
    if let Some(node) = field(entry, "weight") {
        let at = offset(text, node.place)?;
        let digits = text
            .get(at..)?
            .bytes()
            .take_while(u8::is_ascii_alphanumeric)
            .count();
        return (digits > 0).then(|| Edit {
            at,
            length: digits,
            text: weight.to_string(),
        });
    }
    // Before the first field.
    let Value::Map(fields) = &entry.value else {
        return None;
    };
    let (key, _) = fields.first()?;
    let at = offset(text, key.place)?;
    let in_braces = text.get(offset(text, entry.place)?..)?.starts_with('{');
    let text = match in_braces {
        true => format!("weight: {weight}, "),
        false => format!(
            "weight: {weight}\n{}",
            " ".repeat(key.place.column.checked_sub(1)? as usize)
        ),
    };
    Some(Edit { at, length: 0, text })
}

fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Map(fields) => fields
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(_, node)| node),
        _ => None,
    }
}

/// Where in the text a place is, in bytes.
fn offset(text: &str, place: Place) -> Option<usize> {
    let mut start = 0;
    for _ in 1..place.line {
        start += text.get(start..)?.find('\n')? + 1;
    }
    let line = text.get(start..)?;
    let column = usize::try_from(place.column.checked_sub(1)?).ok()?;
    let within = line
        .char_indices()
        .map(|(at, _)| at)
        .chain([line.len()])
        .nth(column)?;
    Some(start + within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# Die Läden
policy: shop
routes:
  pages:   # the shop's pages
    address: 10.0.0.100
    port: 80
    backends:
      - { to: 10.0.0.1, version: v1, weight: 90 }   # ä, the old one
      - { version: v2, to: 10.0.0.2 }
      - to: 10.0.0.3   # in lines
        version: v2
        weight: 0x0a
      - version: v1 # no weight
        to: 10.0.0.4
  other: { address: 10.0.0.101, port: 80, backends: [{ to: 10.0.0.9, weight: 90 }] }
";

    fn set(text: &str, weights: &[(usize, u16)]) -> Result<String, String> {
        set_weights("shop.yaml", text, "pages", weights).map_err(|e| e.to_string())
    }

    #[test]
    fn weights_change_and_nothing_else() {
        let changed = set(TEXT, &[(0, 75), (1, 25), (2, 7), (3, 3)]).expect("is changed");
        let expected = TEXT
            .replace("v1, weight: 90", "v1, weight: 75")
            .replace("{ version: v2", "{ weight: 25, version: v2")
            .replace("weight: 0x0a", "weight: 7")
            .replace(
                "      - version: v1 #",
                "      - weight: 3\n        version: v1 #",
            );
        assert_eq!(changed, expected);
        // What it has already stays as it is written.
        assert_eq!(set(TEXT, &[(2, 10), (1, 1)]).expect("stays"), TEXT);
    }

    #[test]
    fn what_stands_in_two_places_is_not_changed() {
        let shared = TEXT
            .replace("weight: 90 }   #", "weight: &w 90 }   #")
            .replace("0x0a", "*w");
        let refused = set(&shared, &[(0, 75)]).expect_err("is refused");
        assert!(refused.contains("policy-edit"), "{refused}");
        let refused = set(&shared, &[(2, 75)]).expect_err("is refused");
        assert!(refused.contains("policy-edit"), "{refused}");
    }

    #[test]
    fn what_is_not_there_is_told() {
        assert!(
            set(TEXT, &[(4, 1)])
                .expect_err("none")
                .contains("no backend number 4")
        );
        let none = set_weights("a", "policy: a\n", "pages", &[]).expect_err("none");
        assert!(none.to_string().contains("no route `pages`"), "{none}");
        assert!(set("policy: [", &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_weights_come_out_as_told(weights in proptest::collection::vec((0usize..4, any::<u16>()), 0..6)) {
            let weights: std::collections::BTreeMap<usize, u16> = weights.into_iter().collect();
            let weights: Vec<(usize, u16)> = weights.into_iter().collect();
            let text = set(TEXT, &weights).expect("is changed");
            let document = Document::parse("shop.yaml", &text).expect("valid");
            for (at, weight) in weights {
                prop_assert_eq!(document.routes()["pages"].backends[at].weight, weight);
            }
            prop_assert_eq!(text.matches('#').count(), TEXT.matches('#').count());
        }
    }
}
