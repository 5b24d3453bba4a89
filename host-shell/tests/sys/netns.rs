//! Entering namespaces.

use std::path::Path;
use std::thread;

use culvert_host::sys::netns::{NetNs, NetNsError};

use crate::lab::Namespace;

#[test]
fn code_runs_inside_and_the_caller_stays_outside() {
    let namespace = Namespace::new();
    let before = NetNs::current().unwrap();
    let inside = namespace.run(|| NetNs::current().unwrap());
    assert_eq!(&inside, namespace.ns());
    assert_ne!(inside, before);
    assert_eq!(NetNs::current().unwrap(), before);
}

#[test]
fn a_panic_inside_is_an_error_and_harms_nothing() {
    let namespace = Namespace::new();
    let error = namespace.ns().run(|| panic!("inside")).unwrap_err();
    assert!(matches!(&error, NetNsError::Panicked { message, .. } if message == "inside"));
    assert!(error.to_string().contains(&namespace.name), "{error}");
    assert_eq!(namespace.run(|| 1), 1);
}

#[test]
fn many_threads_in_many_namespaces_do_not_mix() {
    let namespaces: Vec<Namespace> = (0..4).map(|_| Namespace::new()).collect();
    thread::scope(|scope| {
        for namespace in &namespaces {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let id = namespace.run(|| NetNs::current().unwrap().id());
                        assert_eq!(id, namespace.ns().id());
                    }
                });
            }
        }
    });
}

#[test]
fn a_deleted_namespace_is_not_found_and_an_open_one_still_works() {
    let namespace = Namespace::new();
    let path = format!("/run/netns/{}", namespace.name);
    let open = NetNs::open(Path::new(&path)).unwrap();
    drop(namespace);
    assert!(matches!(
        NetNs::open(Path::new(&path)),
        Err(NetNsError::NotFound { .. })
    ));
    assert_eq!(
        open.run(|| NetNs::current().unwrap().id()).unwrap(),
        open.id()
    );
}

#[test]
fn an_unmounted_namespace_is_told_from_an_open_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = NetNs::open(file.path()).unwrap_err();
    assert!(error.to_string().contains("an empty file"), "{error}");
}
