//! Catalogs through their changes.

use super::readiness::{Readiness, Report, Reports, check};
use super::*;
use crate::domain::NodeId;
use crate::plugin::hooks::Hook;

const NOW: u64 = 1_800_000_000_000;

fn name(text: &str) -> PluginName {
    PluginName::parse(text).unwrap()
}

fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

fn version(text: &str, hooks: &[Hook]) -> Version {
    let hooks = hooks.iter().fold(Hooks::default(), |hooks, hook| hooks.with(*hook));
    let (version, settings) = (hash(text), BTreeMap::new());
    Version { version, content: version, bytes: 1_000, hooks, uploaded_ms: NOW, settings }
}

/// A catalog with these versions of the plugin `filter`.
fn filter(versions: &[&str]) -> Catalog {
    versions.iter().fold(Catalog::default(), |catalog, text| {
        catalog.push(&name("filter"), version(text, &[Hook::OnPublish])).unwrap()
    })
}

fn on(active: Option<&str>, canary: Option<(&str, u8)>) -> On {
    let canary = canary.map(|(text, percent)| CanaryPlan { version: hash(text), percent });
    On { active: active.map(hash), canary }
}

#[test]
fn a_version_is_on_from_its_stage_and_rolled_back_one_change_at_a_time() {
    let plugin = name("filter");
    let one = filter(&["a", "b", "c"]).activate(&plugin, hash("a"), NOW).unwrap();
    assert_eq!(one.stages()[0].from_ms, NOW + LEAD_MS);
    assert_eq!(one.activate(&plugin, hash("a"), NOW).unwrap(), one, "it is so already");
    let two = one.activate(&plugin, hash("b"), NOW).unwrap();
    assert_eq!(two.stages()[1].from_ms, NOW + LEAD_MS + 1, "after the one before");
    let three = two.canary(&plugin, hash("c"), 10, NOW + 5_000).unwrap();
    assert_eq!(three.on(&plugin), on(Some("b"), Some(("c", 10))));
    let mut back = three;
    for expected in [on(Some("b"), None), on(Some("a"), None), On::default()] {
        back = back.roll_back(&plugin, NOW + 9_000).unwrap();
        assert_eq!(back.on(&plugin), expected);
    }
    assert_eq!(back.roll_back(&plugin, NOW), Err(CatalogError::NothingBefore(plugin)));
    assert_eq!(back.stages().len(), 6, "each step is a stage");
}

#[test]
fn a_candidate_that_fails_loses_its_part_and_a_version_that_fails_its_place() {
    let plugin = name("filter");
    let catalog = filter(&["a", "b", "c"]).activate(&plugin, hash("a"), NOW).unwrap();
    assert_eq!(catalog.give_up(&plugin, hash("a"), NOW), Ok(None), "nothing was before it");
    assert_eq!(catalog.give_up(&plugin, hash("b"), NOW), Ok(None), "it is not on");
    let canary = catalog.canary(&plugin, hash("b"), 50, NOW).unwrap();
    let without = canary.give_up(&plugin, hash("b"), NOW).unwrap().unwrap();
    assert_eq!(without.on(&plugin), on(Some("a"), None));
    assert_eq!(without.plugins()[&plugin].before, [On::default()], "as if it had not been");
    let off_and_on = catalog.deactivate(&plugin, NOW).unwrap().activate(&plugin, hash("b"), NOW).unwrap();
    assert!(off_and_on.is_wanted(&plugin, hash("a")));
    let back = off_and_on.give_up(&plugin, hash("b"), NOW).unwrap().unwrap();
    assert_eq!(back.on(&plugin), on(Some("a"), None));
    assert_eq!(back.give_up(&plugin, hash("a"), NOW), Ok(None), "what failed does not come back");
    let both = catalog.activate(&plugin, hash("b"), NOW).unwrap().canary(&plugin, hash("c"), 5, NOW).unwrap();
    let back = both.give_up(&plugin, hash("b"), NOW).unwrap().unwrap();
    assert_eq!(back.on(&plugin), on(Some("a"), None));
}

#[test]
fn what_cannot_come_back_is_told() {
    let (plugin, other) = (name("filter"), name("other"));
    let catalog = filter(&["a"]).push(&plugin, version("b", &[Hook::Authenticate])).unwrap();
    let catalog = catalog.push(&other, version("c", &[Hook::OnPublish])).unwrap();
    let catalog =
        catalog.activate(&plugin, hash("a"), NOW).unwrap().activate(&plugin, hash("b"), NOW).unwrap();
    let taken = catalog.activate(&other, hash("c"), NOW).unwrap();
    let refused = CatalogError::SameHook { plugin: plugin.clone(), other, hook: "on-publish" };
    assert_eq!(taken.give_up(&plugin, hash("b"), NOW), Err(refused));
}

#[test]
fn one_hook_has_one_plugin() {
    let other = name("other");
    let deliver = version("d", &[Hook::OnDeliver, Hook::Route]);
    let classes = version("e", &[Hook::OnDeliverClass]);
    let catalog = filter(&["a"]).push(&other, version("b", &[Hook::Authenticate])).unwrap();
    let catalog = catalog.push(&other, version("c", &[Hook::OnPublish])).unwrap();
    let catalog = catalog.push(&other, deliver).unwrap().push(&name("third"), classes).unwrap();
    let catalog = catalog.activate(&name("filter"), hash("a"), NOW).unwrap();
    let both = catalog.activate(&other, hash("b"), NOW).unwrap();
    let (plugin, hook) = (other.clone(), "on-publish");
    let refused = Err(CatalogError::SameHook { plugin, other: name("filter"), hook });
    assert_eq!(catalog.activate(&other, hash("c"), NOW), refused);
    assert_eq!(both.canary(&other, hash("c"), 1, NOW), refused);
    let delivering = catalog.activate(&other, hash("d"), NOW).unwrap();
    let scopes = delivering.activate(&name("third"), hash("e"), NOW).unwrap_err();
    assert!(scopes.to_string().contains("on-deliver") && scopes.to_string().contains("`other`"), "{scopes}");
    let alone = delivering.deactivate(&other, NOW).unwrap();
    alone.activate(&name("third"), hash("e"), NOW).unwrap();
}

#[test]
fn what_is_old_goes_unless_it_is_named() {
    let plugin = name("filter");
    let texts: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut catalog = filter(&texts[..2]).activate(&plugin, hash("0"), NOW).unwrap();
    for text in &texts[2..] {
        catalog = catalog.push(&plugin, version(text, &[Hook::OnPublish])).unwrap();
    }
    let left: Vec<_> = catalog.plugins()[&plugin].versions.iter().map(|known| known.version).collect();
    assert_eq!(left.len(), 10);
    assert!(left.contains(&hash("0")) && left.contains(&hash("29")) && !left.contains(&hash("1")));
    let mut switch = |times: usize, hours: u64| {
        for text in ["29", "28"].iter().cycle().take(times) {
            catalog = catalog.activate(&plugin, hash(text), NOW + hours * 3_600_000).unwrap();
        }
        catalog.stages().len()
    };
    // All changes of a day are kept, up to a number; after that the last ones.
    assert_eq!((switch(20, 1), switch(10, 24), switch(12, 25)), (21, 31, 32));
    assert_eq!((switch(2, 40), switch(2, 60), switch(2, 1_000)), (25, 8, 8));
    assert_eq!(catalog.stages()[0].from_ms, 0, "older entries meet the oldest");
    // Changes of one moment: a stage that has not begun is not put in place of one that has.
    for text in ["29", "28"].iter().cycle().take(31) {
        catalog = catalog.activate(&plugin, hash(text), NOW + 10_000_000_000).unwrap();
    }
    assert_eq!(catalog.stages().iter().filter(|stage| stage.from_ms <= NOW + 10_000_000_000).count(), 1);
    assert_eq!(catalog.activate(&plugin, hash("28"), NOW + 10_000_000_000), Err(CatalogError::TooFast));
}

#[test]
fn a_removed_version_leaves_no_stage_that_names_it() {
    let plugin = name("filter");
    let catalog = filter(&["a", "b"]).activate(&plugin, hash("a"), NOW).unwrap();
    let in_use = Err(CatalogError::InUse { plugin: plugin.clone(), version: hash("a") });
    assert_eq!(catalog.remove(&plugin, hash("a"), NOW), in_use);
    let catalog = catalog.activate(&plugin, hash("b"), NOW).unwrap();
    assert_eq!(catalog.remove(&plugin, hash("a"), NOW), Err(CatalogError::Switching));
    let removed = catalog.remove(&plugin, hash("a"), NOW + 2 * LEAD_MS).unwrap();
    assert_eq!(removed.stages().len(), 1);
    assert_eq!((removed.stages()[0].from_ms, removed.on(&plugin)), (0, on(Some("b"), None)));
    assert!(removed.version(&plugin, hash("a")).is_none() && removed.wanted().len() == 1);
    let off = removed.deactivate(&plugin, NOW + 9_000).unwrap();
    let none = off.remove(&plugin, hash("b"), NOW + 20_000).unwrap();
    assert!(none.plugins().is_empty() && none.stages().len() == 1);
}

#[test]
fn a_version_is_named_by_its_first_digits() {
    let plugin = name("filter");
    let catalog = filter(&["a", "b"]);
    let digits = hash("a").to_string();
    assert_eq!(catalog.find(&plugin, Some(&digits)).unwrap().version, hash("a"));
    assert_eq!(catalog.find(&plugin, Some(&digits[..4])).unwrap().version, hash("a"));
    assert_eq!(catalog.find(&plugin, None).unwrap().version, hash("b"));
    assert_eq!(catalog.find(&plugin, Some("ca9")), Err(CatalogError::Prefix));
    assert_eq!(catalog.find(&plugin, Some("CA97")), Err(CatalogError::Prefix));
    assert!(catalog.find(&plugin, Some("0000")).unwrap_err().is_missing());
    assert!(catalog.find(&name("other"), None).unwrap_err().is_missing());
    let twice = (0_u64..).map(|n| n.to_string()).find(|text| hash(text).to_string()[..4] == digits[..4]);
    let catalog = catalog.push(&plugin, version(&twice.unwrap(), &[])).unwrap();
    assert!(matches!(catalog.find(&plugin, Some(&digits[..4])), Err(CatalogError::Ambiguous { .. })));
}

#[test]
fn settings_make_another_version_of_the_same_bytes() {
    let content = hash("a");
    let settings = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    assert_eq!(Version::id(content, &BTreeMap::new()), content);
    assert_ne!(Version::id(content, &settings), content);
    let with = Version { version: Version::id(content, &settings), settings, ..version("a", &[]) };
    let catalog = filter(&["a"]).push(&name("filter"), with).unwrap();
    assert_eq!(catalog.plugins()[&name("filter")].versions.len(), 2);
    assert_eq!(catalog.contents().len(), 1);
}

#[test]
fn percents_are_parts() {
    let (plugin, catalog) = (name("filter"), filter(&["a"]));
    for percent in [0, 100, 256 + 10, u64::MAX] {
        let refused = catalog.canary(&plugin, hash("a"), percent, NOW);
        assert_eq!(refused, Err(CatalogError::Percent(percent)));
    }
    assert_eq!(catalog.canary(&plugin, hash("a"), 99, NOW).unwrap().on(&plugin), on(None, Some(("a", 99))));
}

#[test]
fn a_catalog_is_stored_and_a_newer_one_refused() {
    let plugin = name("filter");
    let catalog = filter(&["a", "b"]).activate(&plugin, hash("a"), NOW).unwrap();
    let catalog = catalog.canary(&plugin, hash("b"), 10, NOW).unwrap();
    let bytes = catalog.to_bytes().unwrap();
    assert_eq!(Catalog::parse(&bytes), Ok(catalog));
    let newer = Catalog::parse(br#"{"schema": 2, "plugins": []}"#).unwrap_err();
    assert!(newer.to_string().contains("up to date"), "{newer}");
    assert!(matches!(Catalog::parse(b"{}"), Err(CatalogError::Damaged(_))));
    assert!(matches!(Catalog::parse(br#"{"schema": 1}"#), Err(CatalogError::Damaged(_))));
}

#[test]
fn all_live_nodes_must_be_ready_and_the_dead_are_not_asked() {
    let (plugin, version) = (name("filter"), hash("a"));
    let node = |id: &str| NodeId::parse(id).unwrap();
    let says = |readiness| Report { at_ms: 0, versions: BTreeMap::from([(version, readiness)]) };
    let failed = Readiness::Failed { why: "no room".into() };
    let mut reports = Reports::from([
        (node("one"), says(Readiness::Ready)),
        (node("two"), says(Readiness::Preparing { since_ms: 0 })),
        (node("three"), says(failed)),
    ]);
    let live = [node("one"), node("two"), node("three")];
    assert_eq!(check(&reports, &live[..1], &plugin, version), Ok(()));
    let preparing = check(&reports, &live[..2], &plugin, version).unwrap_err();
    assert!(preparing.is_retryable() && preparing.to_string().contains("node two"), "{preparing}");
    let failed = check(&reports, &live, &plugin, version).unwrap_err();
    assert!(failed.to_string().contains("three: no room"), "{failed}");
    reports.insert(node("two"), says(Readiness::Ready));
    assert_eq!(check(&reports, &live[..2], &plugin, version), Ok(()));
    assert!(check(&reports, &[node("four")], &plugin, version).is_err(), "silence is not yes");
}
