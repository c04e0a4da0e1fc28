//! What a server takes the place of, and what it leaves alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{kmonitor, run};
use crate::server::Place;

fn refused(device: &Path, why: &str) {
    let finished = run(&mut kmonitor(&[
        "serve",
        "--device",
        device.to_str().unwrap(),
    ]));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(why), "{finished:?}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let place = Place::new();
    let device = place.device();
    fs::write(&device, "precious").unwrap();
    refused(&device, "a file of 8 bytes");
    assert_eq!(fs::read(&device).unwrap(), b"precious");
    let link = place.path().join("link");
    symlink("kmonitor", &link).unwrap();
    refused(&link, "a symbolic link");
    refused(place.path(), "a directory");
    refused(Path::new("/dev/null"), "a character device");
    refused(Path::new("/proc"), "a mount of");
    refused(Path::new("/no/such/place"), "No such file or directory");
}

#[test]
#[ignore = "needs root, to mount"]
fn one_place_has_one_server() {
    let place = Place::new();
    let server = place.serve(&[]);
    refused(&place.device(), "served already by another");
    let link = place.path().join("link");
    symlink(place.path(), &link).unwrap();
    refused(&link.join("kmonitor"), "served already by another");
    server.pause();
    refused(&place.device(), "does not answer");
    server.signal("-CONT");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
#[ignore = "needs root, to mount"]
fn an_empty_file_is_taken_and_given_back() {
    let place = Place::new();
    fs::write(place.device(), "").unwrap();
    let server = place.serve(&[]);
    assert_eq!(server.stop().code, Some(0));
    assert_eq!(fs::metadata(place.device()).unwrap().len(), 0);
}

#[test]
#[ignore = "needs root, to become nobody"]
fn who_may_not_mount_is_told_so() {
    let nobody = crate::common::ForNobody::new();
    let place = Place::new();
    let device = place.device();
    fs::write(&device, "").unwrap();
    std::os::unix::fs::chown(&device, Some(65534), None).unwrap();
    let finished = run(&mut nobody.kmonitor(&["serve", "--device", device.to_str().unwrap()]));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stderr.contains("/dev/fuse") || finished.stderr.contains("run as root"),
        "{finished:?}"
    );
}

#[test]
fn wrong_options_are_usage_errors() {
    for args in [
        ["serve", "--mode", "rw"],
        ["serve", "--mode", "01000"],
        ["serve", "--group", "no such group"],
    ] {
        let finished = run(&mut kmonitor(&args));
        assert_eq!(finished.code, Some(2), "{finished:?}");
    }
}
