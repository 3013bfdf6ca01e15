//! Tokens as attackers and clumsy issuers make them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::config::{Config, Secret};
use crate::domain::TenantId;

// Made with `openssl genpkey -algorithm ed25519` for these tests.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIKqCf8I9GP4NpU6AfIECT7ZlS1PqYUoZ7lOgBJpNy4Kv\n-----END PRIVATE KEY-----";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6KWE+0Pzu0knwC8/aXYHt/2GV7QDndZupUKVrgsofbU=\n-----END PUBLIC KEY-----";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1_000;

fn tenant(jwt: &str) -> Tenant {
    let config = Config::from_toml(&format!("[tenants.acme.jwt]\n{jwt}"), &|_| None).unwrap();
    let (id, tenant) = config.tenants.first_key_value().unwrap();
    Tenant::new(id.clone(), tenant)
}

/// A tenant with an HS256 key without `kid` and an EdDSA key `ed`, for issuer `iss` and audience `aud`.
fn strict() -> Tenant {
    tenant(&format!(
        "issuer = 'iss'\naudience = 'aud'\nleeway_s = 10\nkeys = [{{ algorithm = 'HS256', secret = '{SECRET}' }}, \
         {{ kid = 'ed', algorithm = 'EdDSA', public_key = '''{PUBLIC}''' }}]"
    ))
}

/// A tenant that looks at the key and the user only.
fn lax() -> Tenant {
    tenant(&format!("require_expiry = false\nkeys = [{{ algorithm = 'HS256', secret = '{SECRET}' }}]"))
}

fn good() -> Value {
    json!({ "sub": "alice", "iss": "iss", "aud": "aud", "exp": NOW_S + 60 })
}

/// The good claims with one changed; `null` takes it away.
fn with(claim: &str, value: Value) -> Value {
    let mut claims = good();
    claims[claim] = value;
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn hs256(claims: &Value) -> String {
    sign(&SigningKey::Hs256(Secret::new(SECRET)), None, claims.as_object().unwrap())
}

fn eddsa(claims: &Value) -> String {
    sign(&SigningKey::from_ed25519_pem(PRIVATE).unwrap(), Some("ed"), claims.as_object().unwrap())
}

fn refused(token: &str) -> AuthError {
    authenticate(&strict(), Some(token), NOW_MS).unwrap_err()
}

/// A token with a header of one's own and any signature.
fn forged(header: Value, signature: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (header, claims) = (header.to_string(), good().to_string());
    format!("{}.{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()), encode(signature))
}

#[test]
fn good_tokens_of_both_algorithms_are_accepted() {
    for token in [hs256(&good()), eddsa(&good())] {
        let identity = authenticate(&strict(), Some(&token), NOW_MS).unwrap();
        assert_eq!(identity.user, UserId::parse("alice").unwrap());
        assert_eq!((identity.class, identity.channels), (None, None));
        assert_eq!(identity.expires_ms, Some(NOW_MS + 70_000));
        assert_eq!(identity.token_hash, sha256(token.as_bytes()));
    }
}

/// Made with Python's `hmac` and `base64`.
#[test]
fn tokens_of_another_implementation_are_understood() {
    let token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiAiem_DqyIsICJleHAiOiA0MTAyNDQ0ODAwfQ.\
        gJEIPY8MbNZp360nWnP7r_1RJKfYs-gJtHicQwAVmoQ";
    let identity = authenticate(&lax(), Some(token), NOW_MS).unwrap();
    assert_eq!(identity.user.as_str(), "zoë");
}

#[test]
fn a_token_without_algorithm_is_refused() {
    for alg in ["none", "None", "NONE", ""] {
        let token = forged(json!({ "alg": alg }), b"");
        assert_eq!(refused(&token), AuthError::WrongAlgorithm { expected: "HS256" }, "{alg}");
        let token = forged(json!({ "alg": alg, "kid": "ed" }), b"");
        assert_eq!(refused(&token), AuthError::WrongAlgorithm { expected: "EdDSA" }, "{alg}");
    }
    assert!(matches!(refused(&forged(json!({}), b"")), AuthError::Malformed(_)));
}

/// Whoever knows the public key signs with it as if it were an HMAC secret.
#[test]
fn a_public_key_is_no_secret() {
    let raw = strict().jwt.unwrap().keys.into_iter().find_map(|key| match key.material {
        crate::config::KeyMaterial::EdDsa(public) => Some(public),
        crate::config::KeyMaterial::Hs256(_) => None,
    });
    for secret in [PUBLIC.as_bytes(), PUBLIC.trim().as_bytes(), &raw.unwrap()] {
        let header = json!({ "alg": "HS256", "kid": "ed" });
        let unsigned = forged(header, b"");
        let signed = unsigned.trim_end_matches('.');
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
        let error = refused(&format!("{signed}.{signature}"));
        assert_eq!(error, AuthError::WrongAlgorithm { expected: "EdDSA" });
        let signed = forged(json!({ "alg": "EdDSA", "kid": "ed" }), signature.as_bytes());
        assert_eq!(refused(&signed), AuthError::BadSignature);
    }
}

#[test]
fn a_changed_token_is_refused() {
    for token in [hs256(&good()), eddsa(&good())] {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let claims = URL_SAFE_NO_PAD.encode(with("sub", json!("bob")).to_string());
        assert_eq!(refused(&format!("{header}.{claims}.{signature}")), AuthError::BadSignature);
        assert_eq!(refused(&format!("{signed}.")), AuthError::BadSignature);
        let short = &signature[..signature.len() - 4];
        assert!(matches!(
            refused(&format!("{signed}.{short}")),
            AuthError::BadSignature | AuthError::Malformed(_)
        ));
    }
    let other = SigningKey::Hs256(Secret::new("another secret of enough characters!"));
    assert_eq!(refused(&sign(&other, None, good().as_object().unwrap())), AuthError::BadSignature);
}

#[test]
fn the_kid_selects_the_key() {
    let claims = good();
    let claims = claims.as_object().unwrap();
    let secret = SigningKey::Hs256(Secret::new(SECRET));
    assert_eq!(refused(&sign(&secret, Some("who"), claims)), AuthError::UnknownKey);
    assert_eq!(refused(&sign(&secret, Some("ed"), claims)), AuthError::WrongAlgorithm { expected: "EdDSA" });
    let pair = SigningKey::from_ed25519_pem(PRIVATE).unwrap();
    assert_eq!(refused(&sign(&pair, None, claims)), AuthError::WrongAlgorithm { expected: "HS256" });
    let named = tenant(&format!("keys = [{{ kid = 'a', algorithm = 'HS256', secret = '{SECRET}' }}]"));
    let error = authenticate(&named, Some(&hs256(&good())), NOW_MS).unwrap_err();
    assert_eq!(error, AuthError::UnknownKey);
}

#[test]
fn issuer_and_audience_must_fit() {
    for (claim, value) in [("iss", json!("else")), ("iss", json!(null)), ("iss", json!(["iss"]))] {
        assert_eq!(refused(&hs256(&with(claim, value))), AuthError::WrongIssuer);
    }
    for value in [json!("else"), json!(null), json!([]), json!(["a", 1]), json!({ "aud": 1 })] {
        assert_eq!(refused(&hs256(&with("aud", value))), AuthError::WrongAudience);
    }
    let several = hs256(&with("aud", json!(["else", "aud"])));
    assert!(authenticate(&strict(), Some(&several), NOW_MS).is_ok());
    let unexpected = hs256(&json!({ "sub": "a", "aud": "aud" }));
    assert_eq!(authenticate(&lax(), Some(&unexpected), NOW_MS), Err(AuthError::WrongAudience));
}

#[test]
fn times_are_held_with_leeway() {
    let at = |claims: &Value, now_ms| authenticate(&strict(), Some(&hs256(claims)), now_ms);
    let expiring = with("exp", json!(NOW_S));
    assert!(at(&expiring, NOW_MS + 9_999).is_ok());
    assert_eq!(at(&expiring, NOW_MS + 10_000), Err(AuthError::Expired));
    assert_eq!(AuthError::Expired.close_reason(), CloseReason::TokenExpired);
    let early = with("nbf", json!(NOW_S + 11));
    assert_eq!(at(&early, NOW_MS), Err(AuthError::NotYetValid));
    assert!(at(&early, NOW_MS + 1_000).is_ok());
    assert_eq!(at(&with("exp", json!(null)), NOW_MS), Err(AuthError::NoExpiry));
    assert_eq!(at(&with("exp", json!(-5.5)), NOW_MS), Err(AuthError::Expired));
    assert_eq!(at(&with("exp", json!(1e300)), NOW_MS).unwrap().expires_ms, Some(u64::MAX));
    assert!(matches!(at(&with("exp", json!("soon")), NOW_MS), Err(AuthError::BadClaim { .. })));
    let eternal = authenticate(&lax(), Some(&hs256(&json!({ "sub": "a" }))), NOW_MS).unwrap();
    assert_eq!(eternal.expires_ms, None);
}

#[test]
fn what_is_no_token_is_refused() {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let crit = forged(json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), b"");
    for bad in ["x", ".", "..", "...", "a.b.c", &format!("{header}.x"), &format!("{header}.e30.!"), &crit] {
        assert!(matches!(refused(bad), AuthError::Malformed(_)), "{bad}");
    }
    assert_eq!(refused(&"a".repeat(MAX_TOKEN_BYTES + 1)), AuthError::TooLong);
    // Five parts are an encrypted token.
    let five = format!("{header}.a.b.c.d");
    assert!(matches!(refused(&five), AuthError::Malformed(_) | AuthError::BadSignature));
}

#[test]
fn claims_that_make_no_sense_are_refused() {
    let error = |claims: Value| authenticate(&lax(), Some(&hs256(&claims)), NOW_MS).unwrap_err();
    assert!(matches!(error(json!({})), AuthError::BadClaim { .. }));
    assert!(matches!(error(json!({ "sub": 1.5 })), AuthError::BadClaim { .. }));
    assert!(matches!(error(json!({ "sub": "" })), AuthError::BadUser(_)));
    assert!(matches!(error(json!({ "sub": "a", "class": 1 })), AuthError::BadClaim { .. }));
    for channels in [json!(null), json!("room:1"), json!([1]), json!(vec!["a:b"; 257])] {
        assert!(matches!(error(json!({ "sub": "a", "channels": channels })), AuthError::BadClaim { .. }));
    }
    assert!(matches!(error(json!({ "sub": "a", "channels": ["*"] })), AuthError::BadPattern(_)));
}

#[test]
fn the_user_may_stand_in_another_claim() {
    let tenant = tenant(&format!(
        "user_claim = 'uid'\nrequire_expiry = false\nkeys = [{{ algorithm = 'HS256', secret = '{SECRET}' }}]"
    ));
    let token = hs256(&json!({ "sub": "service", "uid": 42, "class": "staff" }));
    let identity = authenticate(&tenant, Some(&token), NOW_MS).unwrap();
    assert_eq!((identity.user.as_str(), identity.class.as_deref()), ("42", Some("staff")));
}

#[test]
fn anonymous_clients_are_let_in_where_the_tenant_says_so() {
    assert_eq!(authenticate(&strict(), None, NOW_MS), Err(AuthError::Missing));
    assert_eq!(authenticate(&strict(), Some(""), NOW_MS), Err(AuthError::Missing));
    let config = Config::from_toml("[tenants.a]\nanonymous = true", &|_| None).unwrap();
    let tenant = Tenant::new(TenantId::parse("a").unwrap(), config.tenants.values().next().unwrap());
    let (one, two) = (authenticate(&tenant, None, 0).unwrap(), authenticate(&tenant, None, 0).unwrap());
    assert!(one.user.as_str().starts_with("anon-") && one.user != two.user);
    assert_eq!(authenticate(&tenant, Some(&hs256(&good())), NOW_MS), Err(AuthError::NotTaken));
}

#[test]
fn errors_contain_nothing_of_key_and_token() {
    let token = hs256(&with("aud", json!("sesame")));
    let text = format!("{0} {0:?}", refused(&token));
    assert!(!text.contains("sesame") && !text.contains(SECRET), "{text}");
}

fn identity(claims: Value) -> Identity {
    authenticate(&lax(), Some(&hs256(&claims)), NOW_MS).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

#[test]
fn personal_channels_are_personal() {
    let rules = NamespaceRules::personal();
    let claims = json!({ "sub": "a b", "channels": ["user:bob", "user:*", "room:1"] });
    for identity in [identity(claims), identity(json!({ "sub": "a b" }))] {
        assert!(identity.may_subscribe(&rules, &channel("user:a%20b")));
        assert!(!identity.may_subscribe(&rules, &channel("user:bob")));
        assert!(!identity.may_subscribe(&rules, &channel("user:a%20b2")));
    }
}

#[test]
fn the_channels_claim_opens_what_is_listed_and_closes_the_rest() {
    let open = NamespaceRules::log("room");
    let listed = NamespaceRules { subscribe: SubscribeRight::Listed, ..open.clone() };
    let plain = identity(json!({ "sub": "a" }));
    assert!(plain.may_subscribe(&open, &channel("room:2")));
    assert!(!plain.may_subscribe(&listed, &channel("room:2")));
    let some = identity(json!({ "sub": "a", "channels": ["room:1", "room:team-*"] }));
    for rules in [&open, &listed] {
        assert!(some.may_subscribe(rules, &channel("room:1")));
        assert!(some.may_subscribe(rules, &channel("room:team-7")));
        assert!(!some.may_subscribe(rules, &channel("room:2")));
    }
    let none = identity(json!({ "sub": "a", "channels": [] }));
    assert!(!none.may_subscribe(&open, &channel("room:1")));
}

#[test]
fn publishing_needs_the_right_and_the_listing() {
    let rules = |publish| NamespaceRules { publish, ..NamespaceRules::log("room") };
    let plain = identity(json!({ "sub": "a" }));
    let room = channel("room:1");
    assert!(!plain.may_publish(&rules(PublishRight::Nobody), &room, true));
    assert!(plain.may_publish(&rules(PublishRight::Subscribers), &room, true));
    assert!(!plain.may_publish(&rules(PublishRight::Subscribers), &room, false));
    assert!(plain.may_publish(&rules(PublishRight::Anyone), &room, false));
    let elsewhere = identity(json!({ "sub": "a", "channels": ["room:2"] }));
    assert!(!elsewhere.may_publish(&rules(PublishRight::Anyone), &room, false));
    assert!(elsewhere.may_publish(&rules(PublishRight::Anyone), &channel("room:2"), false));
    let own = NamespaceRules { publish: PublishRight::Anyone, ..NamespaceRules::personal() };
    assert!(elsewhere.may_publish(&own, &channel("user:a"), true));
    assert!(!elsewhere.may_publish(&own, &channel("user:b"), false));
}
