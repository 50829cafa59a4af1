// SPDX-License-Identifier: GPL-3.0-only
//! Policy documents to begin with, for common cases. They are files of their own, `templates/*.yaml`, so that editors know what they are.

/// A document to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Its name, as people type it.
    pub name: &'static str,
    /// The document, with comments.
    pub text: &'static str,
}

macro_rules! template {
    ($name:literal) => {
        Template {
            name: $name,
            text: include_str!(concat!("../templates/", $name, ".yaml")),
        }
    };
}

/// All of them: the gentlest first.
pub const ALL: [Template; 7] = [
    template!("audit-only"),
    template!("default-deny"),
    template!("web-to-database"),
    template!("canary"),
    template!("lock"),
    template!("rate-limit"),
    template!("quarantine"),
];

impl Template {
    /// The template of that name.
    pub fn named(name: &str) -> Option<Template> {
        ALL.into_iter().find(|template| template.name == name)
    }

    /// What it is for: a sentence.
    pub fn summary(self) -> &'static str {
        let mut comments = self.body().lines().map_while(|line| line.strip_prefix('#'));
        comments.next().map(str::trim).unwrap_or_default()
    }

    /// The document without the licence of this project: what people make of it is theirs.
    pub fn body(self) -> &'static str {
        match self.text.split_once('\n') {
            Some((first, rest)) if first.starts_with("# SPDX-") => rest,
            _ => self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Document;

    #[test]
    fn templates_are_valid_and_say_nothing_that_is_questionable() {
        let mut documents = Vec::new();
        for template in ALL {
            let document = Document::parse(template.name, template.body()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(document.name(), template.name);
            let findings =
                policy::check(std::slice::from_ref(&document), &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(findings, [], "{}", template.name);
            assert!(template.summary().ends_with('.'), "{}", template.summary());
            assert!(template.body().contains("\n# Change: "), "{}", template.name);
            documents.push(document);
        }
        // Sets may be in force together; that quarantine denies what others allow is what it is for.
        policy::check(&documents, &[]).unwrap_or_else(|e| panic!("{e}"));
    }

    #[test]
    fn the_list_fits_eighty_columns() {
        for template in ALL {
            assert!(template.summary().chars().count() <= 63, "{}", template.name);
        }
    }

    #[test]
    fn every_file_is_offered() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/templates");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap_or_else(|e| panic!("{e}"))
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let mut offered: Vec<String> = ALL.iter().map(|t| format!("{}.yaml", t.name)).collect();
        files.sort();
        offered.sort();
        assert_eq!(files, offered);
    }
}
