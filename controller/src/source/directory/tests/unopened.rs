//! What stands where a manifest is looked for and is no file.

use super::*;

#[test]
fn what_is_no_file_under_the_name_of_a_manifest_is_told_and_never_opened() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.0.join(name);
    scratch.write("a.yaml", &configmap("one", "x"));
    scratch.write("folder.yaml/b.yaml", &configmap("two", "x"));
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());

    // Opening the pipe would wait for ever, reading the device would not end.
    symlink("/dev/zero", at("device.json")).unwrap();
    symlink("nowhere", at("lost.yml")).unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .arg(at("pipe.yaml"))
        .status();
    assert!(pipe.unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(at("socket.yaml")).unwrap();
    // Locks of editors, and other names that are none of a manifest.
    symlink("user@host.1:2", at(".#a.yaml")).unwrap();
    symlink("nowhere", at("..data")).unwrap();
    symlink("nowhere", at("notes")).unwrap();
    let changes = directory.scan(&everything());
    assert_eq!(steps(&changes), [""; 0]);
    let told = complaints(&changes);
    assert_eq!(told.len(), 4, "{told:?}");
    for (told, parts) in told.iter().zip([
        ["device.json: ", "a character device", "put a file"],
        [
            "lost.yml: ",
            "a link to `nowhere`, where nothing is",
            "create",
        ],
        ["pipe.yaml: ", "a named pipe", "put a file"],
        ["socket.yaml: ", "a socket", "put a file"],
    ]) {
        assert!(told.starts_with("error[FileUnreadable] "), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
    drop(socket);
}

#[test]
fn a_link_whose_target_comes_later_keeps_what_was_read_until_then() {
    let scratch = Scratch::new();
    scratch.write("real/a", &configmap("one", "x"));
    scratch.write("b.yaml.yml", &configmap("two", "x"));
    symlink("real/a", scratch.0.join("b.yaml")).unwrap();
    let mut directory = Directory::new(scratch.0.clone());
    directory.scan(&everything());

    fs::rename(scratch.0.join("real/a"), scratch.0.join("away")).unwrap();
    fs::remove_file(scratch.0.join("b.yaml.yml")).unwrap();
    let changes = directory.scan(&everything());
    // What only begins with the name is gone.
    assert_eq!(steps(&changes), ["-two"]);
    assert_eq!(complaints(&changes).len(), 1);

    scratch.write("real/a", &configmap("one", "new"));
    let (seen, _) = after(&mut directory, &["real/a"]);
    assert_eq!(seen, ["+one"]);
    assert!(directory.complaints.is_empty());

    fs::remove_file(scratch.0.join("real/a")).unwrap();
    assert_eq!(steps(&directory.scan(&everything())), [""; 0]);
    fs::remove_file(scratch.0.join("b.yaml")).unwrap();
    assert_eq!(steps(&directory.scan(&everything())), ["-one"]);
    assert!(directory.complaints.is_empty());
}

#[test]
fn a_file_that_becomes_a_pipe_between_the_look_and_the_opening_holds_nobody_up() {
    let scratch = Scratch::new();
    scratch.write("a.yaml", &configmap("one", "x"));
    let path = scratch.0.join("a.yaml");
    let found = plain_file(&path).unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(pipe.unwrap().success());
    let error = read_file(&found).unwrap_err();
    assert!(error.to_string().contains("no file"), "{error}");
}
