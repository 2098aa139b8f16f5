use super::*;

#[test]
fn a_secret_is_never_printed() {
    let secret = Secret::new("hunter2").unwrap();
    let pair = SecretPair { current: secret.clone(), previous: Some(secret.clone()) };
    assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
    assert!(!format!("{pair:#?}").contains("hunter2"));
    assert_eq!(secret.expose(), b"hunter2");
}

#[test]
fn an_empty_secret_is_none() {
    assert_eq!(Secret::new(""), None);
}
