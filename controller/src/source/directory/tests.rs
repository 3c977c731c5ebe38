//! Scans of a directory in all states, and changes seen live. Nothing here waits for a time: a
//! change is awaited on the channel it arrives on.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::source::Kind;

mod unopened;

/// A directory of its own that goes away at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "gatehouse-directory-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn configmap(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: {value}}}\n")
}

/// Names of applied and deleted objects, with `+` and `-`.
fn steps(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .filter_map(|change| match change {
            Change::Apply(key, _) => Some(format!("+{}", key.name)),
            Change::Delete(key) => Some(format!("-{}", key.name)),
            _ => None,
        })
        .collect()
}

/// The last list of complaints, as text.
fn complaints(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .rev()
        .find_map(|change| match change {
            Change::Complaints(list) => Some(list.iter().map(ToString::to_string).collect()),
            _ => None,
        })
        .unwrap_or_default()
}

fn value(changes: &[Change], wanted: &str) -> Option<String> {
    changes.iter().rev().find_map(|change| match change {
        Change::Apply(key, Object::ConfigMap(map)) if &*key.name == wanted => {
            map.data.as_ref()?.get("key").cloned()
        }
        _ => None,
    })
}

fn everything() -> Touched {
    Touched {
        all: true,
        ..Touched::default()
    }
}

#[test]
fn only_what_changed_is_sent() {
    let scratch = Scratch::new();
    scratch.write("b.yaml", &configmap("two", "x"));
    scratch.write("a/one.yml", &configmap("one", "x"));
    scratch.write("notes.txt", "not a manifest");
    scratch.write(".hidden/c.yaml", &configmap("hidden", "x"));
    scratch.write(
        "c.json",
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"three"}}"#,
    );
    let mut directory = Directory::new(scratch.0.clone());
    let mut first = steps(&directory.scan(&everything()));
    first.sort();
    assert_eq!(first, ["+one", "+three", "+two"]);
    assert!(directory.scan(&everything()).is_empty());

    scratch.write("b.yaml", &configmap("two", "changed"));
    fs::remove_file(scratch.0.join("a/one.yml")).unwrap();
    let mut second = steps(&directory.scan(&everything()));
    second.sort();
    assert_eq!(second, ["+two", "-one"]);
}

#[test]
fn an_ingress_that_an_api_server_would_refuse_gives_way_to_its_last_good_version() {
    let ingress = |kind: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: shop}}\n\
             spec: {{rules: [{{host: shop.test, http: {{paths: [{{path: /, pathType: {kind}, \
             backend: {{service: {{name: a, port: {{number: 80}}}}}}}}]}}}}]}}\n"
        )
    };
    let scratch = Scratch::new();
    let mut directory = Directory::new(scratch.0.clone());
    // Without a good version before it, what is good about it is served.
    scratch.write("a.yaml", &ingress("Prefixx"));
    assert_eq!(steps(&directory.scan(&everything())), ["+shop"]);
    scratch.write("a.yaml", &ingress("Prefix"));
    assert_eq!(steps(&directory.scan(&everything())), ["+shop"]);

    // Broken twice in a row: the good one is still known.
    for kind in ["Prefixx", "Exactly"] {
        scratch.write("a.yaml", &ingress(kind));
        let changes = directory.scan(&everything());
        assert_eq!(steps(&changes), [""; 0]);
        let text = complaints(&changes).join("\n");
        let why = format!(
            "error[PathTypeInvalid] Ingress/default/shop spec.rules[0].http.paths[0].pathType: path \
             type `{kind}` is unknown, so it is not taken over: use Exact"
        );
        assert!(text.contains(&why), "{text}");
        assert!(
            text.contains("warning[LastGoodServed] Ingress/default/shop"),
            "{text}"
        );
    }
    scratch.write("a.yaml", &ingress("Exact"));
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), ["+shop"]);
    assert_eq!(complaints(&changes), [""; 0]);
}

#[test]
fn a_broken_file_keeps_its_last_good_objects_and_says_so() {
    let scratch = Scratch::new();
    let good = format!("{}---\n{}", configmap("one", "x"), configmap("two", "x"));
    scratch.write("a.yaml", &good);
    scratch.write("b.yaml", &configmap("other", "x"));
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());

    // The first document breaks, the second one changes and is taken.
    let broken = format!("kind: [ConfigMap\n---\n{}", configmap("two", "changed"));
    scratch.write("a.yaml", &broken);
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), ["+two"]);
    let text = complaints(&changes).join("\n");
    assert!(
        text.contains("error[FileUnreadable] a.yaml document 1: not valid YAML near line"),
        "{text}"
    );
    assert!(
        text.contains("warning[LastGoodServed] ConfigMap/default/one"),
        "{text}"
    );
    assert!(!text.contains("ConfigMap/default/two"), "{text}");

    // Half written: nothing at all.
    scratch.write("a.yaml", "");
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), [""; 0]);
    assert!(complaints(&changes).join("\n").contains("became empty"));

    scratch.write("a.yaml", &configmap("two", "z"));
    let changes = directory.scan(&everything());
    let mut repaired = steps(&changes);
    repaired.sort();
    assert_eq!(repaired, ["+two", "-one"]);
    assert_eq!(complaints(&changes), [""; 0]);
    assert!(matches!(changes.last(), Some(Change::Complaints(list)) if list.is_empty()));
}

#[test]
fn of_an_object_in_two_files_the_first_counts_and_the_second_takes_over() {
    let scratch = Scratch::new();
    scratch.write("b.yaml", &configmap("one", "second"));
    scratch.write("a.yaml", &configmap("one", "first"));
    let mut directory = Directory::new(scratch.0.clone());
    let changes = directory.scan(&everything());
    assert_eq!(value(&changes, "one").as_deref(), Some("first"));
    let text = complaints(&changes).join("\n");
    assert!(
        text.contains("warning[ObjectDuplicate] ConfigMap/default/one: also stands in `b.yaml`"),
        "{text}"
    );
    fs::remove_file(scratch.0.join("a.yaml")).unwrap();
    let changes = directory.scan(&everything());
    assert_eq!(value(&changes, "one").as_deref(), Some("second"));
}

#[test]
fn the_age_that_an_object_states_is_taken_at_its_word_and_none_is_made_up() {
    let scratch = Scratch::new();
    scratch.write("a.yaml", &configmap("new", "x"));
    scratch.write("b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: real, creationTimestamp: 2015-01-01T00:00:00Z}\n");
    let ages: BTreeMap<String, Option<String>> = Directory::new(scratch.0.clone())
        .scan(&everything())
        .into_iter()
        .filter_map(|change| match change {
            Change::Apply(key, Object::ConfigMap(map)) => {
                let time = map.metadata.creation_timestamp.as_ref();
                Some((key.name.to_string(), time.map(|time| time.0.to_string())))
            }
            _ => None,
        })
        .collect();
    let real = Some("2015-01-01T00:00:00Z".to_owned());
    assert_eq!(
        ages,
        [("new".to_owned(), None), ("real".to_owned(), real)].into()
    );
}

/// A scan after these relative paths were reported, and what it cost.
fn after(directory: &mut Directory, paths: &[&str]) -> (Vec<String>, Effort) {
    let paths = paths.iter().map(|path| directory.root.join(path)).collect();
    let changes = directory.scan(&Touched { paths, all: false });
    (steps(&changes), directory.take_effort())
}

const fn effort(directories: usize, files: usize) -> Effort {
    Effort { directories, files }
}

#[test]
fn a_file_that_comes_goes_or_is_renamed_costs_no_walk() {
    let scratch = Scratch::new();
    for number in 0..50 {
        let name = format!("c{number:02}");
        scratch.write(&format!("in/{name}.yaml"), &configmap(&name, "x"));
    }
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());
    assert_eq!(directory.take_effort(), effort(2, 50));

    scratch.write("in/new.yaml", &configmap("new", "x"));
    let (seen, cost) = after(&mut directory, &["in/new.yaml"]);
    assert_eq!((seen, cost), (vec!["+new".into()], effort(0, 1)));

    let (from, to) = ("in/new.yaml", "renamed.yaml");
    fs::rename(scratch.0.join(from), scratch.0.join(to)).unwrap();
    let (seen, cost) = after(&mut directory, &[from, to]);
    assert_eq!((seen, cost), (vec![], effort(0, 1)), "the same object");

    fs::remove_file(scratch.0.join(to)).unwrap();
    let (seen, cost) = after(&mut directory, &[to]);
    assert_eq!((seen, cost), (vec!["-new".into()], effort(0, 0)));

    // Drafts, notes and hidden files are none of our business.
    scratch.write("in/.new.yaml", &configmap("draft", "x"));
    scratch.write("in/new.yaml~", &configmap("draft", "x"));
    let (seen, cost) = after(&mut directory, &["in/.new.yaml", "in/new.yaml~", "in/4913"]);
    assert_eq!((seen, cost), (vec![], effort(0, 0)));

    // The same as a walk would find.
    assert!(directory.scan(&everything()).is_empty());
}

#[test]
fn directories_links_and_another_root_are_walked() {
    let scratch = Scratch::new();
    scratch.write("root/in/a.yaml", &configmap("one", "x"));
    let root = scratch.0.join("root");
    let mut directory = Directory::new(root.clone());
    directory.scan(&everything());

    fs::rename(root.join("in"), root.join("out")).unwrap();
    let (seen, cost) = after(&mut directory, &["in", "out"]);
    assert_eq!(seen, [""; 0], "the object stands in another place");
    assert!(directory.files.contains_key("out/a.yaml"));
    assert!(cost.directories >= 2);

    // A file of a directory that is gone as a whole is not one that was removed.
    fs::rename(&root, scratch.0.join("away")).unwrap();
    assert_eq!(after(&mut directory, &["out/a.yaml"]).0, [""; 0]);
    fs::rename(scratch.0.join("away"), &root).unwrap();
    assert_eq!(after(&mut directory, &["out/a.yaml"]).0, [""; 0]);

    symlink("out/a.yaml", root.join("b.yaml")).unwrap();
    after(&mut directory, &["b.yaml"]);
    assert_eq!(directory.files.len(), 2);
    // Seen under two names: the one that is left leads nowhere, and that is no removal.
    fs::remove_file(root.join("out/a.yaml")).unwrap();
    assert_eq!(after(&mut directory, &["out/a.yaml"]).0, [""; 0]);
    assert!(directory.files.contains_key("b.yaml"));
    fs::remove_file(root.join("b.yaml")).unwrap();
    assert_eq!(after(&mut directory, &["b.yaml"]).0, ["-one"]);
    assert!(directory.files.is_empty());
}

#[test]
fn a_directory_that_cannot_be_read_keeps_everything() {
    let scratch = Scratch::new();
    scratch.write("in/a.yaml", &configmap("one", "x"));
    let root = scratch.0.join("in");
    let mut directory = Directory::new(root.clone());
    directory.scan(&everything());
    fs::rename(&root, scratch.0.join("away")).unwrap();
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), [""; 0]);
    assert!(complaints(&changes)[0].contains("cannot be read"));
    assert_eq!(directory.identity(), None);
}

#[test]
fn an_empty_directory_in_the_place_of_another_takes_nothing_until_something_is_in_it() {
    let scratch = Scratch::new();
    scratch.write("in/a.yaml", &configmap("one", "x"));
    scratch.write("in/b/c.yaml", &configmap("two", "x"));
    let root = scratch.0.join("in");
    let mut directory = Directory::new(root.clone());
    directory.scan(&everything());

    // What is seen of a volume that is not mounted: another directory, with nothing in it.
    fs::rename(&root, scratch.0.join("volume")).unwrap();
    fs::create_dir(&root).unwrap();
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), [""; 0]);
    assert!(complaints(&changes)[0].contains("mounted"));
    assert!(directory.scan(&everything()).is_empty(), "told once");

    fs::remove_dir(&root).unwrap();
    fs::rename(scratch.0.join("volume"), &root).unwrap();
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), [""; 0]);
    assert_eq!(complaints(&changes), [""; 0], "mounted again");

    fs::remove_dir_all(root.join("b")).unwrap();
    assert_eq!(steps(&directory.scan(&everything())), ["-two"]);
    fs::rename(&root, scratch.0.join("volume")).unwrap();
    fs::create_dir(&root).unwrap();
    assert_eq!(steps(&directory.scan(&everything())), [""; 0]);
    fs::write(root.join(".keep"), "").unwrap();
    assert_eq!(steps(&directory.scan(&everything())), ["-one"]);
    assert!(complaints(&directory.scan(&everything())).is_empty());
}

#[test]
fn files_that_are_removed_one_by_one_are_meant_the_last_one_too() {
    let scratch = Scratch::new();
    scratch.write("a.yaml", &configmap("one", "x"));
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());
    fs::remove_file(scratch.0.join("a.yaml")).unwrap();
    assert_eq!(steps(&directory.scan(&everything())), ["-one"]);
}

#[test]
fn a_configmap_without_keys_is_meant() {
    let scratch = Scratch::new();
    scratch.write("..2026_01/a.yaml", &configmap("one", "x"));
    symlink("..2026_01", scratch.0.join("..data")).unwrap();
    symlink("..data/a.yaml", scratch.0.join("a.yaml")).unwrap();
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());

    fs::create_dir(scratch.0.join("..2026_02")).unwrap();
    symlink("..2026_02", scratch.0.join("..data_tmp")).unwrap();
    fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).unwrap();
    fs::remove_file(scratch.0.join("a.yaml")).unwrap();
    fs::remove_dir_all(scratch.0.join("..2026_01")).unwrap();
    assert_eq!(steps(&directory.scan(&everything())), ["-one"]);
}

#[test]
fn links_in_circles_end() {
    let scratch = Scratch::new();
    scratch.write("a/one.yaml", &configmap("one", "x"));
    symlink("..", scratch.0.join("a/up")).unwrap();
    symlink("nowhere", scratch.0.join("lost.yaml")).unwrap();
    assert_eq!(steps(&read(&scratch.0)), ["+one"]);
}

#[test]
fn directories_full_of_links_to_each_other_end() {
    let scratch = Scratch::new();
    scratch.write("a/one.yaml", &configmap("one", "x"));
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());

    // Every order of twelve directories is a path.
    for from in 0..12 {
        fs::create_dir_all(scratch.0.join(format!("0{from}"))).unwrap();
        for to in 0..12 {
            let link = scratch.0.join(format!("0{from}/{to}"));
            symlink(format!("../0{to}"), link).unwrap();
        }
    }
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), [""; 0], "what was read keeps serving");
    let complaints = complaints(&changes);
    assert!(complaints[0].contains("links"), "{complaints:?}");
    assert!(directory.identity().is_some());
}

/// Waits until the wanted value of a ConfigMap arrives; an object must not go away meanwhile.
async fn arrival(changes: &mut mpsc::Receiver<Change>, name: &str, wanted: &str) {
    let seen = async {
        while let Some(change) = changes.recv().await {
            assert!(!matches!(change, Change::Delete(_)), "{change:?}");
            if value(&[change], name).as_deref() == Some(wanted) {
                return;
            }
        }
        panic!("the watch ended");
    };
    timeout(Duration::from_secs(30), seen)
        .await
        .unwrap_or_else(|_| panic!("{name}={wanted} was not seen"));
}

async fn synced(changes: &mut mpsc::Receiver<Change>) {
    while let Some(change) = changes.recv().await {
        if matches!(change, Change::Synced) {
            return;
        }
    }
    panic!("the watch ended");
}

#[tokio::test]
async fn edits_atomic_renames_and_new_folders_are_seen() {
    let scratch = Scratch::new();
    scratch.write("a.yaml", &configmap("one", "x"));
    let (sender, mut changes) = mpsc::channel(16);
    tokio::spawn(watch(scratch.0.clone(), sender));
    synced(&mut changes).await;

    scratch.write("a.yaml", &configmap("one", "edited"));
    arrival(&mut changes, "one", "edited").await;
    scratch.write("a.yaml.new", &configmap("one", "renamed"));
    fs::rename(scratch.0.join("a.yaml.new"), scratch.0.join("a.yaml")).unwrap();
    arrival(&mut changes, "one", "renamed").await;
    scratch.write("deep/er/b.yaml", &configmap("two", "new"));
    arrival(&mut changes, "two", "new").await;
    scratch.write("deep/er/b.yaml", &configmap("two", "edited"));
    arrival(&mut changes, "two", "edited").await;
}

#[tokio::test]
async fn the_swap_of_a_mounted_configmap_is_seen_and_counts_once() {
    let scratch = Scratch::new();
    scratch.write("..2026_01/a.yaml", &configmap("one", "x"));
    symlink("..2026_01", scratch.0.join("..data")).unwrap();
    symlink("..data/a.yaml", scratch.0.join("a.yaml")).unwrap();
    let (sender, mut changes) = mpsc::channel(16);
    tokio::spawn(watch(scratch.0.clone(), sender));
    let mut first = Vec::new();
    while let Some(change) = changes.recv().await {
        if matches!(change, Change::Synced) {
            break;
        }
        first.push(change);
    }
    assert_eq!(steps(&first), ["+one"]);
    assert_eq!(complaints(&first), [""; 0]);

    scratch.write("..2026_02/a.yaml", &configmap("one", "swapped"));
    symlink("..2026_02", scratch.0.join("..data_tmp")).unwrap();
    fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).unwrap();
    fs::remove_dir_all(scratch.0.join("..2026_01")).unwrap();
    arrival(&mut changes, "one", "swapped").await;
}

#[tokio::test]
async fn a_root_that_is_replaced_goes_on_being_followed() {
    let scratch = Scratch::new();
    scratch.write("r1/a.yaml", &configmap("one", "x"));
    scratch.write("r2/a.yaml", &configmap("one", "other"));
    symlink("r1", scratch.0.join("root")).unwrap();
    let (sender, mut changes) = mpsc::channel(16);
    tokio::spawn(watch(scratch.0.join("root"), sender));
    synced(&mut changes).await;
    symlink("r2", scratch.0.join("next")).unwrap();
    fs::rename(scratch.0.join("next"), scratch.0.join("root")).unwrap();
    arrival(&mut changes, "one", "other").await;
    scratch.write("r2/a.yaml", &configmap("one", "edited"));
    arrival(&mut changes, "one", "edited").await;
}

#[test]
fn other_kinds_are_counted_in_one_line() {
    let scratch = Scratch::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
    scratch.write("a.yaml", &format!("{pod}---\n{pod}"));
    scratch.write("b.yaml", "apiVersion: apps/v1\nkind: Deployment\n");
    assert_eq!(
        complaints(&read(&scratch.0)),
        ["info[KindSkipped] .: objects of other kinds are not read: 1 Deployment, 2 Pod"]
    );
    assert_eq!(Kind::Service.as_str(), "Service");
}

#[test]
fn what_a_file_can_say_in_a_complaint_has_a_bound() {
    let scratch = Scratch::new();
    let kinds = |of: usize| -> String {
        let document = |number| format!("apiVersion: v1\nkind: Kind{number}\n---\n");
        (0..of).map(document).collect()
    };
    scratch.write("a.yaml", &kinds(2_000));
    let list = complaints(&read(&scratch.0));
    assert_eq!(list.len(), 1);
    assert!(list[0].ends_with('…'), "{}", list[0]);
    assert!(list[0].len() < 4_096, "{}", list[0].len());
}

#[test]
fn names_that_are_not_utf8_are_kept_apart_or_told() {
    let scratch = Scratch::new();
    for (name, object) in [(b"a\xff.yaml", "one"), (b"a\xfe.yaml", "two")] {
        let path = scratch.0.join(OsStr::from_bytes(name));
        fs::write(path, configmap(object, "x")).unwrap();
    }
    let mut directory = Directory::new(scratch.0.clone());
    let changes = directory.scan(&everything());
    let mut both = steps(&changes);
    both.sort();
    assert_eq!(both, ["+one", "+two"]);
    assert!(complaints(&changes).is_empty());

    scratch.write(r"a\xFF.yaml", &configmap("three", "x"));
    let told = complaints(&directory.scan(&everything()));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("rename it"), "{told:?}");
}
