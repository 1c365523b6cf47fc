//! References to images, which people type and documents of registries name.

use model::{
    ImageName,
    reference::{ImageChoice, ImageReference},
};

/// A text is a name of the store or a reference, not both; and what is shown of a reference means the same, and cannot mean
/// more in a URL or a header.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match ImageChoice::try_from(text) {
        Ok(ImageChoice::Stored(name)) => {
            assert_eq!(name.as_str(), text);
            assert!(!text.contains(['/', ':', '@']), "a name of the store could be a path or a reference");
        }
        Ok(ImageChoice::Remote(_)) => {
            assert!(ImageName::try_from(text).is_err(), "it is a name of the store too")
        }
        Err(error) => assert!(error.to_string().len() < 1024),
    }
    let Ok(reference) = ImageReference::try_from(text) else { return };
    let shown = reference.to_string();
    let again =
        ImageReference::try_from(&*shown).unwrap_or_else(|e| panic!("{shown:?} is no reference: {e}"));
    assert_eq!(again.to_string(), shown);
    for part in [ImageReference::host, ImageReference::path, ImageReference::version] {
        assert_eq!(part(&again), part(&reference), "{shown}");
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"._-:/".contains(&b);
        assert!(part(&reference).bytes().all(harmless), "{shown}");
    }
    assert_eq!(again.digest(), reference.digest());
    assert_eq!(again.is_loopback(), reference.is_loopback());
    assert!(reference.path().split('/').all(|part| !matches!(part, "" | "." | "..")), "{shown}");
    assert!(!reference.version().contains('/'), "{shown}");
    // A name that is proposed for the store is one.
    if let Some(name) = reference.image_name() {
        assert_eq!(ImageName::try_from(name.as_str()).as_ref(), Ok(&name));
    }
}
