use super::*;

#[test]
fn a_forged_token_is_refused() {
    let token = signed(&good());
    let parts: Vec<&str> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let other = base64(json!({"exp": NOW_S + 9999, "sub": "abcdef123"}).to_string().as_bytes());
    let with_header = |header: &str| format!("{}.{payload}.{signature}", base64(header.as_bytes()));
    let mut flipped = signature.to_owned();
    flipped.replace_range(..1, if signature.starts_with('A') { "B" } else { "A" });
    let keys = keys(SECRET, None);
    let algorithm = AuthError::Algorithm(keys.algorithms);
    for (token, error) in [
        (signed_by("another secret", &Header::default(), &good()), AuthError::Signature),
        (signed_by("", &Header::default(), &good()), AuthError::Signature),
        (format!("{header}.{other}.{signature}"), AuthError::Signature),
        (format!("{header}.{payload}.{flipped}"), AuthError::Signature),
        (format!("{header}.{payload}."), AuthError::Signature),
        (format!("{header}.{payload}.{}", &signature[..20]), AuthError::Signature),
        (with_header(r#"{"alg":"HS256"}"#), AuthError::Signature),
        (with_header(r#"{"alg":"none"}"#), algorithm),
        (format!("{}.{payload}.", base64(br#"{"alg":"none"}"#)), algorithm),
        (with_header(r#"{"alg":"None"}"#), algorithm),
        (with_header(r#"{"alg":"hs256"}"#), algorithm),
        (with_header(r#"{"alg":"RS256"}"#), algorithm),
        (with_header(r#"{"alg":"ES256"}"#), algorithm),
        (with_header(r#"{"alg":5}"#), AuthError::Malformed),
        (with_header(r#"{"typ":"JWT"}"#), algorithm),
        (with_header("[]"), AuthError::Malformed),
        (with_header(r#"["HS256",null,false]"#), AuthError::Malformed),
        (with_header("null"), AuthError::Malformed),
        (with_header(r#"{"alg":"none","alg":"HS256"}"#), AuthError::Malformed),
        (with_header(r#"{"alg":"HS256","\u0061lg":"none"}"#), AuthError::Malformed),
        (with_header(r#"{"alg":"HS256","kid":"a","kid":"b"}"#), AuthError::Malformed),
        (with_header(r#"{"alg":"HS256","kid":7}"#), AuthError::Malformed),
        (with_header(r#"{"alg":["HS256"]}"#), AuthError::Malformed),
        (with_header("alg: HS256"), AuthError::Malformed),
        (signed_text(r#"{"alg":"none"}"#, &good().to_string()), algorithm),
        (signed_by("another secret", &Header::new(Algorithm::HS384), &good()), AuthError::Signature),
        (signed_by("another secret", &Header::new(Algorithm::HS512), &good()), AuthError::Signature),
        (signed_text(r#"{"alg":"HS256","crit":["exp"]}"#, &good().to_string()), AuthError::Critical),
        (signed_text(r#"{"alg":"HS256","crit":[]}"#, &good().to_string()), AuthError::Critical),
        (signed_text(r#"{"alg":"HS256","crit":null}"#, &good().to_string()), AuthError::Critical),
    ] {
        assert_eq!(refusal(&keys, &token), Some(error), "{token}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let token = signed(&good());
    let keys = keys(SECRET, None);
    let (message, signature) = token.rsplit_once('.').unwrap();
    // The last character of 32 bytes holds two unused bits, which are zero.
    let spare_bit = format!("{message}.{}{}", &signature[..42], char::from(signature.as_bytes()[42] + 1));
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "abc".into(),
        "a.b".into(),
        "é.é.é".into(),
        token.replacen('.', "..", 1),
        token.replacen('.', "", 1),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.x"),
        format!("{token}="),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}+/"),
        format!("{token}\n"),
        format!("{token}\0"),
        token.replace('.', ". "),
        token.replace('.', ".\n"),
        format!("{token}.{signature}"),
        format!("{token}.."),
        format!("{message}..{signature}"),
        message.to_owned(),
        spare_bit,
        signed_text(HEADER, ""),
        signed_text(HEADER, "[]"),
        signed_text(HEADER, &format!("[{},null,\"abcdef123\"]", NOW_S + 60)),
        signed_text(HEADER, "7"),
        signed_text(HEADER, "{\"exp\":"),
        signed_text(HEADER, &format!("{{\"exp\":1,\"exp\":{}}}", NOW_S + 60)),
    ] {
        assert_eq!(refusal(&keys, &bad), Some(AuthError::Malformed), "{bad}");
    }
}
