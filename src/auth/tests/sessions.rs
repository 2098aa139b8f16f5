//! Session tokens: a user, a channel, and a time that may be a string of digits.

use super::*;

fn session(claims: &Value) -> Result<SessionGrant, AuthError> {
    keys(SECRET, None).verify_session(&signed(claims), NOW_S)
}

fn session_of(user: &str, channel: &str) -> Result<SessionGrant, AuthError> {
    session(&json!({"userId": user, "channel": channel, "exp": NOW_S + 60}))
}

#[test]
fn a_session_token_says_who_and_where() {
    let grant = session_of("alex", "chat").unwrap();
    assert_eq!((grant.session.user(), grant.session.channel()), ("alex", "chat"));
    assert_eq!(grant.expires_s, NOW_S + 60);
    // Claims that are ignored here, as an identity provider adds them.
    let more = json!({
        "userId": "alex", "channel": "chat", "exp": NOW_S + 60,
        "sub": 7, "topics": {"a": 1}, "aud": ["x"], "iss": "y", "iat": 1, "userid": 5, "Channel": null
    });
    assert_eq!(session(&more), Ok(grant));
}

#[test]
fn a_name_is_any_text_of_1_to_128_bytes() {
    let longest = "x".repeat(128);
    let emoji = "🦀".repeat(32);
    for name in ["a", "*", "a/b", " ", "a b*c", "\0", "\u{1f}\n\r", "\"\\", "é", &longest, &emoji] {
        let grant = session_of(name, name).unwrap();
        assert_eq!((grant.session.user(), grant.session.channel()), (name, name));
    }
    // Escaped in the JSON; one is a lone surrogate, which is no text.
    let escaped = |name: &str| {
        let claims = format!(r#"{{"userId":"{name}","channel":"c","exp":{}}}"#, NOW_S + 60);
        keys(SECRET, None).verify_session(&signed_text(HEADER, &claims), NOW_S)
    };
    assert_eq!(escaped(r"\u0061\u0000").unwrap().session.user(), "a\0");
    assert_eq!(escaped(r"\ud83e\udd80").unwrap().session.user(), "🦀");
    assert_eq!(escaped(r"\ud83e"), Err(AuthError::Malformed));
    assert_eq!(escaped("\n"), Err(AuthError::Malformed));
}

#[test]
fn a_claim_that_is_missing_or_wrong_is_named() {
    let long = "x".repeat(129);
    for (claims, expected) in [
        (json!({"channel": "c"}), "token without userId: a session token has userId, channel and exp"),
        (json!({"userId": "u"}), "token without channel: a session token has userId, channel and exp"),
        (json!({"sub": "u"}), "token without userId: a session token has userId, channel and exp"),
        (json!({"userId": 7, "channel": "c"}), "userId of the token is not a string: write it in quotes"),
        (json!({"userId": null, "channel": "c"}), "userId of the token is not a string: write it in quotes"),
        (json!({"userId": ["u"], "channel": "c"}), "userId of the token is not a string: write it in quotes"),
        (json!({"userId": "u", "channel": {}}), "channel of the token is not a string: write it in quotes"),
        (json!({"userId": "", "channel": "c"}), "bad session token: userId has 0 bytes: write 1 to 128"),
        (json!({"userId": long, "channel": "c"}), "bad session token: userId has 129 bytes: write 1 to 128"),
        (json!({"userId": "u", "channel": ""}), "bad session token: channel has 0 bytes: write 1 to 128"),
        (json!({"userId": "u", "channel": long}), "bad session token: channel has 129 bytes: write 1 to 128"),
        // 129 bytes, and fewer characters.
        (
            json!({"userId": "u", "channel": format!("x{}", "🦀".repeat(32))}),
            "bad session token: channel has 129 bytes: write 1 to 128",
        ),
    ] {
        let mut claims = claims;
        claims["exp"] = json!(NOW_S + 60);
        assert_eq!(session(&claims).unwrap_err().to_string(), expected, "{claims}");
    }
}

#[test]
fn exp_is_a_whole_number_or_a_string_of_digits() {
    let bad = Err(AuthError::Time { claim: "exp" });
    for (exp, expected) in [
        (json!(NOW_S + 60), Ok(NOW_S + 60)),
        (json!((NOW_S + 60).to_string()), Ok(NOW_S + 60)),
        (json!(format!("000{}", NOW_S + 60)), Ok(NOW_S + 60)),
        (json!(u64::MAX.to_string()), Ok(u64::MAX)),
        (json!((NOW_S + 1).to_string()), Ok(NOW_S + 1)),
        (json!(NOW_S.to_string()), Err(AuthError::Expired)),
        (json!("0"), Err(AuthError::Expired)),
        (json!(NOW_S), Err(AuthError::Expired)),
        (json!("18446744073709551616"), bad),
        (json!(""), bad),
        (json!(" 1800000000"), bad),
        (json!("1800000000 "), bad),
        (json!("+1800000000"), bad),
        (json!("-1800000000"), bad),
        (json!("1800000000.0"), bad),
        (json!("1.8e9"), bad),
        (json!("0x7fffffff"), bad),
        (json!("１８００００００００"), bad),
        (json!("expiretimestamp"), bad),
        (json!(1.8e9), Ok(1_800_000_000)),
        (json!(-1), bad),
        (json!(null), bad),
        (json!(true), bad),
        (json!([1_800_000_000]), bad),
    ] {
        let claims = json!({"userId": "u", "channel": "c", "exp": exp});
        let outcome = session(&claims).map(|grant| grant.expires_s);
        // The library itself fails on an array.
        if exp.is_array() {
            assert!(outcome.is_err())
        } else {
            assert_eq!(outcome, expected, "{claims}")
        }
        // For other tokens a string is no number.
        if exp.is_string() {
            let claims = json!({"sub": "abcdef123", "exp": exp});
            assert_eq!(verify(&signed(&claims)).map(|grant| grant.expires_s), bad, "{claims}");
        }
    }
    assert_eq!(session(&json!({"userId": "u", "channel": "c"})), Err(AuthError::NoExpiry));
    // `nbf` must be a number, as everywhere.
    for (nbf, expected) in [
        (json!(NOW_S), None),
        (json!(NOW_S + 1), Some(AuthError::NotYet)),
        (json!(NOW_S.to_string()), Some(AuthError::Time { claim: "nbf" })),
    ] {
        let claims = json!({"userId": "u", "channel": "c", "exp": (NOW_S + 60).to_string(), "nbf": nbf});
        assert_eq!(session(&claims).err(), expected, "{claims}");
    }
}

#[test]
fn a_claim_that_stands_twice_is_refused() {
    let exp = NOW_S + 60;
    for claims in [
        format!(r#"{{"userId":"a","userId":"b","channel":"c","exp":{exp}}}"#),
        format!(r#"{{"userId":"a","channel":"c","channel":"c","exp":{exp}}}"#),
        format!(r#"{{"userId":"a","channel":"c","exp":{exp},"exp":{exp}}}"#),
        format!(r#"{{"userId":"a","\u0075serId":"b","channel":"c","exp":{exp}}}"#),
        format!(r#"[{exp},"a","c"]"#),
    ] {
        let token = signed_text(HEADER, &claims);
        assert_eq!(keys(SECRET, None).verify_session(&token, NOW_S), Err(AuthError::Malformed), "{claims}");
    }
}

#[test]
fn neither_kind_of_token_passes_for_the_other() {
    let session_token = signed(&json!({"userId": "*", "channel": "abcdef123", "exp": NOW_S + 60}));
    assert!(!verify(&session_token).unwrap().covers(&topic("abcdef123")));
    assert_eq!(session(&json!({"sub": "*", "exp": NOW_S + 60})), Err(AuthError::NoName { claim: "userId" }));
}
