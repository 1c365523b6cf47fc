//! Pulls from a real registry that wants tokens of a token server.

use testkit::{
    images::Tar,
    oci::{Registry, USER, layout},
    token::{IDENTITY, Issuer, Tokens},
};
use wire::control::{Code, PullImage};

use crate::{
    pull::nothing_is_left,
    pull_hostile::{goods, pull},
    server::{Server, answer},
    world::World,
};

/// A world, and a registry with `open/app`, which everybody may pull, and `closed/app`.
fn scene() -> Option<(World, Issuer, Registry)> {
    let world = World::new();
    let issuer = Issuer::start()?;
    let registry = Registry::start_with_tokens(&issuer)?;
    let dir = world.home().join("layout");
    layout(&dir, "1", &[&Tar::default().directory("etc").finish()], &[], &[])?;
    for name in ["open/app:1", "closed/app:1"] {
        registry.push(&dir, "1", name);
    }
    // What the push wanted.
    let _ = issuer.asked();
    Some((world, issuer, registry))
}

/// Writes what docker and podman keep of the login at `registry`.
fn login(world: &World, registry: &Registry, entry: serde_json::Value) {
    let auths = serde_json::json!({ "auths": { registry.address(): entry } }).to_string();
    host::fs::write_atomic(&world.home().join("auth.json"), auths.as_bytes()).unwrap();
}

/// Pulls `path` as a new image, and removes that again; where it is refused, gives why.
fn try_pull(world: &World, registry: &Registry, path: &str) -> Result<(), (Code, Vec<String>)> {
    let reference = format!("{}/{path}:1", registry.address());
    let pull = PullImage { reference, name: Some("new".to_owned()), ..PullImage::default() };
    let result = world.end(&world.begin_pull(pull));
    nothing_is_left(world);
    world.prepare(&[crate::verb::Verb::PruneCache]);
    if result.is_ok() {
        world.prepare(&[crate::verb::Verb::DeleteImage("new")]);
    }
    result.map(drop).map_err(|error| (error.code, error.causes))
}

#[test]
fn tokens_are_had_with_what_a_login_left_and_without_one() {
    let Some((world, issuer, registry)) = scene() else { return };
    let asked = |who: &str, path: &str| vec![format!("{who} repository:{path}:pull")];
    let check = |path: &str, who: &str| {
        assert_eq!(try_pull(&world, &registry, path), Ok(()));
        assert_eq!(issuer.asked(), asked(who, path), "one token for manifest and blobs");
    };
    let denied = format!("{} does not allow to pull closed/app", registry.address());
    let denied = || Err((Code::Host, vec![denied.clone()]));

    check("open/app", "nobody");
    assert_eq!(try_pull(&world, &registry, "closed/app"), denied());
    assert_eq!(issuer.asked(), asked("nobody", "closed/app"));

    let (user, password) = USER;
    login(&world, &registry, serde_json::json!({ "username": user, "password": password }));
    check("closed/app", "user");
    let auth = model::base64::encode(format!("{user}:{password}").as_bytes());
    login(&world, &registry, serde_json::json!({ "auth": auth }));
    check("closed/app", "user");
    login(&world, &registry, serde_json::json!({ "identitytoken": IDENTITY }));
    check("closed/app", "identity");

    for entry in [
        serde_json::json!({ "username": user, "password": "wrong" }),
        serde_json::json!({ "identitytoken": "wrong" }),
    ] {
        login(&world, &registry, entry);
        assert_eq!(try_pull(&world, &registry, "closed/app"), denied());
        assert_eq!(issuer.asked(), asked("stranger", "closed/app"));
    }
}

#[test]
fn tokens_that_a_registry_does_not_accept_are_told_apart() {
    let Some((world, issuer, registry)) = scene() else { return };
    let host = registry.address();
    let refused = format!("{host} does not accept the token that its token server gave");
    for (tokens, code, cause) in [
        (Tokens::Elsewhere, Code::Host, format!("{host} does not allow to pull open/app")),
        (Tokens::Expired, Code::Refused, refused.clone()),
        (Tokens::Forged, Code::Refused, refused),
    ] {
        issuer.give(tokens);
        assert_eq!(try_pull(&world, &registry, "open/app"), Err((code, vec![cause])), "{tokens:?}");
        assert_eq!(issuer.asked().len(), 1, "{tokens:?}");
    }
    issuer.give(Tokens::Good);
    assert_eq!(try_pull(&world, &registry, "open/app"), Ok(()));
}

#[test]
fn a_token_that_ends_during_a_pull_is_had_anew() {
    let world = World::new();
    let goods = goods();
    let issued = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |asked, stream| {
        use std::sync::atomic::Ordering;
        if asked.path.starts_with("/token?") {
            let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
            return answer(stream, "200 OK", "", format!("{{\"token\":\"{number}\"}}").as_bytes());
        }
        // The first is good for the manifest alone.
        let wanted = if asked.path.contains("/manifests/") { "Bearer 1" } else { "Bearer " };
        let shown = asked.authorization.as_deref().unwrap_or("none");
        if shown.starts_with(wanted) && !(asked.path.contains("/blobs/") && shown == "Bearer 1") {
            return goods.serve(asked, stream);
        }
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"\r\n", asked.host);
        answer(stream, "401 Unauthorized", &challenge, b"")
    });
    world.end(&world.begin_pull(pull(&server))).unwrap();
    // Both blobs may have found out at once.
    assert!((2..=3).contains(&server.asked("/token?")), "{:?}", server.log.lock().unwrap());
}
