//! Each state that a page may be in, as the facts that its template sees: `web/samples/PAGE/STATE.json`.

use std::fs;
use std::path::Path;

use minijinja::Value;
use minijinja::value::Serde;

use crate::templates::{PAGE, Set};

/// ("home", "blind", facts), by name.
pub(crate) fn all() -> Vec<(String, String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let mut found = Vec::new();
    for page in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
        for state in fs::read_dir(page.path()).unwrap().map(|entry| entry.unwrap().path()) {
            let facts: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
            let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            found.push((name(&page.path()), name(&state), Value::from(Serde(facts))));
        }
    }
    found.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    found
}

fn template(page: &str) -> &'static str {
    PAGE.names().find(|name| name.strip_suffix(".html") == Some(page)).unwrap_or_else(|| panic!("no template for {page}"))
}

fn ours() -> Set {
    PAGE.templates(None).read()
}

#[test]
fn every_page_can_be_shown_in_every_state_that_it_may_be_in() {
    let set = ours();
    let samples = all();
    assert!(samples.len() > 90, "{}", samples.len());
    for (page, state, facts) in samples {
        let text = set.attempt(template(&page), &facts).unwrap_or_else(|error| panic!("{page}/{state}: {error:#}"));
        assert!(text.starts_with("<!doctype html>") && text.ends_with("</html>"), "{page}/{state}");
        // The policy of the page forbids them, so they would do nothing.
        for forbidden in [" style=", " onclick=", "<script>", "javascript:", "src=\"http", "href=\"http"] {
            assert!(!text.contains(forbidden), "{page}/{state}: {forbidden}");
        }
    }
}

#[test]
fn a_house_of_fifty_cameras_makes_a_page_of_a_few_kilobytes_and_needs_a_fraction_of_the_work_that_it_may() {
    let (_, _, facts) = all().into_iter().find(|(page, state, _)| page == "home" && state == "fifty-cameras").unwrap();
    let text = ours().attempt("home.html", &facts).unwrap();
    assert!(text.len() < 150_000, "{}", text.len());
}

#[test]
fn each_of_our_templates_is_what_lies_in_the_directory() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/page");
    let mut there = Vec::new();
    for entry in fs::read_dir(&dir).unwrap().chain(fs::read_dir(dir.join("parts")).unwrap()) {
        let path = entry.unwrap().path();
        if path.is_file() {
            there.push(path.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned());
        }
    }
    there.sort();
    let mut ours: Vec<_> = PAGE.names().map(str::to_owned).collect();
    ours.sort();
    assert_eq!(there, ours);
}

#[test]
fn a_users_template_replaces_ours_and_a_broken_one_is_named_and_ours_is_shown() {
    let (_, _, facts) = all().into_iter().find(|(page, state, _)| page == "home" && state == "away").unwrap();
    let ours = ours().attempt("home.html", &facts).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("parts")).unwrap();
    let with = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let mut set = PAGE.templates(Some(dir.path().to_owned())).read();
        let shown = set.render("home.html", &facts).unwrap();
        fs::remove_file(path).unwrap();
        (shown, set.complaints)
    };
    let (shown, complaints) = with("parts/people.html", "<p>Wir sind {{ people|length }}</p>");
    assert!(shown.contains("<p>Wir sind ") && complaints.is_empty());
    for (name, broken) in [
        ("parts/people.html", "{% if %}"),
        ("parts/people.html", "{{ nobody.knows }}"),
        ("home.html", "{% extends \"frame.html\" %}{% block main %}{{ banner.no_such }}{% endblock %}"),
        ("macros.html", "{% macro icon() %}{% endmacro %}"),
    ] {
        let (shown, complaints) = with(name, broken);
        assert_eq!(shown, ours, "{name}");
        assert!(complaints.len() == 1 && complaints[0].contains(&format!("{name} cannot be used (")), "{complaints:?}");
    }
}
