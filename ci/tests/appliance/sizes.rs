//! How large the images are.

use std::fs;

use crate::images::{ARCHES, image};

/// Bytes of a stripped image at most.
const LARGEST: u64 = 256 << 10;

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn a_stripped_image_has_at_most_256_kib() {
    let mut too_large = Vec::new();
    for arch in ARCHES {
        let image = image(arch);
        println!("{image}");
        let file = fs::metadata(&image.stripped).unwrap().len();
        assert_eq!(file, image.sizes.stripped, "{arch}");
        if file > LARGEST {
            too_large.push(format!("{image}"));
        }
    }
    assert!(too_large.is_empty(), "more than {LARGEST}: {too_large:?}");
}
